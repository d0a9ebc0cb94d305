//! TLS of the port: protocols, files of certificates, reload, expiry, and slow handshakes.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, header::AUTHORIZATION};
use omnilink::port::Tls;
use serde_json::Value;
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpStream, time::timeout};
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::support::{
    command::{Folder, Up, errors, omnilink, output},
    port::Node,
    tls::{Made, connect, http1, http2},
    wait_until,
};

fn event(id: &str) -> Bytes {
    format!(r#"{{"id":"{id}","source":"/s","type":"t","data":{{"n":1}}}}"#).into()
}

fn post(key: &str, body: Bytes) -> Request<Full<Bytes>> {
    Request::post("https://localhost/v1/events")
        .header(AUTHORIZATION, format!("Bearer {key}"))
        .header("content-type", "application/json")
        .header("host", "localhost")
        .body(Full::new(body))
        .unwrap()
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("https://localhost{path}"))
        .header("host", "localhost")
        .body(Full::default())
        .unwrap()
}

async fn text(response: Response<Incoming>) -> (StatusCode, String) {
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_protocols_and_versions_serve_all_routes() {
    let made = Made::new();
    let node = Node::start_tls(&made).await;
    for (version, name) in [(&TLS12, "12"), (&TLS13, "13")] {
        let connector = made.connector_with("h2", &[version]);
        let (mut client, _) = http2(connect(&connector, node.address).await.unwrap()).await;
        let response = client.send_request(post(&node.admin, event(&format!("2-{name}"))));
        let (status, body) = text(response.await.unwrap()).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{body}");
        let response = client.send_request(get("/readyz"));
        assert_eq!(text(response.await.unwrap()).await.0, StatusCode::OK);

        let connector = made.connector_with("http/1.1", &[version]);
        let (mut client, _) = http1(connect(&connector, node.address).await.unwrap()).await;
        let response = client.send_request(post(&node.admin, event(&format!("1-{name}"))));
        let (status, body) = text(response.await.unwrap()).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{body}");
        client.ready().await.unwrap();
        let response = client.send_request(get("/healthz"));
        assert_eq!(text(response.await.unwrap()).await.0, StatusCode::OK);
    }
    // A client without a protocol that the port speaks is told so in the handshake.
    let refused = connect(&made.connector("spdy/3"), node.address).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("NoApplicationProtocol")));
    // HTTP without TLS gets no answer in HTTP, and the node goes on.
    let mut plain = TcpStream::connect(node.address).await.unwrap();
    plain
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/"));
    made.connect(node.address, "h2").await;
}

#[test]
fn keys_are_read_in_every_form() {
    let dir = tempfile::tempdir().unwrap();
    let script = "set -e
        openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost -keyout rsa8.pem -out rsa.pem
        openssl rsa -in rsa8.pem -traditional -out rsa1.pem
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=localhost -keyout ec8.pem -out ec.pem
        openssl ec -in ec8.pem -out ec1.pem
        openssl req -x509 -newkey ed25519 -nodes -days 30 -subj /CN=localhost -keyout ed8.pem -out ed.pem
        openssl pkcs8 -topk8 -in ec8.pem -passout pass:hush -out locked.pem";
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("SKIPPED: there is no openssl (scripts/install tls)");
        return;
    }
    let (code, out, error) = output(Command::new("sh").args(["-c", script]).current_dir(&dir));
    assert_eq!(code, 0, "{out}{error}");
    let load = |cert: &str, key: &str| Tls::load(&dir.path().join(cert), &dir.path().join(key));
    for (cert, key, begins) in [
        ("rsa.pem", "rsa8.pem", "-----BEGIN PRIVATE KEY"),
        ("rsa.pem", "rsa1.pem", "-----BEGIN RSA PRIVATE KEY"),
        ("ec.pem", "ec8.pem", "-----BEGIN PRIVATE KEY"),
        ("ec.pem", "ec1.pem", "-----BEGIN EC PRIVATE KEY"),
        ("ed.pem", "ed8.pem", "-----BEGIN PRIVATE KEY"),
    ] {
        let text = std::fs::read_to_string(dir.path().join(key)).unwrap();
        assert!(text.contains(begins), "{key}: {text}");
        assert!(load(cert, key).is_ok(), "{cert} {key}");
    }
    let error = load("ec.pem", "locked.pem").err().unwrap().to_string();
    assert!(
        error.contains("an encrypted key must be decrypted first"),
        "{error}"
    );
}

#[test]
fn errors_name_the_file_and_show_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let (made, other) = (Made::new(), Made::new());
    made.write(dir.path());
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let body: String = made.key_pem.lines().skip(1).take(1).collect();
    let cut = made.key_pem.replace("-----END PRIVATE KEY-----", "");
    let damaged = made.key_pem.replace(&body[..4], "????");
    let not_x509 = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let chain = format!("{}{not_x509}", made.cert_pem);
    let garbage = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    for (cert, key, words) in [
        (
            dir.path().join("none.pem"),
            key.clone(),
            "none.pem: cannot be read",
        ),
        (
            cert.clone(),
            dir.path().join("none.pem"),
            "none.pem: cannot be read",
        ),
        (
            file("a.pem", "hello"),
            key.clone(),
            "a.pem: contains no certificate",
        ),
        (key.clone(), key.clone(), "key.pem: contains no certificate"),
        (
            file("b.pem", not_x509),
            key.clone(),
            "b.pem: certificate 1 is not a valid X.509",
        ),
        (
            file("c.pem", &chain),
            key.clone(),
            "c.pem: certificate 2 is not a valid X.509",
        ),
        (
            cert.clone(),
            cert.clone(),
            "cert.pem: contains no private key",
        ),
        (
            cert.clone(),
            file("d.pem", &cut),
            "d.pem: is not a PEM file: a block has no end",
        ),
        (
            cert.clone(),
            file("e.pem", &damaged),
            "e.pem: is not a PEM file",
        ),
        (
            cert.clone(),
            file("f.pem", garbage),
            "f.pem: the private key cannot be used",
        ),
        (
            cert.clone(),
            file("g.pem", &other.key_pem),
            "g.pem: the private key is not that of the first certificate",
        ),
    ] {
        let error = Tls::load(&cert, &key).err().unwrap().to_string();
        assert!(error.contains(words), "{words}: {error}");
        assert!(!error.contains(&body[4..]), "{error}");
    }
    // A start fails at once, before anything is made.
    let mut command = omnilink(dir.path(), &["up", "--listen", "127.0.0.1:0"]);
    command
        .env("OMNILINK__TLS__CERT", "none.pem")
        .env("OMNILINK__TLS__KEY", "key.pem");
    let (code, _, error) = output(&mut command);
    assert_eq!(code, 1);
    assert!(
        error.contains("`tls.cert`") && error.contains("none.pem: cannot be read"),
        "{error}"
    );
    assert!(!dir.path().join("data").exists());
}

#[test]
fn beyond_loopback_it_listens_with_tls_or_on_demand() {
    let dir = Folder::new();
    let (code, _, error) = output(&mut omnilink(dir.path(), &["up", "--listen", "0.0.0.0:0"]));
    assert_eq!(code, 1);
    assert!(
        error.contains("can be reached from other machines"),
        "{error}"
    );
    let config = |env: &[(&str, &str)]| {
        let mut command = omnilink(dir.path(), &["config"]);
        command.env("OMNILINK__LISTEN", "[::]:7700");
        output(command.envs(env.iter().copied())).0
    };
    assert_eq!(config(&[]), 1);
    assert_eq!(config(&[("OMNILINK__INSECURE_LISTEN", "true")]), 0);
    let tls = [
        ("OMNILINK__TLS__CERT", "c.pem"),
        ("OMNILINK__TLS__KEY", "k.pem"),
    ];
    assert_eq!(config(&tls), 0);
    assert_eq!(config(&tls[..1]), 1);
    let flags = ["up", "--listen", "0.0.0.0:0", "--insecure-listen"];
    let mut command = omnilink(dir.path(), &flags);
    let command = command.args(["--without", "projections"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    lines.read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(line.contains("listens on http://0.0.0.0:"), "{line}");
}

/// A node of this folder, which has a certificate.
fn up(dir: &Path) -> Up {
    std::fs::write(
        dir.join("omnilink.yaml"),
        "tls: { cert: cert.pem, key: key.pem }\n",
    )
    .unwrap();
    Up::start_with(dir, &["--without", "projections"])
}

fn address(up: &Up) -> SocketAddr {
    up.url.strip_prefix("https://").unwrap().parse().unwrap()
}

/// The part `tls` of `/readyz`.
fn readiness(made: &Made, up: &Up) -> Option<Value> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let stream = connect(&made.connector("http/1.1"), address(up))
            .await
            .ok()?;
        let (mut client, _) = http1(stream).await;
        let (_, body) = text(client.send_request(get("/readyz")).await.ok()?).await;
        Some(serde_json::from_str::<Value>(&body).unwrap()["parts"]["tls"].clone())
    })
}

#[test]
fn a_new_certificate_is_served_without_a_restart() {
    let dir = Folder::new();
    let first = Made::new();
    first.write(dir.path());
    let up = up(dir.path());
    assert!(up.url.starts_with("https://"), "{}", up.banner);
    assert_eq!(readiness(&first, &up).unwrap()["status"], "ok");

    // The command line trusts the certificate of its configuration, and no other.
    let cli = |args: &[&str]| {
        let port = address(&up).port();
        let mut command = omnilink(dir.path(), args);
        command.env("OMNILINK__LISTEN", format!("127.0.0.1:{port}"));
        output(&mut command)
    };
    let (code, out, error) = cli(&["lag", "--json"]);
    assert_eq!(code, 0, "{out}{error}");

    let second = Made::until(5);
    second.write(dir.path());
    wait_until("the new certificate is served", || {
        readiness(&second, &up).is_some()
    });
    let part = readiness(&second, &up).unwrap();
    assert_eq!(part["status"], "degraded");
    assert!(
        part["detail"].as_str().unwrap().contains("expires at"),
        "{part}"
    );
    let (_, out, _) = cli(&["doctor", "--json"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    let tls = report["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|item| item["check"] == "tls");
    assert_eq!(tls.unwrap()["status"], "warning", "{report}");

    // A key of another certificate: the pair before stays, and SIGHUP reports it at once.
    std::fs::write(dir.path().join("key.pem"), &first.key_pem).unwrap();
    let pid = rustix::process::Pid::from_child(&up.child);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    let began = Instant::now();
    wait_until("the fault is reported", || {
        let part = readiness(&second, &up).unwrap();
        part["detail"]
            .as_str()
            .unwrap()
            .contains("key.pem: the private key is not that of")
    });
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    assert!(errors(dir.path()).contains("the new certificate of the port cannot be used"));
    first.write(dir.path());
    let (code, out, error) = cli(&["lag", "--json"]);
    assert!(code == 0 || error.contains("certificate"), "{out}{error}");
    wait_until("the first certificate is served again", || {
        readiness(&first, &up).is_some_and(|part| part["status"] == "ok")
    });
    let secret: String = first.key_pem.lines().skip(1).take(1).collect();
    assert!(!errors(dir.path()).contains(&secret));
    assert_eq!(up.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_never_end_hold_nobody_up() {
    let made = Made::new();
    let node = Node::start_tls(&made).await;
    let began = Instant::now();
    let mut slow = Vec::new();
    for _ in 0..300 {
        slow.push(TcpStream::connect(node.address).await.unwrap());
    }
    let answered = timeout(Duration::from_secs(3), async {
        let (mut client, _) = http2(made.connect(node.address, "h2").await).await;
        client.send_request(post(&node.admin, event("1"))).await
    });
    let response = answered.await.expect("within 3 s").unwrap();
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    // Each is closed after 10 s.
    for mut stream in slow {
        let mut byte = [0];
        let read = timeout(Duration::from_secs(20), stream.read(&mut byte));
        assert!(matches!(read.await.expect("closed"), Ok(0) | Err(_)));
    }
    assert!(
        (9..16).contains(&began.elapsed().as_secs()),
        "{:?}",
        began.elapsed()
    );
}
