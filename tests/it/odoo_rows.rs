//! From an Odoo to rows in Postgres: `docs/odoo.md` followed from the first command, with requests as Odoo sends them, byte for byte.

use std::{
    fmt::Write as _,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    bridges_docs::sent_by_odoo,
    support::{
        command::{Folder, Up, errors, omnilink, output},
        pages::{blocks, has, shell},
    },
};

const PAGE: &str = "docs/odoo.md";

struct Omnilink {
    dir: Folder,
    up: Up,
}

impl Omnilink {
    fn start() -> Self {
        let dir = Folder::new();
        let up = Up::start_with(dir.path(), &[]);
        Self { dir, up }
    }

    /// Runs a command of the page.
    fn run(&self, command: &str) -> String {
        let command = command.replace("http://127.0.0.1:7700", &self.up.url);
        shell(self.dir.path(), &self.up, &command, &[])
    }

    fn psql(&self, sql: &str) -> String {
        let sql = sql.replace('"', "\\\"");
        self.run(&format!(
            "psql \"$(cat data/postgres.url)\" -At -F ' | ' -c \"{sql}\""
        ))
    }

    /// Waits until a query has this many rows.
    fn wait_for(&self, query: &str, rows: usize) {
        let deadline = Instant::now() + Duration::from_mins(3);
        let count = format!(
            "psql \"$(cat data/postgres.url)\" -Atc \"SELECT count(*) FROM ({query}) AS q\" || true"
        );
        while self.run(&count).trim() != rows.to_string() {
            let errors = errors(self.dir.path());
            assert!(Instant::now() < deadline, "{query}\n{errors}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Writes a request to the port and returns the answer's status and body. Odoo waits one second at most.
    fn send(&self, request: &[u8]) -> (u16, String) {
        let began = Instant::now();
        let mut stream = TcpStream::connect(self.up.url.trim_start_matches("http://")).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        let body = loop {
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&buffer[..read]);
            let text = String::from_utf8_lossy(&answer);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "));
                if body.len() >= length.unwrap().parse::<usize>().unwrap() {
                    break body.to_owned();
                }
            }
        };
        assert!(began.elapsed() < Duration::from_secs(1));
        let status = std::str::from_utf8(&answer[9..12]).unwrap();
        (status.parse().unwrap(), body)
    }

    /// A request as Odoo of a version sent it, with the token of this node.
    fn native(&self, version: &str, token: &str) -> (u16, String) {
        let raw = std::fs::read(format!("tests/it/odoo/{version}.http")).unwrap();
        let text = String::from_utf8(raw).unwrap();
        self.send(
            text.replacen("/v1/hooks/TOKEN", &format!("/v1/hooks/{token}"), 1)
                .as_bytes(),
        )
    }
}

/// The block of a section in a language.
fn block(section: &str, language: &str) -> String {
    let blocks = blocks(PAGE, section);
    let found = blocks.into_iter().find(|(is, _)| is == language);
    found
        .unwrap_or_else(|| panic!("{section} has no {language}"))
        .1
}

#[test]
fn the_page_leads_from_nothing_to_rows() {
    if !has("psql", &["--version"]) || !has("curl", &["--version"]) {
        return;
    }
    let omnilink = Omnilink::start();
    let made = omnilink.run(&block("## 2. The native webhook action", "sh"));
    let made: Value = serde_json::from_str(&made).unwrap();
    let token = made["token"].as_str().unwrap();
    assert_eq!(made["url"], format!("/v1/hooks/{token}"));
    let mut ids = Vec::new();
    for version in ["17.0", "18.0", "19.0", "19.0-no-fields"] {
        let (status, body) = omnilink.native(version, token);
        assert_eq!(status, 202, "{version}: {body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        ids.push(body["results"][0]["record_id"].clone());
    }
    // The same again at once: of a record with `write_date` and of one without.
    for (n, version) in [(0, "17.0"), (2, "19.0")] {
        let (status, body) = omnilink.native(version, token);
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &body["results"][0]["record_id"]), (200, &ids[n]));
    }
    let queries = block("## 3. The rows", "sql");
    let queries: Vec<_> = queries
        .lines()
        .map(|line| line.trim_end_matches(';'))
        .collect();
    let [events, entities] = queries[..] else {
        panic!("{queries:?}")
    };
    omnilink.wait_for(events, 4);
    assert_eq!(omnilink.psql(entities).trim_end(), "57 | S00057 | sale");
    let order = "SELECT type, time, data FROM omnilink.events WHERE entity_type = 'sale.order'";
    let order = omnilink.psql(order);
    let mut order = order.trim_end().splitn(3, " | ");
    assert_eq!(order.next(), Some("odoo.sale.order.order_confirmed"));
    assert_eq!(order.next(), Some("2024-05-03 10:15:02.351842+00"));
    let data: Value = serde_json::from_str(order.next().unwrap()).unwrap();
    assert_eq!(
        (&data["partner_id"], &data["locked"], &data["user_id"]),
        (&json!({ "id": 14 }), &json!(false), &Value::Null)
    );

    // The signed server action.
    let made = omnilink.run(&block("### The source and the settings", "sh"));
    let made: Value = serde_json::from_str(&made).unwrap();
    let Some(sent) = sent_by_odoo() else { return };
    let url = sent["url"].as_str().unwrap();
    assert!(url.ends_with(made["url"].as_str().unwrap()), "{url}");
    let body = sent["body"].as_str().unwrap();
    let mut request = format!(
        "POST {} HTTP/1.1\r\nHost: omnilink.example\r\n",
        made["url"].as_str().unwrap()
    );
    for (name, value) in sent["headers"].as_object().unwrap() {
        write!(request, "{name}: {}\r\n", value.as_str().unwrap()).unwrap();
    }
    write!(request, "Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    for expected in [202, 200] {
        let (status, body) = omnilink.send(request.as_bytes());
        assert_eq!(status, expected, "{body}");
    }
    let expense = "SELECT state->>'employee', version FROM omnilink.entities WHERE entity_type = 'hr.expense' AND external_id = '57'";
    omnilink.wait_for(expense, 1);
    assert_eq!(omnilink.psql(expense).trim_end(), "Zoë | 1");
    let (status, body) = omnilink.send(request.replacen("Zo", "Xo", 1).as_bytes());
    assert_eq!(status, 401, "{body}");

    commands(&omnilink);
}

/// `omnilink integrations`.
fn commands(omnilink: &Omnilink) {
    let json = |command: &str| -> Value {
        let text = omnilink.run(&format!(
            "OMNILINK_URL=http://127.0.0.1:7700 omnilink integrations {command} --json"
        ));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    };
    std::fs::write(omnilink.dir.path().join("secret"), "first\n").unwrap();
    let shape = "name: slack\ndialect: hmac\nhmac: { header: X-S, algorithm: sha256, encoding: hex, signed: body }\ntests: []\n";
    std::fs::write(omnilink.dir.path().join("slack.yaml"), shape).unwrap();
    let made = json("create --file slack.yaml --secret-file secret");
    assert_eq!(made["url"], "/v1/webhooks/default/slack");
    let named = json("create --name github --dialect github --secret-file - < secret");
    let listed = json("list --limit 2");
    let names: Vec<_> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| &item["name"])
        .collect();
    assert_eq!(names, ["github", "slack"]);
    assert!(listed["next_cursor"].is_string());
    let id = named["id"].as_str().unwrap();
    assert_eq!(
        json(&format!("rotate {id} --secret-file secret --overlap-s 0"))["id"],
        id
    );
    assert_eq!(json(&format!("delete {id}"))["status"], "deleted");
    let table = omnilink.run("OMNILINK_URL=http://127.0.0.1:7700 omnilink integrations list");
    assert!(
        table.starts_with("ID ") && !table.contains("github"),
        "{table}"
    );
    let wrong = "OMNILINK_URL=http://127.0.0.1:7700 omnilink integrations create --name x --dialect none || true";
    let wrong = omnilink.run(wrong);
    assert!(wrong.contains("`/dialect`: must be one of"), "{wrong}");
}

#[test]
fn shapes_are_checked_and_tested() {
    let dir = Folder::new();
    let put = |name: &str, text: &str| {
        std::fs::create_dir_all(dir.path().join("webhooks")).unwrap();
        std::fs::write(dir.path().join("webhooks").join(name), text).unwrap();
    };
    let run = |arguments: &[&str]| output(&mut omnilink(dir.path(), arguments));
    for (n, (_, text)) in blocks("docs/webhooks.md", "## Shapes in files")
        .iter()
        .enumerate()
    {
        put(&format!("{n}.yaml"), text);
    }
    let (code, text, _) = run(&["check"]);
    assert_eq!((code, &*text), (0, "2 files checked, no errors\n"));
    let (code, text, error) = run(&["test"]);
    assert_eq!(code, 0, "{text}{error}");
    assert!(
        text.contains("webhooks/0.yaml:8: a reservation") && text.ends_with("5 tests passed\n"),
        "{text}"
    );
    let failing = "name: a\ndialect: ipai-body\ntests:\n  - name: nothing\n    given: { body: {} }\n    then: { type: a }\n";
    put("2.yaml", failing);
    let (code, text, error) = run(&["test", "webhooks/2.yaml"]);
    assert_eq!(code, 1);
    assert!(
        text.contains("FAILED  webhooks/2.yaml:4: nothing"),
        "{text}"
    );
    assert!(error.contains("1 of 1 tests failed"), "{error}");
    put(
        "2.yaml",
        "name: a\ndialect: hmac\nhmac:\n  header: X-S\n  algorithm: md5\n  encoding: hex\n  signed: body\n",
    );
    put("3.yaml", "name: a\ndialect: [\n");
    let (code, text, error) = run(&["check", "--json"]);
    assert_eq!(code, 1, "{error}");
    let found: Value = serde_json::from_str(&text).unwrap();
    let places: Vec<_> = found["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| json!([item["file"], item["line"], item["column"]]))
        .collect();
    assert_eq!(places[0], json!(["webhooks/2.yaml", 5, 3]));
    assert_eq!(
        (places.len(), &places[1][0]),
        (2, &json!("webhooks/3.yaml"))
    );
}
