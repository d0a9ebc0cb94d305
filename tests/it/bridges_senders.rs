//! What real senders send: GitHub's bodies of 60 event types, and the requests of Odoo 17, 18 and 19, byte for byte.

use std::{collections::BTreeMap, fs, path::PathBuf};

use omnilink::bridges::{Source, Window};
use serde_json::{Value, json};

use crate::bridges::{NOW, headers, hmac_sha256, received, send_at, shown, source};

/// What the events of each type are about; of each body of the type that has it.
const ENTITIES: &[(&str, &[&str])] = &[
    ("branch_protection_rule", &["repository"]),
    ("check_run", &["check_run"]),
    ("check_suite", &["check_suite"]),
    ("code_scanning_alert", &["repository"]),
    ("commit_comment", &["repository"]),
    ("create", &["repository"]),
    ("delete", &["repository"]),
    ("dependabot_alert", &["repository"]),
    ("deploy_key", &["repository"]),
    ("deployment", &["deployment"]),
    // It has no `deployment`.
    ("deployment_review", &["repository"]),
    ("deployment_status", &["deployment"]),
    ("discussion", &["discussion"]),
    ("discussion_comment", &["discussion"]),
    ("fork", &["repository"]),
    ("github_app_authorization", &["sender"]),
    ("gollum", &["repository"]),
    ("installation", &["installation"]),
    ("installation_repositories", &["installation"]),
    ("issue_comment", &["issue"]),
    ("issues", &["issue"]),
    ("label", &["label"]),
    ("marketplace_purchase", &["sender"]),
    ("member", &["repository"]),
    ("membership", &["organization"]),
    ("merge_group", &["repository"]),
    ("meta", &["repository"]),
    ("milestone", &["milestone"]),
    ("org_block", &["organization"]),
    ("organization", &["organization"]),
    ("package", &["repository"]),
    ("page_build", &["repository"]),
    ("ping", &["repository", "organization"]),
    ("project", &["repository"]),
    ("project_card", &["repository"]),
    ("project_column", &["repository"]),
    ("projects_v2_item", &["organization"]),
    ("public", &["repository"]),
    ("pull_request", &["pull_request"]),
    ("pull_request_review", &["pull_request"]),
    ("pull_request_review_comment", &["pull_request"]),
    ("pull_request_review_thread", &["pull_request"]),
    ("push", &["repository"]),
    ("registry_package", &["repository"]),
    ("release", &["release"]),
    ("repository", &["repository"]),
    ("repository_dispatch", &["repository"]),
    ("repository_import", &["repository"]),
    ("repository_vulnerability_alert", &["repository"]),
    ("secret_scanning_alert", &["repository"]),
    // It is about no repository, nobody's organization, and nobody sent it.
    ("security_advisory", &["security_advisory"]),
    ("sponsorship", &["sender"]),
    ("star", &["repository"]),
    ("status", &["repository"]),
    // A team of an organization, with or without a repository that it gets.
    ("team", &["repository", "organization"]),
    ("team_add", &["repository"]),
    ("watch", &["repository"]),
    ("workflow_dispatch", &["repository"]),
    ("workflow_job", &["repository"]),
    ("workflow_run", &["workflow_run"]),
];

/// GitHub's bodies, by event; `None` where they are not there.
pub fn github_bodies() -> Option<Vec<(String, Vec<u8>)>> {
    let shared = std::env::var_os("OMNILINK_SHARED_DATA").unwrap_or("../shared/data".into());
    let folder = PathBuf::from(shared).join("github-webhooks");
    let Ok(entries) = fs::read_dir(&folder) else {
        eprintln!(
            "SKIPPED: there is no {} (OMNILINK_SHARED_DATA)",
            folder.display()
        );
        return None;
    };
    let mut bodies = Vec::new();
    for entry in entries
        .map(Result::unwrap)
        .filter(|entry| entry.path().is_dir())
    {
        let event = entry.file_name().into_string().unwrap();
        for file in fs::read_dir(entry.path()).unwrap() {
            let path = file.unwrap().path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                bodies.push((event.clone(), fs::read(path).unwrap()));
            }
        }
    }
    Some(bodies)
}

pub fn github() -> Source {
    source(&json!({ "name": "github", "dialect": "github", "secrets": ["secret"] }))
}

#[test]
fn every_body_of_github_has_a_type_and_an_entity() {
    let Some(bodies) = github_bodies() else {
        return;
    };
    let github = github();
    let expected: BTreeMap<_, _> = ENTITIES.iter().copied().collect();
    assert_eq!(expected.len(), 60);
    let mut seen = BTreeMap::<String, usize>::new();
    for (event, body) in bodies {
        let sent: Value = serde_json::from_slice(&body).unwrap();
        let form = serde_json::to_string(&sent).unwrap();
        let form = format!("payload={}", percent(&form));
        let mut hashes = Vec::new();
        for (media, body) in [
            ("application/json", body),
            ("application/x-www-form-urlencoded", form.into_bytes()),
        ] {
            let signature = format!("sha256={}", hmac_sha256(b"secret", &body));
            let pairs = [
                ("content-type", media),
                ("x-github-event", &*event),
                ("x-github-delivery", "72d3162e"),
                ("x-hub-signature-256", &*signature),
            ];
            let got = received(send_at(&github, &headers(&pairs), &body, NOW));
            let shown = shown(&got);
            let kind = match sent["action"].as_str() {
                Some(action) => format!("github.{event}.{action}"),
                None => format!("github.{event}"),
            };
            assert_eq!(shown["type"], json!(kind));
            assert_eq!(shown["id"], "72d3162e");
            assert_eq!(shown["data"], sent);
            let entity = shown["entity"]
                .as_array()
                .unwrap_or_else(|| panic!("{kind} has no entity"));
            let about = entity[0].as_str().unwrap();
            assert!(
                expected[&*event].contains(&about),
                "{kind} is about {about}"
            );
            let object = &sent[about];
            let id = [&object["node_id"], &object["id"], &object["ghsa_id"]];
            let id = id.into_iter().find(|id| !id.is_null()).unwrap();
            let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
            assert_eq!(entity[1], json!(id), "{kind}");
            hashes.push(got.parsed.body_hash);
        }
        // The same event, whichever way it came.
        assert!(hashes[0].is_same(&hashes[1]));
        *seen.entry(event).or_default() += 1;
    }
    let missing: Vec<_> = expected
        .keys()
        .filter(|event| !seen.contains_key(**event))
        .collect();
    assert!(missing.is_empty(), "no body of {missing:?}");
    assert_eq!(seen.values().sum::<usize>(), 150);
}

fn percent(text: &str) -> String {
    let encoded = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        b' ' => "+".into(),
        _ => format!("%{byte:02X}"),
    });
    encoded.collect()
}

/// A request as it went over the wire.
pub fn odoo_request(name: &str) -> (Vec<(String, Vec<u8>)>, Vec<u8>) {
    let raw = fs::read(format!("tests/it/odoo/{name}.http")).unwrap();
    let end = raw.windows(4).position(|part| part == b"\r\n\r\n").unwrap();
    let head = std::str::from_utf8(&raw[..end]).unwrap();
    let lines = head
        .split("\r\n")
        .skip(1)
        .map(|line| line.split_once(": ").unwrap());
    let headers = lines.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
    (headers.collect(), raw[end + 4..].to_vec())
}

fn odoo() -> Source {
    source(&json!({ "name": "odoo", "dialect": "odoo-native",
        "odoo": { "booleans": ["active", "is_company", "locked"], "many2one": ["partner_id", "parent_id", "user_id"] } }))
}

/// The bodies are what `json.dumps(vals, sort_keys=True, default=str)` makes of values as the ORM reads them (`load=None`), the
/// requests what `requests.post(url, data=…, headers={'Content-Type': 'application/json'}, timeout=1)` sends.
#[test]
fn odoo_17_18_and_19_byte_for_byte() {
    let at = |name: &str, now: i64| {
        let (headers, body) = odoo_request(name);
        received(send_at(&odoo(), &headers, &body, now))
    };
    let without_id = |mut shown: Value| {
        let id = shown["id"].take();
        assert_eq!(id.as_str().unwrap().len(), 64);
        shown
    };

    let order = at("17.0", NOW);
    assert_eq!(
        without_id(shown(&order)),
        json!({
        "id": null, "source": "/webhooks/acme/odoo", "type": "odoo.sale.order.order_confirmed",
        "entity": ["sale.order", "57", "S00057"], "time": "2024-05-03T10:15:02.351842Z",
        "data": { "amount_total": 1234.5, "commitment_date": null, "date_order": "2024-05-03 10:15:00", "id": 57, "locked": false,
            "name": "S00057", "order_line": [101, 102], "partner_id": { "id": 14 }, "state": "sale", "user_id": null,
            "write_date": "2024-05-03 10:15:02.351842" } })
    );
    // With `write_date` the same change is the same event whenever it comes.
    let again = at("17.0", NOW + 3_600_000);
    assert_eq!(
        (order.window, order.identity),
        (Window::Events, again.identity)
    );
    assert_eq!(order.identity, order.parsed.event.identity());
    assert!(order.parsed.body_hash.is_same(&again.parsed.body_hash));

    let partner = at("18.0", NOW);
    assert_eq!(
        without_id(shown(&partner)),
        json!({
        "id": null, "source": "/webhooks/acme/odoo", "type": "odoo.res.partner.kunde_geändert",
        "entity": ["res.partner", "14", "Zoë & Söhne \"GmbH\""], "time": "2025-01-31T12:00:00Z",
        "data": { "active": true, "category_id": [], "comment": "<p>a</p>\n", "date": "2024-05-03",
            "display_name": "Zoë & Söhne \"GmbH\"", "email": null, "id": 14, "image_128": "b'aGVsbG8='", "is_company": false,
            "name": "Zoë & Söhne \"GmbH\"", "parent_id": { "id": 3 }, "write_date": "2025-01-31 12:00:00" } })
    );

    // Without it the same body is a duplicate for 10 s, and another event later on.
    let (task, later) = (at("19.0", NOW), at("19.0", NOW + 10_001));
    assert_eq!(
        without_id(shown(&task)),
        json!({
        "id": null, "source": "/webhooks/acme/odoo", "type": "odoo.project.task.send_webhook_notification",
        "entity": ["project.task", "9", "Call back"],
        "data": { "allocated_hours": 0.0, "id": 9, "name": "Call back", "priority": "0", "stage_id": 2, "user_ids": [2, 6] } })
    );
    assert_eq!(
        (task.window, later.window),
        (Window::Short(10_000), Window::Short(10_000))
    );
    assert_eq!(task.identity, later.identity);
    assert_ne!(task.parsed.event.id, later.parsed.event.id);

    let bare = at("19.0-no-fields", NOW);
    assert_eq!(shown(&bare)["data"], json!({}));
    assert_eq!(shown(&bare)["entity"], json!(["project.task", "9", null]));
    assert_ne!(bare.identity, task.identity);
}

#[test]
fn odoo_s_other_spellings() {
    let send = |body: &str| send_at(&odoo(), &[], body.as_bytes(), NOW);
    // An early version of 17, and `[id, name]`, which the ORM reads without `load=None`.
    let early = shown(&received(send(
        r#"{"_model":"sale.order","_name":"Order: paid","id":0,"partner_id":[14,"Zo\u00eb"],"user_id":false,"write_date":"2024-05-03 10:15:00"}"#,
    )));
    assert_eq!(early["type"], "odoo.sale.order.order_paid");
    assert_eq!(early["entity"], json!(["sale.order", "0", null]));
    assert_eq!(
        early["data"]["partner_id"],
        json!({ "id": 14, "name": "Zoë" })
    );
    for (body, code) in [
        (r#"{"_id":1,"_action":"a"}"#, "missing__model"),
        (r#"{"_model":"m","_action":"a"}"#, "missing__id"),
        (r#"{"_model":"m","_id":1}"#, "missing__action"),
        (r#"{"_model":"m","_id":false,"_action":"a"}"#, "missing__id"),
        (r#"{"_model":{},"_id":1,"_action":"a"}"#, "invalid_payload"),
        ("[]", "invalid_payload"),
        ("", "invalid_payload"),
    ] {
        let refusal = send(body).unwrap_err();
        assert_eq!((refusal.status(), &*refusal.code), (400, code), "{body}");
    }
}
