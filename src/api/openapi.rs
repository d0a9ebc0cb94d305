//! The OpenAPI 3.1 document, generated from the table of routes.

use std::{collections::BTreeMap, fmt::Write};

use schemars::{
    SchemaGenerator,
    generate::{Contract, SchemaSettings},
};
use serde_json::{Map, Value, json};

use super::{
    problem::{self, Code, Problem},
    registry::RegistryProblem,
    route::{
        Access, Answer, Content, Errors, NDJSON, ON_BEHALF_OF, Parameter, Route, SchemaOf, Tag,
    },
    routes::Operation,
};

const SCHEMAS: &str = "/components/schemas";
/// The temporary location of request schemas while the document is generated.
const REQUESTS: &str = "/components/requests";
/// The name of the security scheme.
const KEY: &str = "key";
const PROBLEM: &str = "application/problem+json";
const REGISTRY: &str = "application/vnd.schemaregistry.v1+json";

/// The document, which does not depend on the configuration.
pub fn document() -> Value {
    let mut builder = DocumentBuilder::new();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in Operation::ALL {
        let route = operation.route();
        let method = route.method.name().to_lowercase();
        let described = builder.operation(*operation);
        let path = paths.entry(route.path).or_default();
        path.insert(method, described);
    }
    let tags = Tag::ALL.map(|tag| json!({ "name": tag.name(), "description": tag.description() }));
    let (components, renamed) = builder.components();
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "OmniLink",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "An event-sourced stream processor.",
            "description": "Errors are problem details (RFC 9457) with a stable `code`, except for the paths of the schema registry, \
                which use its error format. Lists are `{items, next_cursor?}`. Times are RFC 3339 in UTC.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" }
        },
        "servers": [{ "url": "/", "description": "The node that this document comes from." }],
        "tags": tags,
        "paths": paths,
        "components": components
    });
    tidy(&mut document, &renamed);
    document
}

/// Points references to the final location of request schemas, and drops formats that are not standard.
fn tidy(value: &mut Value, renamed: &BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get_mut("$ref")
                && let Some(name) = reference.strip_prefix(&format!("#{REQUESTS}/"))
            {
                let name = renamed.get(name).map_or(name, String::as_str);
                *reference = format!("#{SCHEMAS}/{name}");
            }
            if fields.get("format").is_some_and(|format| format == "uint") {
                fields.remove("format");
            }
            fields.values_mut().for_each(|value| tidy(value, renamed));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| tidy(value, renamed)),
        _ => {}
    }
}

/// Generates the schemas. A type for both requests and answers has two: a member with a default is optional in requests, but always
/// present in answers.
struct DocumentBuilder {
    /// Query parameters, which are inlined where they are used.
    queries: SchemaGenerator,
    requests: SchemaGenerator,
    answers: SchemaGenerator,
}

impl DocumentBuilder {
    fn new() -> Self {
        let generator = |contract, path: &'static str, inline| {
            let settings = SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = path.into();
                settings.meta_schema = None;
                settings.inline_subschemas = inline;
                settings.contract = contract;
            });
            settings.into_generator()
        };
        Self {
            queries: generator(Contract::Deserialize, REQUESTS, true),
            requests: generator(Contract::Deserialize, REQUESTS, false),
            answers: generator(Contract::Serialize, SCHEMAS, false),
        }
    }

    fn operation(&mut self, operation: Operation) -> Value {
        let route = operation.route();
        let mut described = json!({
            "operationId": camel_case(operation.name()),
            "tags": [route.tag.name()],
            "summary": route.summary,
            "security": match route.access {
                Access::Open => json!([]),
                Access::Permission(permission) => json!([{ KEY: [permission] }]),
            },
        });
        let mut description = route.description.to_owned();
        if let Access::Permission(permission) = route.access {
            let gap = if description.is_empty() { "" } else { " " };
            // Writing to a `String` cannot fail.
            let _ = write!(description, "{gap}Needs the permission `{permission}`.");
        }
        if !description.is_empty() {
            described["description"] = description.into();
        }
        let parameters = self.parameters(route);
        if !parameters.is_empty() {
            described["parameters"] = parameters.into();
        }
        if !route.body.is_empty() {
            let schema = |schema_of: SchemaOf| schema_of(&mut self.requests).to_value();
            let content = content(route.body, schema);
            described["requestBody"] =
                json!({ "required": !route.optional_body, "content": content });
        }
        described["responses"] = self.responses(route).into();
        described
    }

    fn parameters(&mut self, route: &Route) -> Vec<Value> {
        let written = |place: &str, parameter: &Parameter| {
            json!({
                "name": parameter.name,
                "in": place,
                "required": place == "path",
                "description": parameter.description,
                "schema": { "type": "string" },
                "example": parameter.example,
            })
        };
        let in_path = route.path_parameters.iter().map(|p| written("path", p));
        let acting = matches!(route.access, Access::Permission(_)).then_some(&ON_BEHALF_OF);
        let in_head = route.headers.iter().chain(acting);
        let in_head = in_head.map(|p| written("header", p));
        let mut parameters: Vec<_> = in_path.chain(in_head).collect();
        if let Some(query) = route.query {
            let schema = query(&mut self.queries).to_value();
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            let properties = schema["properties"].as_object().cloned();
            for (name, mut schema) in properties.unwrap_or_default() {
                let description = schema
                    .as_object_mut()
                    .and_then(|fields| fields.remove("description"));
                parameters.push(json!({
                    "name": name,
                    "in": "query",
                    "required": required.contains(&json!(name)),
                    "description": description,
                    "schema": without_null(schema),
                }));
            }
        }
        parameters
    }

    fn responses(&mut self, route: &Route) -> Map<String, Value> {
        let mut responses = Map::new();
        for answer in route.answers {
            let described = self.answer(answer);
            responses.insert(answer.status.to_string(), described);
        }
        match route.errors {
            Errors::Problem => {
                let mut by_status: BTreeMap<u16, Vec<&Code>> = BTreeMap::new();
                for code in route.codes_of_errors() {
                    by_status.entry(code.status).or_default().push(code);
                }
                for (status, codes) in by_status {
                    responses.insert(status.to_string(), self.problem(status, &codes));
                }
            }
            Errors::Registry(statuses) => {
                let schema = self.answers.subschema_for::<RegistryProblem>().to_value();
                for status in statuses {
                    let content = json!({ REGISTRY: { "schema": schema } });
                    let described =
                        json!({ "description": "The registry's own refusal.", "content": content });
                    responses.insert(status.to_string(), described);
                }
            }
        }
        responses
    }

    fn answer(&mut self, answer: &Answer) -> Value {
        let mut described = json!({ "description": answer.description });
        if !answer.content.is_empty() {
            let schema = |schema: SchemaOf| schema(&mut self.answers).to_value();
            described["content"] = content(answer.content, schema).into();
        }
        described
    }

    fn problem(&mut self, status: u16, codes: &[&Code]) -> Value {
        let schema = self.answers.subschema_for::<Problem>().to_value();
        let names: Vec<_> = codes.iter().map(|code| code_schema(code)).collect();
        let examples: Map<_, _> = codes
            .iter()
            .map(|code| {
                let name = example_name(code);
                let reference = json!({ "$ref": format!("#/components/examples/{name}") });
                (name, reference)
            })
            .collect();
        let meanings: Vec<_> = codes
            .iter()
            .map(|code| format!("- `{}`: {}", code.code, code.meaning))
            .collect();
        let narrowed =
            json!({ "allOf": [schema, { "properties": { "code": { "anyOf": names } } }] });
        let mut described = json!({
            "description": meanings.join("\n"),
            "content": { PROBLEM: { "schema": narrowed, "examples": examples } },
        });
        let headers: &[&str] = match status {
            401 => &["WWW-Authenticate"],
            429 => &[
                "Retry-After",
                "RateLimit",
                "RateLimit-Policy",
                "X-RateLimit-Limit",
                "X-RateLimit-Remaining",
                "X-RateLimit-Reset",
            ],
            409 | 503 => &["Retry-After"],
            _ => &[],
        };
        if !headers.is_empty() {
            let reference = |name: &&str| {
                let reference = json!({ "$ref": format!("#/components/headers/{name}") });
                ((*name).to_owned(), reference)
            };
            let headers: Map<_, _> = headers.iter().map(reference).collect();
            described["headers"] = headers.into();
        }
        described
    }

    /// The components, and the new names of request schemas that differ from the answer schema of the same name.
    fn components(mut self) -> (Value, BTreeMap<String, String>) {
        let mut schemas = self.answers.take_definitions(true);
        let requests = self.requests.take_definitions(true);
        let mut renamed = BTreeMap::new();
        schemas
            .values_mut()
            .for_each(|schema| tidy(schema, &renamed));
        // A schema that refers to a renamed one also differs.
        loop {
            let differs = |(name, schema): &(&String, &Value)| {
                let mut schema = (*schema).clone();
                tidy(&mut schema, &renamed);
                let answer = schemas.get(*name);
                !renamed.contains_key(*name) && answer.is_some_and(|answer| *answer != schema)
            };
            let Some((name, _)) = requests.iter().find(differs) else {
                break;
            };
            renamed.insert(name.clone(), format!("{name}Request"));
        }
        for (name, schema) in requests {
            let name = renamed.get(&name).cloned().unwrap_or(name);
            schemas.insert(name, schema);
        }
        let examples: Map<_, _> = problem::ALL
            .iter()
            .map(|code| {
                let name = code.code.replace("{field}", "source");
                let value = json!({
                    "type": format!("urn:omnilink:problem:{name}"),
                    "title": name.replace('_', " "),
                    "status": code.status,
                    "code": name,
                    "detail": code.meaning,
                    "request_id": "4bf92f3577b34da6a3ce929d0e0e4736",
                });
                (
                    example_name(code),
                    json!({ "summary": code.meaning, "value": value }),
                )
            })
            .collect();
        let header = |kind: &str, description: &str| json!({ "description": description, "schema": { "type": kind } });
        let components = json!({
            "schemas": schemas,
            "examples": examples,
            "headers": {
                "WWW-Authenticate": header("string", "`Bearer`, with the error (RFC 6750)."),
                "Retry-After": header("integer", "Seconds until a retry is worthwhile."),
                "RateLimit": header("string", "The remaining quota, and the time until it is reset."),
                "RateLimit-Policy": header("string", "The limit's name, size and window."),
                "X-RateLimit-Limit": header("integer", "The limit's size."),
                "X-RateLimit-Remaining": header("integer", "The remaining quota."),
                "X-RateLimit-Reset": header("integer", "Seconds until the quota is reset."),
            },
            "securitySchemes": {
                KEY: {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "omni.{prefix}.{secret}",
                    "description": "An API key. The names next to it are the permissions that a route needs; `operator` includes \
                        `admin`, and `*` includes all.",
                }
            },
        });
        (components, renamed)
    }
}

fn content(all: &[Content], mut schema: impl FnMut(SchemaOf) -> Value) -> Map<String, Value> {
    let described = all.iter().map(|content| {
        let mut described = json!({});
        if let Some(schema_of) = content.schema {
            described["schema"] = schema(schema_of);
            if content.media == NDJSON {
                described["schema"] =
                    json!({ "description": "Of each line.", "allOf": [described["schema"]] });
            }
        }
        if let Some(example) = content.example {
            // Tests check that examples are JSON.
            described["example"] = serde_json::from_str(example).unwrap_or_default();
        }
        (content.media.to_owned(), described)
    });
    described.collect()
}

/// A missing parameter is absent, never null.
fn without_null(mut schema: Value) -> Value {
    let null = json!({ "type": "null" });
    if let Some([one, other]) = schema["anyOf"].as_array().map(Vec::as_slice)
        && *other == null
    {
        return one.clone();
    }
    if let Some(types) = schema["type"].as_array()
        && let [one, Value::String(other)] = types.as_slice()
        && other == "null"
    {
        schema["type"] = one.clone();
    }
    schema
}

/// The schema of a code, or a pattern if the code contains a field's name.
fn code_schema(code: &Code) -> Value {
    match code.code.split_once("{field}") {
        Some((before, after)) => json!({ "pattern": format!("^{before}[A-Za-z_]+{after}$") }),
        None => json!({ "const": code.code }),
    }
}

fn example_name(code: &Code) -> String {
    code.code.replace(['{', '}'], "")
}

/// Converts `ListKeys` to `listKeys`.
fn camel_case(name: &str) -> String {
    let mut characters = name.chars();
    let first = characters.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(characters).collect()
}
