//! Clients of others send events without a change: the CloudEvents SDK for Python, and curl with HTTP/2.

use std::process::Command;

use omnilink::envelope::avro::decode_ingress;
use serde_json::{Value, json};

use crate::support::{command::output, env_or_skip, port::Node, read_all, tls::Made};

#[tokio::test(flavor = "multi_thread")]
async fn the_cloudevents_sdk_sends_in_both_modes() {
    let Some(python) = env_or_skip("OMNILINK_TEST_PYTHON") else {
        return;
    };
    let node = Node::start().await;
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/clients/cloudevents_send.py"
    );
    let url = format!("http://{}", node.address);
    let mut command = Command::new(python);
    command.args([script, &url, &node.admin]);
    let (code, out, error) = tokio::task::spawn_blocking(move || output(&mut command))
        .await
        .unwrap();
    assert_eq!(code, 0, "{out}{error}");
    let expected = ["ingested", "duplicate", "ingested", "ingested", "ingested"];
    assert_eq!(out.lines().collect::<Vec<_>>(), expected);
    let (log, ingress) = (node.log.clone(), node.names.ingress.to_string());
    let records = tokio::task::spawn_blocking(move || read_all(log.as_ref(), &ingress, 4))
        .await
        .unwrap();
    assert_eq!(records.len(), 4);
    let mut ids = Vec::new();
    for record in &records {
        let event = decode_ingress(record.record.value.as_deref().unwrap()).unwrap();
        ids.push(event.id.to_string());
        let omnilink::envelope::Data::Json(data) = &event.data else {
            panic!("{event:?}");
        };
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data, json!({ "total": 9.5, "text": "ä ☃", "none": null }));
        if !event.id.starts_with("earlier") {
            assert_eq!(event.source, "/sdk/a%20b");
            assert_eq!(event.subject.as_deref(), Some("50 % \"öff\""));
        }
    }
    ids.sort();
    assert_eq!(ids, ["binary", "earlier", "earlier-binary", "structured"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_sends_over_http2() {
    let version = Command::new("curl").arg("--version").output();
    if !version.is_ok_and(|found| String::from_utf8_lossy(&found.stdout).contains("HTTP2")) {
        eprintln!("SKIPPED: there is no curl with HTTP/2 (scripts/install docs)");
        return;
    }
    let made = Made::new();
    let node = Node::start_tls(&made).await;
    for (flag, protocol) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let mut command = Command::new("curl");
        command
            .args(["--silent", "--show-error", flag, "--cacert"])
            .arg(node.dir.path().join("cert.pem"))
            .args(["--header", &format!("Authorization: {}", node.bearer())])
            .args(["--header", "Content-Type: application/json"])
            .args(["--write-out", "\n%{http_version} %{response_code}"])
            .args([
                "--data",
                &format!(r#"{{"id":"{protocol}","source":"/curl","type":"t","data":1}}"#),
            ])
            .arg(format!(
                "https://localhost:{}/v1/events",
                node.address.port()
            ));
        let (code, out, error) = tokio::task::spawn_blocking(move || output(&mut command))
            .await
            .unwrap();
        assert_eq!(code, 0, "{out}{error}");
        assert!(out.ends_with(&format!("\n{protocol} 202")), "{out}");
    }
}
