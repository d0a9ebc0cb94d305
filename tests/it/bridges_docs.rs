//! The pages on webhooks and Odoo, as they stand: each definition with the request below it, and the code for Odoo.

use std::process::Command;

use omnilink::{
    base::{
        clock::{Clock, SystemClock},
        id::Tenant,
    },
    bridges::Shape,
};
use serde_json::{Value, json};

use crate::{
    bridges::{Header, NOW, code, headers, received, send_at, shown, source},
    support::pages::{blocks, has},
};

/// What `curl` was told to send.
fn request(arguments: &[String]) -> (Vec<Header>, Vec<u8>) {
    let mut headers = Vec::new();
    let mut body = Vec::new();
    for pair in arguments.windows(2) {
        match &*pair[0] {
            "-H" => {
                let (name, value) = pair[1].split_once(": ").unwrap();
                headers.push((name.to_owned(), value.as_bytes().to_vec()));
            }
            "--data-binary" => body = pair[1].as_bytes().to_vec(),
            _ => {}
        }
    }
    (headers, body)
}

fn output(program: &str, arguments: &[&str]) -> String {
    let run = Command::new(program).args(arguments).output().unwrap();
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    String::from_utf8(run.stdout).unwrap()
}

#[test]
fn what_openssl_signs_in_the_page_is_taken() {
    if !has("openssl", &["version"]) {
        return;
    }
    let page = std::fs::read_to_string("docs/webhooks.md").unwrap();
    let sections = page
        .lines()
        .filter(|line| line.starts_with("## ") || line.starts_with("### "));
    let mut types = Vec::new();
    for section in sections {
        let blocks = blocks("docs/webhooks.md", section);
        // A small section goes on up to the next small one.
        let own = if section.starts_with("### ") {
            2
        } else {
            blocks.len()
        };
        let [(json, definition), (sh, script)] = &blocks[..own] else {
            continue;
        };
        if json == "yaml" {
            continue;
        }
        assert_eq!((&**json, &**sh), ("json", "sh"), "{section}");
        let source = source(&serde_json::from_str(definition).unwrap());
        let shell = format!("set -euo pipefail\ncurl() {{ printf '%s\\0' \"$@\"; }}\n{script}");
        let printed = output("bash", &["-c", &shell]);
        let arguments: Vec<_> = printed.split('\0').map(str::to_owned).collect();
        let path = arguments[0].strip_prefix("http://127.0.0.1:7700").unwrap();
        let expected = if source.dialect.signs() {
            format!("/v1/webhooks/acme/{}", source.name)
        } else {
            "/v1/hooks/TOKEN".into()
        };
        assert_eq!(path, expected);
        let (headers, body) = request(&arguments);
        let got = received(send_at(&source, &headers, &body, SystemClock.now().0));
        types.push(shown(&got)["type"].as_str().unwrap().to_owned());
    }
    assert_eq!(
        types,
        [
            "github.issues.opened",
            "stripe.charge.succeeded",
            "invoice.paid",
            "expense.submitted",
            "asset.reserved",
            "odoo.sale.order.order_confirmed",
            "ADDRESS_ACTIVITY",
            "shopify.orders.create",
            "app_mention",
            "asset.overdue",
        ]
    );
}

#[test]
fn shapes_in_the_page_pass_their_tests() {
    let tenant = Tenant::new("acme").unwrap();
    let mut count = 0;
    for (language, text) in blocks("docs/webhooks.md", "## Shapes in files") {
        assert_eq!(language, "yaml");
        let shape = Shape::parse(&text).unwrap_or_else(|faults| panic!("{faults:#?}"));
        for tried in shape.run(&tenant) {
            assert!(tried.differences.is_empty(), "{tried:#?}");
            count += 1;
        }
        // Without a secret nothing is good.
        let signed = headers(&[
            ("x-ipai-signature", "x"),
            ("x-slack-signature", "v0=x"),
            ("x-ipai-timestamp", "1700000000"),
            ("x-slack-request-timestamp", "1700000000"),
        ]);
        let outcome = send_at(&shape.source, &signed, b"{}", NOW);
        assert_eq!(code(outcome), "401 invalid_signature");
    }
    assert_eq!(count, 5);
}

#[test]
fn a_shape_that_is_none_and_a_test_that_fails_are_told() {
    let text = "{ name: a, dialect: ipai-body, tests: [ { name: t, given: { body: { event_type: a, aggregate_type: b, aggregate_id: 1 } }, \
        then: { type: x, entity: { external_id: '1' }, data: { n: 1 } } } ] }";
    let tried = Shape::parse(text)
        .unwrap()
        .run(&Tenant::new("acme").unwrap());
    let mut differences = tried[0].differences.clone();
    differences.sort();
    assert_eq!(
        differences,
        [
            "/data/n: expected 1, got null",
            r#"/type: expected "x", got "a""#
        ]
    );
    for bad in [
        "name: a",
        "[",
        "{ name: a, dialect: ipai, secrets: [x] }",
        "{ name: a, dialect: ipai, mapping: '.a = nope(1)' }",
    ] {
        assert_eq!(Shape::parse(bad).unwrap_err().len(), 1, "{bad}");
    }
}

/// What stands in for Odoo: an environment, a record, and `requests` that sends nothing.
const ODOO: &str = r#"
import datetime, json, sys, types
from types import SimpleNamespace as Of
addon, action = sys.argv[1:]
sent = []
def post(url, data, headers, timeout):
    sent.append({"url": url, "body": data.decode(), "headers": headers, "timeout": timeout})
    return Of(raise_for_status=lambda: None)
sys.modules["requests"] = Of(post=post, exceptions=Of(RequestException=IOError))
sys.modules["odoo"] = Of(api=Of(model=lambda method: method), models=Of(AbstractModel=object))
names = {"__name__": "omnilink_bridge"}
exec(addon, names)
commit = []
settings = {"omnilink.url": "https://omnilink.example/v1/webhooks/default/odoo", "omnilink.secret": "THE SECRET"}
class Env(dict):
    cr = Of(postcommit=Of(add=commit.append))
bridge = names["OmniLinkBridge"]()
parameters = Of(get_param=settings.get)
bridge.env = Env({"ir.config_parameter": Of(sudo=lambda: parameters)})
record = Of(_name="hr.expense", id=57, name="Zo\u00eb's taxi", total_amount=12.5, employee_id=Of(name="Zo\u00eb"),
            write_date=datetime.datetime(2024, 5, 3, 10, 15, 2, 351842))
exec(action, {"env": {"omnilink.bridge": bridge}, "records": [record]})
assert not sent
for done in commit: done()
print(json.dumps(sent))
"#;

/// The request that the add-on and the action of the page send; `None` without Python.
pub fn sent_by_odoo() -> Option<Value> {
    if !has("python3", &["--version"]) {
        return None;
    }
    let of = |section: &str, language: &str| {
        let blocks = blocks("docs/odoo.md", section);
        let found = blocks.into_iter().find(|(is, _)| is == language);
        found
            .unwrap_or_else(|| panic!("{section} has no {language}"))
            .1
    };
    let (addon, action) = (
        of("### The add-on", "python"),
        of("### The action", "python"),
    );
    // `safe_eval` imports nothing, and lets no name with two underscores through.
    assert!(!action.contains("import") && !action.contains("__"));
    let sent: Value =
        serde_json::from_str(&output("python3", &["-c", ODOO, &addon, &action])).unwrap();
    let [sent] = &sent.as_array().unwrap()[..] else {
        panic!("{sent}")
    };
    Some(sent.clone())
}

#[test]
fn the_add_on_and_the_action_for_odoo_sign_as_ipai() {
    let Some(sent) = sent_by_odoo() else { return };
    let section = "### The source and the settings";
    let blocks = blocks("docs/odoo.md", section);
    let (_, definition) = blocks.iter().find(|(is, _)| is == "json").unwrap();
    let odoo = source(&serde_json::from_str(definition).unwrap());
    let headers: Vec<Header> = sent["headers"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap().as_bytes().to_vec()))
        .collect();
    let body = sent["body"].as_str().unwrap();
    let got = received(send_at(
        &odoo,
        &headers,
        body.as_bytes(),
        SystemClock.now().0,
    ));
    assert_eq!(
        shown(&got),
        json!({ "id": "expense-57-submitted-2024-05-03 10:15:02.351842", "source": "/webhooks/acme/odoo", "type": "expense.submitted",
            "entity": ["hr.expense", "57", null], "data": { "name": "Zoë's taxi", "total": 12.5, "employee": "Zoë" } })
    );
}
