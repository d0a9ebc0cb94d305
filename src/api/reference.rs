//! `docs/api.md`, generated from the table of routes.

use std::fmt::Write;

use super::{
    problem,
    route::{Access, Errors, Route, Tag},
    routes::ROUTES,
};

/// The page.
pub fn page() -> String {
    let mut page = String::from(
        "# HTTP API\n\n\
         A node documents its API itself: `GET /openapi.json` is an OpenAPI 3.1 document with all types, parameters and examples, and\n\
         `GET /docs` shows it in a browser. This page is generated from `src/api/routes.rs` and `src/api/problem.rs`: change it there, \
         then run\n\
         `OMNILINK_UPDATE_DOCS=1 cargo test --all-features --lib api::reference`.\n\n\
         A request needs `Authorization: Bearer` and a key with the permission in the table; `operator` includes `admin`, and `*` \
         includes all.\n\
         Routes with `-` are open.\n",
    );
    // Writing to a `String` cannot fail.
    for tag in Tag::ALL {
        let _ = write!(page, "\n## {}\n\n{}\n\n", tag.name(), tag.description());
        page.push_str("| route | permission | does | answers |\n|---|---|---|---|\n");
        for route in ROUTES.iter().filter(|route| route.tag == tag) {
            let _ = writeln!(
                page,
                "| `{} {}` | {} | {} | {} |",
                route.method.name(),
                route.path,
                match route.access {
                    Access::Open => "-".into(),
                    Access::Permission(permission) => format!("`{permission}`"),
                },
                route.summary,
                statuses(route),
            );
        }
    }
    page.push_str(
        "\n## Errors\n\n\
         Problem details (RFC 9457, `application/problem+json`): `{type, title, status, code, detail, request_id, results?}`. `code` is stable,\n\
         and always has the same status; `detail` is for people. Errors of the schema registry's paths are `{error_code, message}`.\n\n\
         | status | code | meaning |\n|---|---|---|\n",
    );
    for code in problem::ALL {
        let _ = writeln!(
            page,
            "| {} | `{}` | {} |",
            code.status, code.code, code.meaning
        );
    }
    page
}

fn statuses(route: &Route) -> String {
    let mut statuses: Vec<u16> = route.answers.iter().map(|answer| answer.status).collect();
    statuses.extend(route.codes_of_errors().iter().map(|code| code.status));
    if let Errors::Registry(own) = route.errors {
        statuses.extend(own);
    }
    statuses.sort_unstable();
    statuses.dedup();
    let statuses: Vec<_> = statuses.iter().map(ToString::to_string).collect();
    statuses.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_what_the_table_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/api.md");
        if std::env::var_os("OMNILINK_UPDATE_DOCS").is_some() {
            std::fs::write(path, page()).unwrap();
        }
        let there = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            there == page(),
            "docs/api.md is not what src/api says; \
             OMNILINK_UPDATE_DOCS=1 cargo test --all-features --lib api::reference regenerates it"
        );
    }
}
