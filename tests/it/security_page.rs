//! Checks SECURITY.md: only the routes that it lists are open, all others need a key, and its settings exist.

use hyper::{Method, StatusCode};
use omnilink::api::{Access, ROUTES, Route};

use crate::support::{
    command::{Folder, omnilink, output},
    port::Node,
};

/// The texts in backticks in the first column of the table below a heading.
fn column<'a>(page: &'a str, heading: &str) -> Vec<&'a str> {
    let rest = page.split(&format!("## {heading}\n")).nth(1).unwrap();
    let section = rest.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.split('|').nth(1).unwrap());
    cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect()
}

/// `GET /schemas…` names that path and all below it.
fn names(line: &str, route: &Route) -> bool {
    let (method, path) = line.split_once(' ').unwrap();
    let same = match path.strip_suffix('…') {
        Some(root) => route
            .path
            .strip_prefix(root)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        None => path == route.path,
    };
    method == route.method.name() && same
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_routes_that_it_names_are_open() {
    let page = std::fs::read_to_string("SECURITY.md").unwrap();
    let open = column(&page, "Open routes");
    for route in ROUTES {
        let about = format!("{} {}", route.method.name(), route.path);
        let named = open.iter().any(|line| names(line, route));
        assert_eq!(named, route.access == Access::Open, "{about}");
    }
    for line in &open {
        assert!(ROUTES.iter().any(|route| names(line, route)), "{line}");
    }
    // What the table says of keys is held against a node in `api`; here is that nothing else answers.
    let node = Node::start().await;
    for path in open.iter().filter_map(|line| line.strip_prefix("GET ")) {
        let path = path.trim_end_matches('…');
        let response = node.call(Method::GET, path, &[], "").await;
        assert_eq!(response.status, StatusCode::OK, "{path}");
    }
    for route in ROUTES.iter().filter(|route| route.access != Access::Open) {
        let path = route.example_path();
        for method in [Method::GET, Method::POST, Method::DELETE, Method::PATCH] {
            let json = [("content-type", "application/json")];
            let response = node.call(method.clone(), &path, &json, "{}").await;
            let status = response.status;
            assert!(
                [StatusCode::UNAUTHORIZED, StatusCode::METHOD_NOT_ALLOWED].contains(&status),
                "{method} {path}: {status} {}",
                response.text
            );
        }
    }
}

#[test]
fn its_settings_exist() {
    let page = std::fs::read_to_string("SECURITY.md").unwrap();
    let named = column(&page, "Settings that matter");
    assert!(named.len() >= 8, "{named:?}");
    let dir = Folder::new();
    let (code, shown, error) = output(&mut omnilink(dir.path(), &["config", "--json"]));
    assert_eq!(code, 0, "{error}");
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    for setting in named {
        let pointer = format!("/{}", setting.replace('.', "/"));
        assert!(shown.pointer(&pointer).is_some(), "{setting}: {shown}");
    }
}
