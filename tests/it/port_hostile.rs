//! Hostile clients against a running node: meanwhile requests of others are answered, and memory stays bounded.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::sleep;

use crate::support::{
    command::{Folder, Up},
    hostile::{self, Normal, event, normal_load, raise_file_limit},
    tls::{Made, http2},
};

/// Generous, for a debug build beside other tests on two cores, which the attackers share. `scripts/bench hostile` is strict.
const P99: Duration = Duration::from_secs(1);
/// Pause of an attacker between connections, so that its own encryption does not take all of the machine.
const ATTACK_PAUSE: Duration = Duration::from_millis(50);
const RSS_MIB: u64 = 400;

fn key(dir: &Path) -> String {
    let text = std::fs::read_to_string(dir.join("data/admin.key")).unwrap();
    text.trim().to_owned()
}

fn check(what: &str, normal: &Normal) {
    let p99 = normal.percentile(99);
    eprintln!(
        "{what}: {} requests, p50 {:?}, p99 {p99:?}, max {:?}; {} MiB at most",
        normal.took.len(),
        normal.percentile(50),
        normal.took.last().unwrap(),
        normal.peak
    );
    assert!(normal.took.len() > 200, "{}", normal.took.len());
    assert!(p99 < P99, "p99 {p99:?}");
    assert!(normal.peak < RSS_MIB, "{} MiB", normal.peak);
}

#[test]
fn idle_dripping_and_malformed_requests_disturb_nobody() {
    raise_file_limit();
    let dir = Folder::new();
    let up = Up::start_with(dir.path(), &["--without", "projections"]);
    let (key, url, pid) = (key(dir.path()), up.url.clone(), up.child.id());
    let address = url.strip_prefix("http://").unwrap().to_owned();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let stop = Arc::<AtomicBool>::default();
        let client: Client<HttpConnector, Full<Bytes>> =
            Client::builder(TokioExecutor::new()).build_http();
        let normal = tokio::spawn(normal_load(pid, stop.clone(), {
            let (key, url) = (key.clone(), url.clone());
            move |id| {
                let answer = client.request(event(&url, &key, id));
                tokio::spawn(async move {
                    let answer = answer.await.unwrap();
                    let status = answer.status();
                    answer.into_body().collect().await.unwrap();
                    status
                })
            }
        }));
        let idle = hostile::idle(&address).await;
        let mut dripping = hostile::dripping(&address).await;
        let announced = hostile::announced(&address, &key).await;
        let malformed = tokio::spawn({
            let (address, key) = (address.clone(), key.clone());
            async move {
                hostile::nested(&address, &key).await;
                hostile::large_heads(&address).await;
            }
        });
        for _ in 0..8 {
            hostile::drip(&mut dripping).await;
            sleep(Duration::from_secs(1)).await;
        }
        malformed.await.unwrap();
        hostile::are_refused(announced).await;
        stop.store(true, Ordering::Relaxed);
        check("HTTP/1.1", &normal.await.unwrap());
        drop((idle, dripping));
    });
    assert_eq!(up.stop(), 0);
}

#[test]
fn attacks_on_http2_disturb_nobody() {
    raise_file_limit();
    let dir = Folder::new();
    let made = Made::new();
    made.write(dir.path());
    std::fs::write(
        dir.path().join("omnilink.yaml"),
        "tls: { cert: cert.pem, key: key.pem }\n",
    )
    .unwrap();
    let up = Up::start_with(dir.path(), &["--without", "projections"]);
    let (key, pid) = (key(dir.path()), up.child.id());
    let address = up.url.strip_prefix("https://").unwrap().parse().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let stop = Arc::<AtomicBool>::default();
        let held = hostile::endless_bodies(&made, address, &key).await;
        let (client, _) = http2(made.connect(address, "h2").await).await;
        let normal = tokio::spawn(normal_load(pid, stop.clone(), {
            let key = key.clone();
            move |id| {
                let mut client = client.clone();
                let answer = client.send_request(event("https://localhost", &key, id));
                tokio::spawn(async move { answer.await.unwrap().status() })
            }
        }));
        let began = Instant::now();
        let mut rounds = 0;
        while began.elapsed() < Duration::from_secs(7) {
            rounds += 1;
            for _ in 0..10 {
                sleep(ATTACK_PAUSE).await;
                hostile::rapid_reset(&made, address, &key).await;
            }
            for _ in 0..10 {
                sleep(ATTACK_PAUSE).await;
                hostile::endless_head(&made, address).await;
            }
            for _ in 0..10 {
                sleep(ATTACK_PAUSE).await;
                hostile::header_bomb(&made, address).await;
            }
        }
        eprintln!(
            "{rounds} times 10 connections with rapid resets, 10 with endless heads and 10 with bombs of headers"
        );
        stop.store(true, Ordering::Relaxed);
        check("HTTP/2", &normal.await.unwrap());
        drop(held);
    });
    assert_eq!(up.stop(), 0);
}
