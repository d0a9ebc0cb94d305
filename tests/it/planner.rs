//! The planner: requests on `goals`, answers on `commands`. Language models behind OpenAI-compatible servers, workflows by their examples,
//! bounds, controls, and what is left without a model.

use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use omnilink::{
    commands::start::PlanSource,
    planner::{PLANNER_EVENT, PLANNER_HOST},
    plans::jcs,
    runs::Json,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    language_model::{
        LanguageServer, Says, answer_for, ask, models, plan_of, planned, put_files, request,
        request_with, settings, stages, start, why_not,
    },
    port::{Node, NodeOptions},
};

const BOOK: &str = "name: flights.book\ndescription: Books a flight.\nworker: { claim: {} }\nkind: write\nrisk: { lane: safe }\n\
    input_schema: { type: object, required: [to, on], properties: { to: { type: string }, on: { type: string } } }\n";
const FLIGHT: &str = "name: flight\nversion: '1.2.0'\nexamples: ['Book flight to {LOCATION} {DATE}', 'Get me a flight to {LOCATION} {DATE}']\n\
    bind: { to: '{{ slots.LOCATION }}', on: '{{ slots.DATE }}' }\n\
    params: { type: object, required: [to, on], properties: { to: { type: string }, on: { type: string } } }\n\
    plan: { steps: [{ id: book, tool: flights.book, input: '{{ params }}' }] }\n";

fn plan() -> Value {
    json!({ "steps": [{ "id": "book", "tool": "flights.book", "input": { "to": "{{ slots.LOCATION }}", "on": "{{ slots.DATE }}" } }] })
}

async fn node_with(planner: omnilink::planner::Settings) -> Node {
    let options = NodeOptions {
        planner,
        ..NodeOptions::default()
    };
    let node = Node::start_whole(TempDir::new().unwrap(), options).await;
    put_files(&node, &[BOOK], &[]);
    node
}

async fn node_of(servers: &[(&LanguageServer, &str)]) -> Node {
    let items: Vec<_> = servers
        .iter()
        .map(|(server, model)| server.item(model))
        .collect();
    node_with(omnilink::planner::Settings {
        models: models(&items),
        ..omnilink::planner::Settings::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_language_model_plans_a_goal_with_the_tools_and_the_cost_is_known() {
    let server = LanguageServer::start(&[Says::plan(&plan())]).await;
    let node = node_of(&[(&server, "m")]).await;
    let _planning = start(&node);
    let answer = planned(&node, &request(1, "Fly to Paris tomorrow")).await;
    assert_eq!(answer.request, 2);
    let made = answer.planned.as_ref().unwrap();
    assert_eq!(
        (made.source, &made.hash),
        (PlanSource::Llm, &jcs::hash(&plan()))
    );
    assert_eq!(plan_of(&answer), plan());
    assert!(answer.tools.contains_key("flights.book"));
    assert_eq!(
        answer.found.template.as_deref(),
        Some("Fly to {LOCATION} {DATE}")
    );
    assert_eq!(answer.found.slots["LOCATION"], "Paris");
    assert!(answer.found.red.is_empty() && !answer.found.flagged);
    let cost = answer.found.cost.as_ref().unwrap().value();
    assert_eq!(
        (&cost["input_tokens"], &cost["output_tokens"]),
        (&json!(100), &json!(20))
    );
    assert!(
        (cost["cost"].as_f64().unwrap() - 0.002).abs() < 1e-9,
        "{cost}"
    );
    assert_eq!(stages(&answer).last().unwrap(), "llm hit");

    let got = server.got().remove(0);
    assert_eq!(
        (&*got.path, got.header("authorization")),
        ("/v1/chat/completions", "Bearer sk-hush")
    );
    let body = got.json();
    assert_eq!(body["response_format"]["type"], "json_schema");
    assert_eq!(body["response_format"]["json_schema"]["strict"], true);
    let told = body["messages"][0]["content"].as_str().unwrap();
    assert!(
        told.contains("\"flights.book\"") && told.contains("Books a flight."),
        "{told}"
    );
    let asked: Value =
        serde_json::from_str(body["messages"][1]["content"].as_str().unwrap()).unwrap();
    assert_eq!(asked["goal"], "Fly to Paris tomorrow");
    assert_eq!(asked["slots"]["LOCATION_1"], "Paris");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_is_not_valid_is_repaired_once() {
    let wrong = json!({ "steps": [{ "id": "a", "tool": "flights.bok", "input": {} }] });
    let server = LanguageServer::start(&[
        Says::plan(&wrong),
        Says::plan(&plan()),
        Says::Text("no".into()),
    ])
    .await;
    let node = node_of(&[(&server, "m")]).await;
    let _planning = start(&node);
    let answer = planned(&node, &request(1, "Fly to Paris tomorrow")).await;
    assert_eq!(plan_of(&answer), plan());
    assert_eq!(answer.found.cost.unwrap().value()["calls"], 2);
    let repair = server.got()[1].json();
    let messages = repair["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 4);
    let faults = messages[3]["content"].as_str().unwrap();
    assert!(
        faults.contains("there is no tool `flights.bok`"),
        "{faults}"
    );
    // A second time it is not.
    let answer = planned(&node, &request(2, "Fly to Rome tomorrow")).await;
    let why = why_not(&answer);
    assert!(
        why.contains("its plan is not valid: it is not JSON") && why.contains("m at http://"),
        "{why}"
    );
    assert_eq!(server.got().len(), 4);
    assert_eq!(answer.found.degraded, ["planner_unavailable"]);
    // The plan of a person is cached under the template.
    assert_eq!(
        answer.found.template.as_deref(),
        Some("Fly to {LOCATION} {DATE}")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_slots_are_written_as_slots_and_a_plan_that_ignores_one_is_not_cached() {
    let literal = json!({ "steps": [{ "id": "b", "tool": "flights.book", "input": "{\"to\": \"Paris\", \"on\": \"{{ slots.DATE }}\"}", "depends_on": [], "when": null }], "output": null });
    let ignored = json!({ "steps": [{ "id": "b", "tool": "flights.book", "input": { "to": "{{ slots.LOCATION }}", "on": "whenever" } }] });
    let server = LanguageServer::start(&[
        Says::plan(&literal),
        Says::plan(&ignored),
        Says::plan(&plan()),
    ])
    .await;
    let node = node_of(&[(&server, "m")]).await;
    let _planning = start(&node);
    let answer = planned(&node, &request(1, "Fly to Paris tomorrow")).await;
    let general = plan_of(&answer);
    let to = general["steps"][0]["input"]["to"].as_str().unwrap();
    assert!(to.starts_with("{{ slots.LOCATION"), "{general}");
    assert!(answer.found.template.is_some());
    let answer = planned(&node, &request(2, "Fly to Rome tomorrow")).await;
    assert_eq!(plan_of(&answer), ignored);
    assert_eq!(answer.found.template, None);
    // What was sent with the goal may be in the plan too.
    let with_params = request_with(3, "Fly to Oslo tomorrow", |inputs| {
        inputs.params = Json::of(&json!({ "class": "economy" }));
    });
    let answer = planned(&node, &with_params).await;
    assert_eq!((plan_of(&answer), answer.found.template), (plan(), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_is_asked_again_and_one_that_fails_is_followed_by_the_next() {
    let first = LanguageServer::start(&[
        Says::Status(429, Some(1)),
        Says::plan(&plan()),
        Says::Status(500, None),
        Says::Status(503, None),
        Says::Silence,
    ])
    .await;
    let second = LanguageServer::start(&[Says::plan(&plan())]).await;
    let node = node_of(&[(&first, "one"), (&second, "two")]).await;
    let planning = start(&node);
    let began = Instant::now();
    let answer = planned(&node, &request(1, "Fly to Paris tomorrow")).await;
    assert!(answer.found.degraded.is_empty());
    assert_eq!(answer.found.cost.unwrap().value()["model"], "one");
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!((first.got().len(), second.got().len()), (2, 0));
    // Two failures, then the next one.
    let answer = planned(&node, &request(2, "Fly to Rome tomorrow")).await;
    assert_eq!(plan_of(&answer), plan());
    assert_eq!(answer.found.degraded, ["planner_unavailable"]);
    let cost = answer.found.cost.unwrap().value();
    assert_eq!((&cost["model"], &cost["calls"]), (&json!("two"), &json!(2)));
    assert_eq!((first.got().len(), second.got().len()), (4, 1));
    // No answer in time.
    let answer = planned(&node, &request(3, "Fly to Oslo tomorrow")).await;
    assert_eq!(answer.found.cost.unwrap().value()["model"], "two");
    assert_eq!(first.got().len(), 6);
    let status = planning.planner.status();
    assert!(
        status.detail.contains("one at http://") && status.detail.contains("no response within"),
        "{status:?}"
    );
    // Half of the calls failed, and five of them: the breaker opens with the next one, and then nothing is sent.
    for run in 4..8 {
        planned(&node, &request(run, "Fly to Bonn tomorrow")).await;
    }
    let sent = first.got().len();
    let began = Instant::now();
    planned(&node, &request(8, "Fly to Bern tomorrow")).await;
    assert_eq!(first.got().len(), sent);
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_plan_the_answer_says_what_was_tried() {
    let refusing = LanguageServer::start(&[Says::Status(401, None)]).await;
    let node = node_of(&[(&refusing, "m")]).await;
    let _planning = start(&node);
    let answer = planned(&node, &request(1, "Fly to Paris tomorrow")).await;
    let why = why_not(&answer);
    assert!(
        why.contains("it answered 401 (no_luck)") && why.contains("configure `planner`"),
        "{why}"
    );
    assert!(!why.contains("hush"), "{why}");
    assert_eq!(refusing.got().len(), 1);
    // A key that allows workflows alone gets no plan of a model.
    let limited = request_with(2, "Fly to Paris tomorrow", |inputs| {
        inputs.allowed_workflows = vec!["other".into()];
    });
    let answer = planned(&node, &limited).await;
    assert!(why_not(&answer).contains("allow workflows alone"));
    assert_eq!(refusing.got().len(), 1);

    let node = node_with(omnilink::planner::Settings::default()).await;
    let _planning = start(&node);
    let answer = planned(&node, &request(1, "Fly to Paris tomorrow")).await;
    assert!(why_not(&answer).contains("`planner` is not configured"));
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_and_events_outside_the_bounds_need_approval() {
    let http = |url: &str| json!({ "method": "GET", "url": url });
    let plan = json!({ "steps": [
        { "id": "a", "tool": "http", "input": http("https://api.example.com/x") },
        { "id": "b", "tool": "http", "input": http("https://other.example.com/x") },
        { "id": "c", "tool": "emit", "input": { "type": "order.paid", "data": 1 } },
        { "id": "d", "tool": "emit", "input": { "type": "order.lost", "data": 1 } }
    ] });
    let server = LanguageServer::start(&[Says::plan(&plan)]).await;
    let config = json!({
        "planner": [server.item("m")],
        "allow": { "planner_hosts": ["api.example.com"], "planner_events": ["order.paid"] }
    });
    let node = node_with(settings(&config, None)).await;
    let _planning = start(&node);
    let answer = planned(&node, &request(1, "Say that all is well")).await;
    let expected = json!({ "b": [PLANNER_HOST], "d": [PLANNER_EVENT] });
    assert_eq!(json!(answer.found.red), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_is_found_by_its_example_and_bound_to_the_slots() {
    let node = node_with(omnilink::planner::Settings::default()).await;
    put_files(&node, &[BOOK], &[FLIGHT]);
    let _planning = start(&node);
    let answer = planned(&node, &request(1, "book flight to Paris 2026-12-24")).await;
    assert_eq!(answer.planned.as_ref().unwrap().source, PlanSource::Catalog);
    let workflow = answer.workflow.as_ref().unwrap();
    assert_eq!((&*workflow.name, &*workflow.version), ("flight", "1.2.0"));
    assert_eq!(
        answer.found.params.as_ref().unwrap().value(),
        json!({ "to": "Paris", "on": "2026-12-24" })
    );
    assert_eq!(answer.found.score, Some(1.0));
    assert!(answer.tools.contains_key("flights.book"));
    assert_eq!(stages(&answer), ["template miss", "catalog hit"]);
    // The key allows other workflows, or another version.
    for (run, allowed) in [(2, "pay"), (3, "flight@1.0.0")] {
        let limited = request_with(run, "Book flight to Paris 2026-12-24", |inputs| {
            inputs.allowed_workflows = vec![allowed.into()];
        });
        assert!(planned(&node, &limited).await.error.is_some(), "{allowed}");
    }
    let allowed = request_with(4, "Book flight to Paris 2026-12-24", |inputs| {
        inputs.allowed_workflows = vec!["flight@1.2.0".into()];
        inputs.params = Json::of(&json!({ "to": "Orly", "slots": {} }));
    });
    let answer = planned(&node, &allowed).await;
    // What the sender says wins over what was bound.
    assert_eq!(
        answer.found.params.unwrap().value(),
        json!({ "to": "Orly", "on": "2026-12-24" })
    );
    // A required param that no slot gives.
    let wrong = request_with(5, "Book flight to Paris 2026-12-24", |inputs| {
        inputs.params = Json::of(&json!({ "to": 5 }));
    });
    let answer = planned(&node, &wrong).await;
    assert_eq!(stages(&answer)[1], "catalog refused");
    assert_eq!(answer.found.params, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_planner_answers_that_there_is_no_plan_and_the_kill_switch_holds_goals() {
    let node = node_with(omnilink::planner::Settings::default()).await;
    put_files(&node, &[BOOK], &[FLIGHT]);
    let _planning = start(&node);
    let change = |body: Value| {
        let node = &node;
        async move {
            let path = "/v1/controls";
            let answer = node.request(Method::PATCH, path, &node.admin, &body).await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        }
    };
    change(json!({ "disabled": { "planner": "too expensive" }, "reason": "r" })).await;
    let answer = planned(&node, &request(1, "Book flight to Paris 2026-12-24")).await;
    assert_eq!(
        why_not(&answer),
        "the feature `planner` is disabled: too expensive"
    );
    change(json!({ "disabled": { "planner": null }, "kill_switch": true, "reason": "r" })).await;
    ask(&node, &[request(2, "Book flight to Paris 2026-12-24")]).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let commands = node.names.commands.to_string();
    let log = node.log.clone();
    let read = tokio::task::spawn_blocking(move || crate::support::read_all(&*log, &commands, 0));
    let of_run = read.await.unwrap();
    assert_eq!(
        of_run
            .iter()
            .filter(|f| f
                .record
                .key
                .as_deref()
                .is_some_and(|k| k.ends_with(b"000002")))
            .count(),
        0
    );
    change(json!({ "kill_switch": false, "reason": "r" })).await;
    assert!(answer_for(&node, 2).await.planned.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_workflow_is_refused_for_goals_and_explained_like_that() {
    let node = node_with(omnilink::planner::Settings::default()).await;
    put_files(&node, &[BOOK], &[FLIGHT]);
    let _planning = start(&node);
    let call = |method: Method, path: &'static str, body: Value| {
        let node = &node;
        async move {
            let answer = node.request(method, path, &node.admin, &body).await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
            answer.json()
        }
    };
    let explain = || {
        call(
            Method::POST,
            "/v1/plans:explain",
            json!({ "goal": "Book flight to Paris 2026-12-24" }),
        )
    };
    let goal = "Book flight to Paris 2026-12-24";
    assert_eq!(explain().await["source"], "catalog");
    let disabled = json!({ "disabled": { "workflow:flight": "broken" }, "reason": "r" });
    call(Method::PATCH, "/v1/controls", disabled).await;
    let answer = planned(&node, &request(1, goal)).await;
    assert!(answer.error.is_some());
    let stage = answer.found.lookup.unwrap().value()["stages"][1].clone();
    assert_eq!(
        (&stage["verdict"], &stage["reason"]),
        (&json!("refused"), &json!("workflow_disabled"))
    );
    let explained = explain().await;
    assert_eq!(explained["stages"][1], stage);
    assert_eq!(explained["source"], Value::Null);
    let enabled =
        json!({ "disabled": { "workflow:flight": null, "planner": "off" }, "reason": "r" });
    call(Method::PATCH, "/v1/controls", enabled).await;
    let explained = explain().await;
    assert_eq!(explained["source"], Value::Null);
    assert_eq!(explained["stages"][0]["stage"], "planner");
    let enabled = json!({ "disabled": { "planner": null }, "reason": "r" });
    call(Method::PATCH, "/v1/controls", enabled).await;
    // The same value is the same placeholder in all of it, and what is denied gets no plan.
    let body = json!({ "goal": "Book flight to Paris 2026-12-24 for ann@example.com", "params": { "to": "bob@example.com", "on": "ann@example.com" } });
    let explained = call(Method::POST, "/v1/plans:explain", body).await;
    assert_eq!(
        explained["goal"],
        "Book flight to Paris 2026-12-24 for {EMAIL_1}"
    );
    let body = json!({ "goal": goal, "params": { "to": "ann@example.com" } });
    let explained = call(Method::POST, "/v1/plans:explain", body).await;
    assert_eq!(
        explained["params"],
        json!({ "to": "{EMAIL_1}", "on": "2026-12-24" })
    );
    let limited = node
        .key("acme", {
            let mut scopes = crate::support::port::scopes(&["runs:read"]);
            scopes.constraints.allowed_workflows =
                serde_json::from_value(json!([{ "name": "other" }])).unwrap();
            scopes
        })
        .await;
    let body = json!({ "goal": goal });
    let answer = node
        .request(Method::POST, "/v1/plans:explain", &limited, &body)
        .await;
    assert_eq!(answer.json()["stages"][1]["reason"], "workflow_not_allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_look_flags_a_goal_and_so_does_its_failure() {
    let verdict =
        |injection: bool| Says::Text(json!({ "injection": injection, "reason": "r" }).to_string());
    let look = LanguageServer::start(&[
        verdict(false),
        verdict(true),
        Says::Text("maybe".into()),
        Says::Status(401, None),
    ])
    .await;
    let mut item = look.item("guard");
    for member in ["timeout_s", "price"] {
        item.as_object_mut().unwrap().remove(member);
    }
    let node = node_with(settings(&json!({ "guardian": { "llm": item } }), None)).await;
    put_files(&node, &[BOOK], &[FLIGHT]);
    let _planning = start(&node);
    for (run, flagged, degraded) in [
        (1, false, false),
        (2, true, false),
        (3, true, true),
        (4, true, true),
    ] {
        let answer = planned(&node, &request(run, "Book flight to Paris 2026-12-24")).await;
        assert!(answer.planned.is_some());
        assert_eq!(answer.found.flagged, flagged, "{run}");
        let expected: &[&str] = if degraded {
            &["guardian_llm_unavailable"]
        } else {
            &[]
        };
        assert_eq!(answer.found.degraded, expected, "{run}");
    }
    assert_eq!(look.got().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_model_only_the_same_words_are_found_and_readiness_says_so() {
    let dir = TempDir::new().unwrap();
    let node = node_with(settings(&json!({}), Some(dir.path().join("none")))).await;
    let planning = start(&node);
    let status = planning.planner.embeddings_status();
    assert_eq!(status.status, omnilink::telemetry::Status::Ok, "{status:?}");
    put_files(&node, &[BOOK], &[FLIGHT]);
    let answer = planned(
        &node,
        &request(1, "I would like to fly to Paris on 2026-12-24"),
    )
    .await;
    assert!(answer.error.is_some());
    assert_eq!(answer.found.degraded, ["embeddings_unavailable"]);
    let status = planning.planner.embeddings_status();
    assert_eq!(
        status.status,
        omnilink::telemetry::Status::Degraded,
        "{status:?}"
    );
    let answer = planned(&node, &request(2, "Book flight to Paris 2026-12-24")).await;
    assert!(answer.planned.is_some());
}

#[cfg(feature = "embed")]
#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_is_found_in_other_words_and_not_by_the_opposite() {
    let Some(model) = crate::embed::model_dir() else {
        return;
    };
    let cancel = FLIGHT
        .replace("name: flight", "name: cancel")
        .replace("Book flight", "Cancel my flight")
        .replace("Get me a flight", "Call off the flight");
    let node = node_with(settings(&json!({}), Some(model))).await;
    put_files(&node, &[BOOK], &[FLIGHT, &cancel]);
    let planning = start(&node);
    for _ in 0..100 {
        if planning.planner.embeddings_status().detail.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let answer = planned(
        &node,
        &request(1, "Please book me a flight to Paris 2026-12-24"),
    )
    .await;
    let workflow = answer
        .workflow
        .as_ref()
        .unwrap_or_else(|| panic!("{:?}", answer.found.lookup));
    assert_eq!(workflow.name, "flight");
    assert!(answer.found.score.unwrap() < 1.0);
    assert_eq!(stages(&answer).last().unwrap(), "catalog_similar hit");
    for (run, goal) in [
        (2, "Do not book a flight to Paris 2026-12-24"),
        (3, "Book a flight from Paris 2026-12-24"),
        (4, "Book flight to Paris 2026-12-24 for 3 people"),
    ] {
        let answer = planned(&node, &request(run, goal)).await;
        assert!(answer.error.is_some(), "{goal}: {:?}", answer.workflow);
    }
}
