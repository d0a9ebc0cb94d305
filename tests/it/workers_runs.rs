//! Runs from start to end on a whole node: the saga, the workers and what they answer.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Value, json};

use crate::support::{
    command::{Folder, Up},
    worker::{Worker, answer},
};

/// Starts the workflow `trip`, and waits for its end.
async fn trip(up: &Up, key: &str, id: &str, params: &Value) -> (StatusCode, Value) {
    let body = json!({ "id": id, "source": "/shop", "type": "trip", "workflow": { "name": "trip" }, "input": params });
    let request = Request::post(format!("{}/v1/workflows", up.url))
        .header("authorization", format!("Bearer {key}"))
        .header("content-type", "application/json")
        .header("idempotency-key", id)
        .header("prefer", "wait=30")
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_carried_out_by_http_workers() {
    let worker = Worker::start(|got| {
        let call = got.json();
        let first = call["attempt"] == 1;
        Box::pin(async move {
            match &*got.path {
                "/reserve" if first => answer(503, &[], ""),
                "/reserve" => answer(200, &[], r#"{"seat":"12A"}"#),
                "/pay" if call["input"]["amount"] == 13 => {
                    let problem = [("content-type", "application/problem+json")];
                    answer(
                        402,
                        &problem,
                        r#"{"code":"no_funds","detail":"The account is empty"}"#,
                    )
                }
                "/pay" if call["input"]["amount"] == 14 => answer(200, &[], "paid, but not JSON"),
                "/pay" => answer(200, &[], r#"{"transfer":"T-1"}"#),
                // Cancelling and paying back.
                _ => answer(200, &[], ""),
            }
        })
    })
    .await;
    let dir = Folder::new();
    let write = |file: &str, text: String| {
        let file = dir.path().join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    };
    for (tool, more) in [
        (
            "reserve",
            "compensate: { tool: cancel, input: { seat: \"{{ step.output.seat }}\" } }\nretry: { initial_ms: 10 }",
        ),
        ("cancel", ""),
        (
            "pay",
            "compensate: { tool: refund, input: { amount: \"{{ step.input.amount }}\" } }",
        ),
        ("refund", ""),
    ] {
        let url = worker.url(&format!("/{tool}"));
        write(
            &format!("tools/{tool}.yaml"),
            format!(
                "name: {tool}\nkind: write\nrisk: {{ lane: safe }}\nworker: {{ http: {{ url: \"{url}\" }} }}\n{more}\n"
            ),
        );
    }
    let plan = json!({
        "steps": [
            { "id": "seat", "tool": "reserve", "input": {} },
            { "id": "money", "tool": "pay", "input": { "amount": "{{ params.amount }}" }, "depends_on": ["seat"] }
        ],
        "output": { "seat": "{{ steps.seat.output.seat }}", "transfer": "{{ steps.money.output.transfer }}" }
    });
    let workflow =
        json!({ "name": "trip", "version": "1.0.0", "params": { "type": "object" }, "plan": plan });
    write("workflows/trip.yaml", workflow.to_string());
    let folder = dir.path().to_owned();
    let up =
        tokio::task::spawn_blocking(move || Up::start_with(&folder, &["--without", "projections"]));
    let up = up.await.unwrap();
    let key = std::fs::read_to_string(dir.path().join("data/admin.key")).unwrap();
    let key = key.trim();

    let (status, run) = trip(&up, key, "1", &json!({ "amount": 5 })).await;
    assert_eq!(
        (status, &run["status"]),
        (StatusCode::OK, &json!("succeeded")),
        "{run}"
    );
    assert_eq!(run["output"], json!({ "seat": "12A", "transfer": "T-1" }));
    // 503 was an attempt.
    assert_eq!(run["steps"][0]["attempts"], 2, "{run}");

    // A refusal undoes what was done; an answer that is no output has had its effect, and is undone too.
    for (id, amount, code, undone) in [
        ("2", 13, "no_funds", vec!["seat"]),
        ("3", 14, "invalid_output", vec!["money", "seat"]),
    ] {
        let (status, run) = trip(&up, key, id, &json!({ "amount": amount })).await;
        assert_eq!(
            (status, &run["status"]),
            (StatusCode::OK, &json!("failed")),
            "{run}"
        );
        let error = &run["error"];
        assert_eq!(
            (&error["failed_step_id"], &error["code"]),
            (&json!("money"), &json!(code)),
            "{run}"
        );
        let results = error["compensation_results"].as_array().unwrap();
        let expected: Vec<_> = undone
            .iter()
            .map(|step| json!({ "step_id": step, "success": true }))
            .collect();
        assert_eq!(results, &expected, "{run}");
    }
    let of = |path: &str| {
        worker
            .got()
            .into_iter()
            .filter(|got| got.path == path)
            .collect::<Vec<_>>()
    };
    let cancels = of("/cancel");
    assert_eq!(cancels[0].json()["input"], json!({ "seat": "12A" }));
    assert_eq!(
        cancels[0].json()["execute"]["output"],
        json!({ "seat": "12A" })
    );
    assert_eq!(cancels[0].json()["error"]["code"], "no_funds");
    assert_eq!((of("/refund").len(), cancels.len()), (1, 2));
    // The same start again is the same run.
    let (_, again) = trip(&up, key, "1", &json!({ "amount": 5 })).await;
    assert_eq!(again["results"][0]["status"], "duplicate", "{again}");
    assert_eq!(of("/reserve").len(), 6);

    tokio::task::spawn_blocking(move || assert_eq!(up.stop(), 0))
        .await
        .unwrap();
    let errors = std::fs::read_to_string(dir.path().join("up.err")).unwrap();
    assert!(!errors.contains("ERROR"), "{errors}");
}
