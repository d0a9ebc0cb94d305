//! The end of the port: what is under way is finished, clients are told, new connections are refused.

use std::{
    io::{Read, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode, header::AUTHORIZATION};
use omnilink::{
    base::clock::SystemClock,
    log::local::{LocalLog, LocalOptions},
};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::support::{
    command::{Folder, Up},
    port::{Mode, Node},
    read_all,
    tls::{Made, http1, http2},
    wait_until,
};

fn post(node: &Node, id: &str) -> Request<Full<Bytes>> {
    let body = format!(r#"{{"id":"{id}","source":"/s","type":"t","data":1}}"#);
    Request::post("https://localhost/v1/events")
        .header(AUTHORIZATION, node.bearer())
        .header("content-type", "application/json")
        .header("host", "localhost")
        .body(Full::new(body.into()))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_are_finished_on_both_protocols() {
    let made = Made::new();
    let mut node = Node::start_tls(&made).await;
    let (mut one, one_ends) = http1(made.connect(node.address, "http/1.1").await).await;
    let (mut two, two_ends) = http2(made.connect(node.address, "h2").await).await;
    let (idle_one, idle_one_ends) = http1(made.connect(node.address, "http/1.1").await).await;
    let (idle_two, idle_two_ends) = http2(made.connect(node.address, "h2").await).await;
    // A history that is followed for ever.
    let (mut follower, _) = http2(made.connect(node.address, "h2").await).await;
    let follow = Request::get("https://localhost/v1/replay?follow=true")
        .header(AUTHORIZATION, node.bearer())
        .body(Full::default())
        .unwrap();
    let following = follower.send_request(follow).await.unwrap();
    assert_eq!(following.status(), StatusCode::OK);

    node.log.set_mode(Mode::Held);
    let first = tokio::spawn(one.send_request(post(&node, "1")));
    let second = tokio::spawn(two.send_request(post(&node, "2")));
    sleep(Duration::from_millis(500)).await;
    let began = Instant::now();
    node.request_stop();
    // Idle connections end at once, and so does what is followed.
    for ends in [idle_one_ends, idle_two_ends] {
        let _ = timeout(Duration::from_secs(3), ends).await.expect("closed");
    }
    drop((idle_one, idle_two));
    let rest = timeout(Duration::from_secs(5), following.into_body().collect());
    assert!(rest.await.is_ok(), "the replay goes on");
    assert!(TcpStream::connect(node.address).await.is_err());
    assert!(!first.is_finished() && !second.is_finished());

    node.log.set_mode(Mode::Works);
    let first = first.await.unwrap().unwrap();
    assert_eq!(first.status(), StatusCode::ACCEPTED);
    assert_eq!(first.headers()["connection"], "close");
    first.into_body().collect().await.unwrap();
    let second = second.await.unwrap().unwrap();
    assert_eq!(second.status(), StatusCode::ACCEPTED);
    second.into_body().collect().await.unwrap();
    for ends in [one_ends, two_ends] {
        let _ = timeout(Duration::from_secs(3), ends).await.expect("closed");
    }
    // After GOAWAY there is no further request.
    assert!(two.send_request(post(&node, "3")).await.is_err());
    node.stop().await;
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_ends_its_request_does_not_hold_the_stop_up() {
    let mut node = Node::start().await;
    let mut slow = TcpStream::connect(node.address).await.unwrap();
    let head = format!(
        "POST /v1/readers HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{",
        node.bearer()
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut half = TcpStream::connect(node.address).await.unwrap();
    half.write_all(b"GET /healthz HT").await.unwrap();
    sleep(Duration::from_millis(300)).await;
    let began = Instant::now();
    node.request_stop();
    // The head was never complete.
    let mut rest = Vec::new();
    let closed = timeout(Duration::from_secs(12), half.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "still open");
    node.stop().await;
    assert!(
        began.elapsed() < Duration::from_secs(12),
        "{:?}",
        began.elapsed()
    );
    let closed = timeout(Duration::from_secs(3), slow.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "still open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_arrive_is_a_408_on_every_route() {
    let node = Node::start().await;
    let mut waiting = Vec::new();
    for path in ["/v1/events", "/v1/keys", "/v1/readers"] {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{",
            node.bearer()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        waiting.push((path, stream));
    }
    for (path, mut stream) in waiting {
        let mut answer = vec![0; 4096];
        let read = timeout(Duration::from_secs(15), stream.read(&mut answer)).await;
        let length = read.expect("an answer").unwrap();
        let text = String::from_utf8_lossy(&answer[..length]);
        assert!(text.starts_with("HTTP/1.1 408"), "{path}: {text}");
        assert!(text.contains("request_timeout"), "{path}: {text}");
    }
}

#[test]
fn a_signal_drains_the_binary() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = Folder::new();
        let mut up = Up::start_with(dir.path(), &["--without", "projections"]);
        let key = std::fs::read_to_string(dir.path().join("data/admin.key")).unwrap();
        let address = up.url.trim_start_matches("http://").to_owned();
        let body = r#"{"id":"1","source":"/s","type":"t","data":1}"#;
        let (first, second) = body.split_at(20);
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        write!(
            stream,
            "POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{first}",
            key.trim(),
            body.len()
        )
        .unwrap();
        std::thread::sleep(Duration::from_millis(500));
        let began = Instant::now();
        up.send(signal);
        wait_until("new connections are refused", || {
            std::net::TcpStream::connect(&address).is_err()
        });
        assert!(up.child.try_wait().unwrap().is_none(), "{signal:?}");
        stream.write_all(second.as_bytes()).unwrap();
        // To its end: the connection is closed after the answer.
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 202"), "{signal:?}: {answer}");
        assert_eq!(up.child.wait().unwrap().code(), Some(0), "{signal:?}");
        assert!(
            began.elapsed() < Duration::from_secs(12),
            "{:?}",
            began.elapsed()
        );
        drop(up);
        // What was answered is in the log.
        let options = LocalOptions::new(Arc::new(SystemClock));
        let log = LocalLog::open(&dir.path().join("data/log"), options).unwrap();
        assert_eq!(read_all(&log, "omnilink.ingress", 1).len(), 1);
    }
}
