//! The port answers as the table of routes says, and `/openapi.json` says the same. [`check`] looks at every answer that other
//! tests of the port get.

use std::{collections::BTreeSet, sync::LazyLock};

use hyper::{HeaderMap, Method, StatusCode};
use omnilink::api::{self, Access, Operation, ROUTES, Route};
use serde_json::{Value, json};

use crate::{
    json_schema,
    support::port::{Node, Response, scopes},
};

static DOCUMENT: LazyLock<Value> = LazyLock::new(api::document);

const PROBLEM: &str = "application/problem+json";

fn method(route: &Route) -> Method {
    route.method.name().parse().unwrap()
}

/// The route that a request goes to: of several paths that fit, the one with the fewest parameters counts, whatever its methods.
fn route_of(asked: &Method, path: &str) -> Option<&'static Route> {
    let parts: Vec<_> = path.split('?').next()?.split('/').collect();
    let fits = |route: &&Route| {
        let should: Vec<_> = route.path.split('/').collect();
        let same = |(is, should): (&&str, &&str)| {
            is == should || (should.starts_with('{') && !is.is_empty())
        };
        parts.len() == should.len() && parts.iter().zip(&should).all(same)
    };
    let fitting = ROUTES.iter().filter(fits);
    let path = fitting
        .min_by_key(|route| route.path_parameters.len())?
        .path;
    let mut routes = ROUTES.iter();
    routes.find(|route| route.path == path && method(route) == *asked)
}

fn described(route: &Route) -> &'static Value {
    &DOCUMENT["paths"][route.path][route.method.name().to_lowercase()]
}

/// Holds an answer against the document: status, media type, code and body.
pub fn check(asked: &Method, path: &str, status: StatusCode, headers: &HeaderMap, body: &str) {
    let Some(route) = route_of(asked, path) else {
        return;
    };
    let about = format!("{asked} {path}: {status} {body}");
    let answer = &described(route)["responses"][status.as_str()];
    assert!(answer.is_object(), "not documented: {about}");
    let Some(media) = headers
        .get("content-type")
        .map(|media| media.to_str().unwrap())
    else {
        assert!(
            answer.get("content").is_none() && body.is_empty(),
            "{about}"
        );
        return;
    };
    let content = &answer["content"][media];
    assert!(content.is_object(), "not documented: {media} of {about}");
    let Some(schema) = content.get("schema") else {
        return;
    };
    let lines: Vec<&str> = match media {
        api::route::NDJSON => body.lines().collect(),
        _ => vec![body],
    };
    for line in lines {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {about}"));
        let errors = json_schema::errors(&DOCUMENT, schema, &value);
        assert!(errors.is_empty(), "{about}: {errors:#?}");
        if media == PROBLEM {
            let code = api::problem::Code::of(value["code"].as_str().unwrap()).unwrap();
            assert!(
                route.codes_of_errors().contains(&code),
                "not documented: {about}"
            );
        }
    }
}

/// Sends a route's own examples.
pub async fn send(node: &Node, route: &Route, key: Option<&str>) -> Response {
    send_from(node, route, key, "10.0.0.1").await
}

async fn send_from(node: &Node, route: &Route, key: Option<&str>, address: &str) -> Response {
    let bearer = key.map(|key| format!("Bearer {key}"));
    let mut headers = vec![("x-forwarded-for", address)];
    headers.extend(
        bearer
            .iter()
            .map(|bearer| ("authorization", bearer.as_str())),
    );
    headers.extend(
        route
            .headers
            .iter()
            .map(|header| (header.name, header.example)),
    );
    let body = route.body.first();
    headers.extend(body.map(|body| ("content-type", body.media)));
    let text = body.and_then(|body| body.example).unwrap_or_default();
    let path = route
        .example_path()
        .replace("omnilink.", &node.names.prefix);
    node.call(method(route), &path, &headers, text).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_asks_for_the_key_and_the_permission_of_its_line() {
    let node = Node::start().await;
    let nothing = node.key("acme", scopes(&["nothing:at:all"])).await;
    for (n, route) in ROUTES.iter().enumerate() {
        let about = format!("{} {}", route.method.name(), route.path);
        let answer = send(&node, route, None).await;
        let Access::Permission(permission) = route.access else {
            assert_ne!(answer.status, StatusCode::UNAUTHORIZED, "{about}");
            assert_ne!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{about}");
            continue;
        };
        let given = |answer: &Response| (answer.status.as_u16(), answer.code());
        assert_eq!(given(&answer), (401, "unauthorized".into()), "{about}");
        assert!(answer.headers.contains_key("www-authenticate"), "{about}");
        // Each from an address of its own: wrong keys are limited by address.
        let address = format!("10.0.0.{n}");
        let answer = send_from(&node, route, Some("omni.wrong"), &address).await;
        assert_eq!(given(&answer), (401, "invalid_key".into()), "{about}");
        let answer = send(&node, route, Some(&nothing)).await;
        assert_eq!(given(&answer), (403, "permission_denied".into()), "{about}");
        assert!(
            answer.text.contains(&format!("`{permission}`")),
            "{about}: {}",
            answer.text
        );
        // With it the request gets further: to what is there, or to what is not.
        let key = node.key("acme", scopes(&[permission])).await;
        let answer = send(&node, route, Some(&key)).await;
        let further =
            answer.status != StatusCode::UNAUTHORIZED && answer.status != StatusCode::FORBIDDEN;
        // Nobody grants what they lack, another tenant's is another's, and a command needs a permission of its own.
        let own = ["/v1/keys", "/v1/readers", "/v1/commands"].contains(&route.path);
        assert!(further || own, "{about}: {}", answer.text);
        assert_ne!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{about}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_takes_the_methods_of_its_lines_alone() {
    let node = Node::start().await;
    let registry = |route: &Route| route.errors != api::route::Errors::Problem;
    let paths: BTreeSet<_> = ROUTES
        .iter()
        .filter(|r| !registry(r))
        .map(|r| r.path)
        .collect();
    for path in paths {
        let of_path = ROUTES.iter().filter(|route| route.path == path);
        let taken: Vec<_> = of_path.map(method).collect();
        for other in [
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ] {
            if taken.contains(&other) {
                continue;
            }
            let answer = node.call(other.clone(), path, &[], "").await;
            assert_eq!(
                answer.status,
                StatusCode::METHOD_NOT_ALLOWED,
                "{other} {path}"
            );
            assert_eq!(answer.code(), "method_not_allowed", "{other} {path}");
            let allowed = answer.headers["allow"].to_str().unwrap();
            assert!(
                taken.iter().all(|method| allowed.contains(method.as_str())),
                "{path}: {allowed}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_and_its_page_are_open_and_load_nothing_else() {
    let node = Node::start().await;
    let answer = node.call(Method::GET, "/openapi.json", &[], "").await;
    assert_eq!(answer.json(), *DOCUMENT);
    let again = node.call(Method::GET, "/openapi.json", &[], "").await;
    assert_eq!(answer.text, again.text);

    let page = node.call(Method::GET, "/docs", &[], "").await;
    assert_eq!(page.status, StatusCode::OK);
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(
        policy.contains("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    // Every script and style is a file of the node.
    let mut loaded = 0;
    for attribute in ["src=\"", "href=\""] {
        for rest in page.text.split(attribute).skip(1) {
            let link = rest.split('"').next().unwrap();
            let answer = node.call(Method::GET, &format!("/{link}"), &[], "").await;
            assert_eq!(answer.status, StatusCode::OK, "{link}");
            assert!(
                !answer.text.contains("http://") && !answer.text.contains("https://"),
                "{link}"
            );
            loaded += 1;
        }
    }
    assert!(loaded >= 3);
    for inline in ["<style", " style=", " onclick=", "<script>"] {
        assert!(!page.text.contains(inline), "{inline}");
    }
}

#[test]
fn examples_are_what_their_schemas_say() {
    let mut seen = 0;
    let mut bodies: Vec<(String, &Value)> = Vec::new();
    for route in ROUTES {
        let operation = described(route);
        let about = format!("{} {}", route.method.name(), route.path);
        let content = |at: &'static Value| at["content"].as_object().into_iter().flatten();
        bodies.extend(content(&operation["requestBody"]).map(|(_, body)| (about.clone(), body)));
        for (_, response) in operation["responses"].as_object().unwrap() {
            bodies.extend(content(response).map(|(_, body)| (about.clone(), body)));
        }
    }
    for (about, body) in bodies {
        let named = body["examples"]
            .as_object()
            .into_iter()
            .flat_map(|examples| examples.values());
        let named = named.map(|example| {
            let pointer = example["$ref"].as_str().unwrap().strip_prefix('#').unwrap();
            &DOCUMENT.pointer(pointer).unwrap()["value"]
        });
        for example in named.chain(body.get("example")) {
            let errors = json_schema::errors(&DOCUMENT, &body["schema"], example);
            assert!(errors.is_empty(), "{about}: {example}: {errors:#?}");
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen}");
}

/// Every object in the document, with its path.
fn walk<'a>(value: &'a Value, at: &str, see: &mut impl FnMut(&str, &'a Value)) {
    see(at, value);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                walk(value, &format!("{at}/{name}"), see);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, at, see)),
        _ => {}
    }
}

/// The rules of OpenAPI 3.1.0 that its JSON Schema cannot hold, and the most common ones that it can.
#[test]
fn the_document_is_openapi_3_1() {
    let document = &*DOCUMENT;
    assert_eq!(*document, api::document());
    assert_eq!(document["openapi"], "3.1.0");
    let top: Vec<_> = document
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        top,
        ["components", "info", "openapi", "paths", "servers", "tags"]
    );
    assert!(document["info"]["title"].is_string() && document["info"]["version"].is_string());
    let tags: Vec<_> = document["tags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| &tag["name"])
        .collect();
    let mut operations = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        assert!(path.starts_with('/'), "{path}");
        for (method, operation) in item.as_object().unwrap() {
            let about = format!("{method} {path}");
            let id = operation["operationId"].as_str().unwrap();
            assert!(operations.insert(id), "{about}: {id} is there twice");
            assert!(
                operation["tags"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|tag| tags.contains(&tag)),
                "{about}"
            );
            for requirement in operation["security"].as_array().unwrap() {
                for scheme in requirement.as_object().unwrap().keys() {
                    assert!(
                        document["components"]["securitySchemes"][scheme].is_object(),
                        "{about}"
                    );
                }
            }
            let mut names = BTreeSet::new();
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            for parameter in parameters {
                let (place, name) = (
                    parameter["in"].as_str().unwrap(),
                    parameter["name"].as_str().unwrap(),
                );
                assert!(
                    names.insert((place, name)),
                    "{about}: {name} is there twice"
                );
                assert!(
                    ["path", "query", "header"].contains(&place),
                    "{about}: {name}"
                );
                assert!(
                    parameter["schema"].is_object() && parameter["description"].is_string(),
                    "{about}: {name}"
                );
                assert!(
                    place != "path" || parameter["required"] == true,
                    "{about}: {name}"
                );
            }
            for part in path
                .split('{')
                .skip(1)
                .filter_map(|part| part.split('}').next())
            {
                assert!(names.contains(&("path", part)), "{about}: {part}");
            }
            let responses = operation["responses"].as_object().unwrap();
            assert!(!responses.is_empty(), "{about}");
            for (status, response) in responses {
                assert!(
                    status.len() == 3 && status.parse::<u16>().is_ok(),
                    "{about}: {status}"
                );
                assert!(
                    response["description"]
                        .as_str()
                        .is_some_and(|text| !text.is_empty()),
                    "{about}: {status}"
                );
            }
        }
    }
    assert_eq!(operations.len(), Operation::ALL.len());
    for kind in ["schemas", "examples", "headers", "securitySchemes"] {
        for name in document["components"][kind].as_object().unwrap().keys() {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            assert!(name.bytes().all(plain), "{kind}: {name}");
        }
    }
    let mut references = BTreeSet::new();
    walk(document, "", &mut |at, value| {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{at}: {reference}");
            references.insert(pointer);
        }
        let types = value
            .get("type")
            .filter(|_| value.get("properties").is_some());
        assert!(
            types.is_none_or(|types| *types == json!("object") || types.is_array()),
            "{at}: {value}"
        );
        assert!(value.get("nullable").is_none(), "{at}: of OpenAPI 3.0");
        assert!(
            !at.starts_with("/components/schemas") || value.get("$schema").is_none(),
            "{at}"
        );
    });
    for name in document["components"]["schemas"]
        .as_object()
        .unwrap()
        .keys()
    {
        let pointer = format!("/components/schemas/{name}");
        assert!(references.contains(&*pointer), "{name} is not used");
    }
}

/// Media type, content encoding, size and a byte order mark are handled alike, whatever the route.
#[tokio::test(flavor = "multi_thread")]
async fn every_json_body_is_read_the_same_way() {
    let node = Node::start().await;
    let bearer = node.bearer();
    let json = ("content-type", "application/json");
    let mut routes = 0;
    for route in ROUTES {
        let Access::Permission(_) = route.access else {
            continue;
        };
        // Events are read by a parser of their own.
        let Some(body) = route.body.first().filter(|_| route.takes.is_some()) else {
            continue;
        };
        routes += 1;
        let example = body.example.unwrap();
        let send = async |headers: &[(&str, &str)], body: &str| {
            let mut all = vec![("authorization", bearer.as_str()), ("idempotency-key", "k")];
            all.extend(headers);
            let path = route.example_path();
            node.call(method(route), &path, &all, body.to_owned()).await
        };
        let marked = format!("\u{feff}{example}");
        let plain = send(&[json], example).await.status;
        // An example in the path is not there.
        let none = !route.path_parameters.is_empty() && plain == StatusCode::NOT_FOUND;
        assert!(
            plain.is_success() || plain == StatusCode::SERVICE_UNAVAILABLE || none,
            "{}",
            route.path
        );
        let answer = send(
            &[("content-type", "Application/JSON; charset=utf-8")],
            &marked,
        )
        .await;
        let again = answer.status.is_success() == plain.is_success();
        assert!(
            again && answer.status != StatusCode::BAD_REQUEST,
            "{}: {}",
            route.path,
            answer.text
        );
        // What controls runs carries data of up to 128 KiB, and a goal may be as long as at its own route.
        let of_runs = ["/v1/runs", "/v1/approvals/", "/v1/plans:explain"];
        let of_runs = of_runs.iter().any(|path| route.path.starts_with(path));
        let too_large = if of_runs { 300_000 } else { 70_000 };
        let large = format!("{}{example}", " ".repeat(too_large));
        let form = ("content-type", "application/x-www-form-urlencoded");
        let gzip = ("content-encoding", "gzip");
        for (headers, body, status, code) in [
            (&[][..], example, 415, "unsupported_media_type"),
            (&[form], example, 415, "unsupported_media_type"),
            (&[json, gzip], example, 415, "unsupported_content_encoding"),
            (&[json], &large, 413, "payload_too_large"),
            (&[json], "{", 400, "invalid_payload"),
            (&[json], r#"{"colour":"red"}"#, 400, "invalid_payload"),
        ] {
            let answer = send(headers, body).await;
            let given = (answer.status.as_u16(), answer.code());
            assert_eq!(given, (status, code.to_owned()), "{}", route.path);
        }
    }
    assert_eq!(routes, 18);
}
