//! Hostile clients, and beside them a client that sends 50 requests a second in an open loop: how long its requests take, and how
//! much memory the node has meanwhile. The clients and the node share the cores.

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
use hyper::{Request, StatusCode};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::{sleep, timeout};

use crate::{
    attackers::{self, Normal, event, normal_load, raise_file_limit},
    report::Row,
    server::{Log, Server},
    tls::{Http2, Made, http2},
};

/// How long each part lasts.
const SECONDS: Duration = Duration::from_secs(30);
/// Pause of an attacker between connections, so that its own encryption does not take all of the machine.
const PAUSE: Duration = Duration::from_millis(50);
/// Targets: milliseconds until 99 of 100 requests are answered, and MB of resident memory.
const P99_MS: f64 = 50.0;
const RESIDENT_MB: f64 = 400.0;

pub fn measure() {
    raise_file_limit();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = Server::up(Log::Local, false).unwrap();
    let normal = runtime.block_on(in_clear(&server));
    report("hostile, HTTP/1.1", &normal);
    drop(server);

    let dir = tempfile::tempdir().unwrap();
    let made = Made::new();
    made.write(dir.path());
    let path = |name: &str| Path::join(dir.path(), name).display().to_string();
    let tls = [
        ("OMNILINK__TLS__CERT", path("cert.pem")),
        ("OMNILINK__TLS__KEY", path("key.pem")),
    ];
    let server = Server::up_with(Log::Local, false, &tls).unwrap();
    let normal = runtime.block_on(in_http2(&server, &made));
    report("hostile, HTTP/2", &normal);
}

fn report(name: &str, normal: &Normal) {
    let ms = |percent| normal.percentile(percent).as_secs_f64() * 1000.0;
    let rate = attackers::RATE;
    Row::new(
        format!("{name}: another's request at {rate}/s, p50"),
        ms(50),
        "ms",
    )
    .print();
    Row::new(
        format!("{name}: another's request at {rate}/s, p99"),
        ms(99),
        "ms",
    )
    .target_below(P99_MS)
    .note(format!("of {} requests, all accepted", normal.took.len()))
    .print();
    Row::new(
        format!("{name}: resident memory, most"),
        normal.peak as f64,
        "MB",
    )
    .target_below(RESIDENT_MB)
    .print();
}

/// 1,000 idle connections and 1,000 that send a byte a second, 100 announced bodies of 10 MB that never come, bodies that nest
/// 100,000 deep, and heads that are too large, one after another.
async fn in_clear(server: &Server) -> Normal {
    let (address, key) = (server.address.to_string(), server.key.clone());
    let stop = Arc::<AtomicBool>::default();
    let client: Client<HttpConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).build_http();
    let url = format!("http://{address}");
    let normal = tokio::spawn(normal_load(server.pid(), stop.clone(), {
        let key = key.clone();
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
    let idle = attackers::idle(&address).await;
    let mut dripping = attackers::dripping(&address).await;
    let malformed = tokio::spawn({
        let (address, key, stop) = (address.clone(), key.clone(), stop.clone());
        async move {
            while !stop.load(Ordering::Relaxed) {
                attackers::nested(&address, &key).await;
                attackers::large_heads(&address).await;
                sleep(PAUSE).await;
            }
        }
    });
    let begin = Instant::now();
    while begin.elapsed() < SECONDS {
        let announced = attackers::announced(&address, &key).await;
        for _ in 0..8 {
            attackers::drip(&mut dripping).await;
            sleep(Duration::from_secs(1)).await;
        }
        attackers::are_refused(announced).await;
    }
    stop.store(true, Ordering::Relaxed);
    malformed.await.unwrap();
    let normal = normal.await.unwrap();
    drop((idle, dripping));
    normal
}

/// 1,000 connections with bodies that do not end, and one after another rapid resets, endless heads and bombs of headers.
async fn in_http2(server: &Server, made: &Made) -> Normal {
    let (address, key) = (server.address, server.key.clone());
    let (client, _) = http2(made.connect(address, "h2").await).await;
    ready(client.clone()).await;
    let held = attackers::endless_bodies(made, address, &key).await;
    let stop = Arc::<AtomicBool>::default();
    let normal = tokio::spawn(normal_load(server.pid(), stop.clone(), {
        let key = key.clone();
        move |id| {
            let mut client = client.clone();
            let answer = client.send_request(event("https://localhost", &key, id));
            tokio::spawn(async move { answer.await.unwrap().status() })
        }
    }));
    let begin = Instant::now();
    while begin.elapsed() < SECONDS {
        attackers::rapid_reset(made, address, &key).await;
        sleep(PAUSE).await;
        attackers::endless_head(made, address).await;
        sleep(PAUSE).await;
        attackers::header_bomb(made, address).await;
        sleep(PAUSE).await;
    }
    stop.store(true, Ordering::Relaxed);
    let normal = normal.await.unwrap();
    drop(held);
    normal
}

/// Waits until the node is ready.
async fn ready(mut client: Http2) {
    let asked = async {
        loop {
            let request = Request::get("https://localhost/readyz").body(Full::default());
            let answer = client.send_request(request.unwrap()).await.unwrap();
            if answer.status() == StatusCode::OK {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_mins(1), asked).await.expect("ready");
}
