//! Connections without a request are closed after a minute, on both protocols; others are not.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode, header::AUTHORIZATION};
use tokio::time::{sleep, timeout};

use crate::support::{
    port::Node,
    tls::{Made, http1, http2},
};

fn request(
    node: &Node,
    request: hyper::http::request::Builder,
    body: &str,
) -> Request<Full<Bytes>> {
    request
        .header(AUTHORIZATION, node.bearer())
        .header("content-type", "application/json")
        .body(Full::new(body.to_owned().into()))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_closed_after_a_minute_and_no_others() {
    let made = Made::new();
    let node = Node::start_tls(&made).await;
    let began = Instant::now();
    let (one, one_ends) = http1(made.connect(node.address, "http/1.1").await).await;
    let (two, two_ends) = http2(made.connect(node.address, "h2").await).await;
    // One whose only request is answered for ever, and one with a request in between.
    let (mut follower, _) = http2(made.connect(node.address, "h2").await).await;
    let follow = Request::get("https://localhost/v1/replay?follow=true");
    let following = follower
        .send_request(request(&node, follow, ""))
        .await
        .unwrap();
    assert_eq!(following.status(), StatusCode::OK);
    let following = tokio::spawn(following.into_body().collect());
    let (mut busy, busy_ends) = http2(made.connect(node.address, "h2").await).await;
    let mut post = async |id: &str| {
        let body = format!(r#"{{"id":"{id}","source":"/s","type":"t","data":1}}"#);
        let post = Request::post("https://localhost/v1/events");
        let answer = busy
            .send_request(request(&node, post, &body))
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
    };
    sleep(Duration::from_secs(30)).await;
    post("1").await;
    for (protocol, ends) in [("HTTP/1.1", one_ends), ("HTTP/2", two_ends)] {
        let ended = timeout(Duration::from_secs(45), ends).await;
        assert!(ended.is_ok(), "{protocol} is open");
        let elapsed = began.elapsed().as_secs();
        assert!((58..75).contains(&elapsed), "{protocol}: {elapsed} s");
    }
    drop((one, two));
    post("2").await;
    assert!(!busy_ends.is_finished());
    assert!(!following.is_finished(), "an answer was broken off");
    node.stop().await;
}
