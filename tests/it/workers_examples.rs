//! The workers of `examples/workers`, as they stand.

use std::{
    process::{Child, Command},
    time::Duration,
};

use omnilink::commands::result::StepOutcome;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{
    env_or_skip,
    port::{Node, scopes},
    tasks::Queue,
    worker::{put_tools, send, start, step, told},
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

struct Example(Child);

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts an example; `None`: there is no Python for tests. Returns its URL too.
async fn example(name: &str, env: &[(&str, &str)]) -> Option<(Example, String)> {
    let python = env_or_skip("OMNILINK_TEST_PYTHON")?;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let script = format!("{}/examples/workers/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(python);
    command.args([script, address.port().to_string()]);
    command.envs(env.iter().copied());
    let child = Example(command.spawn().unwrap());
    for _ in 0..200 {
        if TcpStream::connect(address).await.is_ok() {
            return Some((child, format!("http://{address}/")));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{name} does not listen");
}

fn http(url: &str) -> Value {
    json!({ "http": { "url": url } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_called_checks_signatures_and_keeps_keys() {
    let Some((_worker, url)) = example("http_worker.py", &[("WORKER_SECRET", SECRET)]).await else {
        return;
    };
    let node = Node::start().await;
    let signed = |name: &str| {
        format!("name: {name}\nworker: {{ http: {{ url: \"{url}\", secret: \"{SECRET}\" }} }}")
    };
    put_tools(
        &node,
        &[
            signed("pay"),
            format!("name: unsigned\nworker: {{ http: {{ url: \"{url}\" }} }}"),
        ],
    );
    let _running = start(&node, &[]);
    let pay = step("a", "pay", &http(&url), &json!({ "amount": 5 }));
    send(&node, std::slice::from_ref(&pay)).await;
    told(&node, 1).await;
    let mut again = pay;
    again.step_id = "b".into();
    let much = step("c", "pay", &http(&url), &json!({ "amount": 5_000 }));
    let unsigned = step("d", "unsigned", &http(&url), &json!({}));
    send(&node, &[again, much, unsigned]).await;
    let told = told(&node, 4).await;
    for told in &told[..2] {
        assert_eq!(
            told.result().output.as_ref().unwrap().value(),
            json!({ "transfer": "T-1" })
        );
    }
    assert_eq!(
        (told[2].code(), told[3].code()),
        ("no_funds", "invalid_signature")
    );
}

#[test]
fn a_worker_that_fetches_its_work_keeps_its_lease() {
    let Some(python) = env_or_skip("OMNILINK_TEST_PYTHON") else {
        return;
    };
    let tool = "name: export\nkind: read\nrisk: { lane: safe }\nworker: { claim: {} }";
    let Some(queue) = Queue::start(&[tool]) else {
        return;
    };
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/examples/workers/pull_worker.py"
    );
    let mut worker = Command::new(python);
    worker.args([script, "export"]).env("LEASE_S", "1");
    worker.env("OMNILINK_URL", format!("http://{}", queue.node.address));
    worker.env("OMNILINK_KEY", &queue.worker);
    let _worker = Example(worker.spawn().unwrap());
    queue.database.runtime.block_on(async {
        // Longer than a lease.
        let steps = json!([{ "id": "a", "tool": "export", "input": { "seconds": 2.5 } }, { "id": "b", "tool": "export" }]);
        let run = queue.run("1", &steps).await;
        let history = queue.until(&run, "run_succeeded").await;
        let of = |kind: &str| history.iter().filter(|record| record.kind == kind).count();
        assert_eq!((of("step_started"), of("step_succeeded")), (2, 2));
        let done = history.iter().any(|record| record.body.contains(r#"{"done":{"seconds":2.5}}"#));
        assert!(done, "{history:?}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_takes_long_completes_its_task_later() {
    let node = Node::start().await;
    let key = node.key("acme", scopes(&["tasks:complete"])).await;
    let omnilink = format!("http://{}", node.address);
    let env = [("OMNILINK_URL", &*omnilink), ("OMNILINK_KEY", &*key)];
    let Some((_worker, url)) = example("http_later.py", &env).await else {
        return;
    };
    let _running = start(&node, &[]);
    send(
        &node,
        &[step(
            "report",
            "report",
            &http(&url),
            &json!({ "name": "june" }),
        )],
    )
    .await;
    let told = told(&node, 1).await;
    assert_eq!(told[0].result().outcome, StepOutcome::Succeeded);
    assert_eq!(
        told[0].result().output.as_ref().unwrap().value(),
        json!({ "report": "june.pdf" })
    );
}
