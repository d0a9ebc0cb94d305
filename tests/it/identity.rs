//! Tokens of issuers at the port (`auth.jwt`), against a real issuer.

use std::sync::atomic::Ordering;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hyper::{Method, StatusCode};
use omnilink::config::JwtIssuer;
use ring::hmac;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    audit_entries,
    command::{Folder, Up, get, omnilink, output},
    issuer::{Issuer, SigningKey, now_s, unsigned},
    port::{Node, Response},
};

async fn start(issuers: &[JwtIssuer]) -> Node {
    Node::start_jwt(TempDir::new().unwrap(), issuers).await
}

/// Posts an event with a token, from an address of its own.
async fn post(node: &Node, token: &str, address: u8) -> Response {
    let event = json!({ "id": format!("{address}"), "source": "/s/prod", "type": "t", "data": 1 });
    let headers = [
        ("authorization", &*format!("Bearer {token}")),
        ("content-type", "application/json"),
        ("x-forwarded-for", &*format!("10.0.0.{address}")),
    ];
    let body = event.to_string();
    node.call(Method::POST, "/v1/events", &headers, body).await
}

async fn accepted(node: &Node, token: &str) -> bool {
    let answer = post(node, token, 1).await;
    match answer.status {
        StatusCode::ACCEPTED => true,
        StatusCode::UNAUTHORIZED => false,
        _ => panic!("{}", answer.text),
    }
}

/// Claims of a good token with others in place.
fn with(issuer: &Issuer, changed: &[(&str, Value)]) -> Value {
    let mut claims = issuer.claims();
    for (name, value) in changed {
        claims[*name] = value.clone();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(*name);
        }
    }
    claims
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_the_three_algorithms_are_accepted_with_what_their_claims_say() {
    let keys = [
        SigningKey::rsa("r"),
        SigningKey::ec("e"),
        SigningKey::ed("d"),
    ];
    let issuer = Issuer::start(&[&keys[0], &keys[1], &keys[2]]).await;
    let node = start(&[issuer.config()]).await;
    for key in &keys {
        let token = key.token(&issuer.claims());
        let answer = post(&node, &token, 1).await;
        assert_eq!(
            answer.status,
            StatusCode::ACCEPTED,
            "{}: {}",
            key.algorithm(),
            answer.text
        );
        // The second time from the cache.
        assert!(accepted(&node, &token).await);
        // A token without a key id, where only one key fits.
        let header = json!({ "alg": key.algorithm() });
        assert!(accepted(&node, &key.token_with(&header, &issuer.claims())).await);
        // Several audiences.
        let several = with(&issuer, &[("aud", json!(["other", "omnilink"]))]);
        assert!(accepted(&node, &key.token(&several)).await);
    }
    // Within 60 s of skew.
    let skewed = with(
        &issuer,
        &[("exp", json!(now_s() - 30)), ("nbf", json!(now_s() + 30))],
    );
    assert!(accepted(&node, &keys[2].token(&skewed)).await);

    // Permissions and tenant are those of the token.
    let list = async |token: &str| {
        node.request(Method::GET, "/v1/keys", token, &Value::Null)
            .await
    };
    let plain = keys[2].token(&issuer.claims());
    assert_eq!(list(&plain).await.code(), "permission_denied");
    let admin = keys[2].token(&with(&issuer, &[("roles", json!("openid admin"))]));
    assert_eq!(
        list(&admin).await.json()["items"].as_array().unwrap().len(),
        1
    );
    let other = keys[2].token(&with(
        &issuer,
        &[("roles", json!("admin")), ("org", json!("beta"))],
    ));
    assert_eq!(list(&other).await.json()["items"], json!([]));
    let none = keys[2].token(&with(&issuer, &[("roles", Value::Null)]));
    assert_eq!(list(&none).await.code(), "permission_denied");
    assert_eq!(post(&node, &none, 1).await.status, StatusCode::FORBIDDEN);
    // What is refused is recorded with the issuer.
    for entry in audit_entries(&node, "request.denied", 3).await {
        let detail: Value = serde_json::from_str(&entry.detail).unwrap();
        assert_eq!(detail["issuer"], issuer.url, "{entry:?}");
    }
    // Keys work beside tokens.
    assert_eq!(list(&node.admin).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn anything_wrong_with_a_token_gets_the_same_answer() {
    let rsa = SigningKey::rsa("r");
    let (ec, ed, stranger) = (
        SigningKey::ec("e"),
        SigningKey::ed("d"),
        SigningKey::ed("d"),
    );
    let issuer = Issuer::start(&[&rsa, &ec, &ed]).await;
    let node = start(&[issuer.config()]).await;
    let claims = issuer.claims();
    let good = ed.token(&claims);
    let token = |changed: &[(&str, Value)]| ed.token(&with(&issuer, changed));
    let hmac_with = |secret: &[u8], kid: &str| {
        let message = unsigned(&json!({ "alg": "HS256", "kid": kid }), &claims);
        let tag = hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA256, secret),
            message.as_bytes(),
        );
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
    };
    let decoded = |text: &Value| URL_SAFE_NO_PAD.decode(text.as_str().unwrap()).unwrap();
    let (head, signature) = good.rsplit_once('.').unwrap();
    let forged = unsigned(
        &json!({ "alg": "EdDSA", "kid": "d" }),
        &with(&issuer, &[("roles", json!("*"))]),
    );
    let bad = [
        (
            "alg none",
            format!("{}.", unsigned(&json!({ "alg": "none" }), &claims)),
        ),
        (
            "alg none, signed",
            ed.token_with(&json!({ "alg": "none", "kid": "d" }), &claims),
        ),
        (
            "HS256 with the RSA modulus",
            hmac_with(&decoded(&rsa.jwk()["n"]), "r"),
        ),
        (
            "HS256 with the Ed25519 key",
            hmac_with(&decoded(&ed.jwk()["x"]), "d"),
        ),
        (
            "HS256 with the key as JSON",
            hmac_with(rsa.jwk().to_string().as_bytes(), "r"),
        ),
        (
            "another algorithm's key id",
            ed.token_with(&json!({ "alg": "EdDSA", "kid": "r" }), &claims),
        ),
        (
            "RS256 with an Ed25519 key",
            ed.token_with(&json!({ "alg": "RS256", "kid": "d" }), &claims),
        ),
        (
            "RS512",
            rsa.token_with(&json!({ "alg": "RS512", "kid": "r" }), &claims),
        ),
        ("a key of its own", {
            let header =
                json!({ "alg": "EdDSA", "jwk": stranger.jwk(), "jku": "http://127.0.0.1:1/" });
            stranger.token_with(&header, &claims)
        }),
        (
            "critical extension",
            ed.token_with(
                &json!({ "alg": "EdDSA", "kid": "d", "crit": ["x"], "x": 1 }),
                &claims,
            ),
        ),
        ("signed by another key", stranger.token(&claims)),
        ("other claims", format!("{forged}.{signature}")),
        ("no signature", format!("{head}.")),
        ("cut", good[..good.len() - 4].to_owned()),
        ("four parts", format!("{good}.x")),
        (
            "unknown key id",
            ed.token_with(&json!({ "alg": "EdDSA", "kid": "x" }), &claims),
        ),
        ("wrong audience", token(&[("aud", json!("other"))])),
        ("no audience", token(&[("aud", Value::Null)])),
        (
            "wrong issuer",
            token(&[("iss", json!("https://evil.example"))]),
        ),
        ("issuers in a list", token(&[("iss", json!([issuer.url]))])),
        ("no issuer", token(&[("iss", Value::Null)])),
        ("expired", token(&[("exp", json!(now_s() - 61))])),
        ("no expiry", token(&[("exp", Value::Null)])),
        (
            "expiry as text",
            token(&[("exp", json!((now_s() + 600).to_string()))]),
        ),
        ("not yet valid", token(&[("nbf", json!(now_s() + 65))])),
        ("no subject", token(&[("sub", Value::Null)])),
        ("empty subject", token(&[("sub", json!(""))])),
        (
            "a subject with a control character",
            token(&[("sub", json!("ann\n"))]),
        ),
        ("a subject that is a number", token(&[("sub", json!(5))])),
        ("no tenant", token(&[("org", Value::Null)])),
        ("a bad tenant", token(&[("org", json!("a/b"))])),
        (
            "permissions that are no text",
            token(&[("roles", json!([5]))]),
        ),
        ("too long", token(&[("x", json!("x".repeat(16 * 1024)))])),
        ("no token", "x".to_owned()),
        ("dots", "..".to_owned()),
    ];
    assert!(accepted(&node, &good).await);
    let mut answers = Vec::new();
    for (index, (what, token)) in bad.iter().enumerate() {
        let answer = post(&node, token, 10 + index as u8).await;
        assert_eq!(
            answer.status,
            StatusCode::UNAUTHORIZED,
            "{what}: {}",
            answer.text
        );
        assert_eq!(answer.code(), "invalid_key", "{what}");
        let mut body = answer.json();
        body["request_id"] = Value::Null;
        answers.push((body, answer.headers["www-authenticate"].clone()));
    }
    let wrong_key = post(&node, &format!("{}x", node.admin), 200).await;
    let mut body = wrong_key.json();
    body["request_id"] = Value::Null;
    answers.push((body, wrong_key.headers["www-authenticate"].clone()));
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert!(accepted(&node, &good).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_is_followed_at_once_and_an_outage_changes_nothing() {
    let (old, new) = (SigningKey::ed("old"), SigningKey::ec("new"));
    let issuer = Issuer::start(&[&old]).await;
    let node = start(&[issuer.config()]).await;
    let first = old.token(&issuer.claims());
    assert!(accepted(&node, &first).await);
    assert_eq!(issuer.requests.load(Ordering::SeqCst), 1);

    // The new key is fetched for the first token that it signed; the old key is gone, and so is what it signed.
    issuer.publish(&[&new]);
    assert!(accepted(&node, &first).await);
    assert!(accepted(&node, &new.token(&issuer.claims())).await);
    assert_eq!(issuer.requests.load(Ordering::SeqCst), 2);
    assert!(!accepted(&node, &first).await);

    // Unknown keys ask for the set at most once a minute.
    for n in 0..20 {
        let unknown = SigningKey::ed(&format!("unknown {n}"));
        assert_eq!(
            post(&node, &unknown.token(&issuer.claims()), n)
                .await
                .status,
            401
        );
    }
    assert_eq!(issuer.requests.load(Ordering::SeqCst), 2);

    issuer.fail();
    assert!(accepted(&node, &new.token(&with(&issuer, &[("jti", json!("2"))]))).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_down_at_the_start_is_fetched_later() {
    let key = SigningKey::ed("k");
    let issuer = Issuer::start(&[&key]).await;
    issuer.fail();
    let node = start(&[issuer.config()]).await;
    let token = key.token(&issuer.claims());
    assert!(!accepted(&node, &token).await);
    issuer.publish(&[&key]);
    // The periodic attempts, about a second apart at first.
    let began = std::time::Instant::now();
    while post(&node, &token, 2).await.status != StatusCode::ACCEPTED {
        assert!(began.elapsed().as_secs() < 20);
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fixed_values_constraints_and_a_file_of_keys() {
    let key = SigningKey::ec("k");
    let issuer = Issuer::start(&[]).await;
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keys.json");
    std::fs::write(&file, json!({ "keys": [key.jwk()] }).to_string()).unwrap();
    // The same issuer twice, with different audiences.
    let fixed = issuer.config_with(&json!({
        "audience": "robots", "jwks": file, "principal": "robot", "tenant": "acme",
        "permissions": ["events:write"], "constraints": { "env_allowlist": ["test"] },
    }));
    let people = issuer.config_with(&json!({
        "jwks": file, "principal": { "claim": "/user/mail" }, "permissions": "admin",
    }));
    let node = start(&[fixed, people]).await;
    let robot = key.token(&json!({ "iss": issuer.url, "aud": "robots", "exp": now_s() + 60 }));
    let answer = post(&node, &robot, 1).await;
    assert_eq!(answer.code(), "env_not_allowed", "{}", answer.text);
    let person = json!({
        "iss": issuer.url, "aud": "omnilink", "exp": now_s() + 60, "org": "acme",
        "user": { "mail": "ann@example.com" },
    });
    let person = key.token(&person);
    assert_eq!(post(&node, &person, 1).await.status, StatusCode::ACCEPTED);
    // Constraints are the defaults of keys: nobody grants more.
    let unlimited = json!({
        "name": "x", "kind": "service",
        "scopes": { "permissions": ["events:write"], "constraints": { "max_rpm": 0 } },
    });
    let answer = node
        .request(Method::POST, "/v1/keys", &person, &unlimited)
        .await;
    assert_eq!(answer.code(), "permission_denied");
}

/// A node with issuers in its configuration, as `readyz`, `doctor` and the command line see it.
#[test]
fn a_node_reports_its_issuers_and_keys() {
    let dir = Folder::new();
    let dir = dir.path();
    let key = SigningKey::ed("k");
    std::fs::write(
        dir.join("keys.json"),
        json!({ "keys": [key.jwk()] }).to_string(),
    )
    .unwrap();
    let issuer = |name: &str, jwks: &str| {
        json!({
            "issuer": name, "audience": "omnilink", "jwks": jwks,
            "tenant": "default", "permissions": { "claim": "roles" },
        })
    };
    let configure = |issuers: Value| {
        let config = json!({ "auth": { "jwt": issuers } });
        std::fs::write(dir.join("omnilink.yaml"), config.to_string()).unwrap();
    };
    configure(json!([
        issuer("one", "keys.json"),
        issuer("two", "missing.json")
    ]));
    let up = Up::start_with(dir, &["--without", "projections"]);
    let run = |args: &[&str]| {
        let mut command = omnilink(dir, args);
        output(
            command
                .env("OMNILINK_URL", &up.url)
                .args(["--data-dir", "data"]),
        )
    };
    let claims = json!({ "iss": "one", "aud": "omnilink", "exp": now_s() + 60, "sub": "ann", "roles": "admin" });
    let token = key.token(&claims);
    let mut list = omnilink(dir, &["keys", "list", "--data-dir", "data"]);
    let list = list
        .env("OMNILINK_URL", &up.url)
        .env("OMNILINK_KEY", &token);
    let (code, table, error) = output(list);
    assert_eq!(code, 0, "{error}");
    assert!(
        table.contains("LAST USED") && table.contains("enforced"),
        "{table}"
    );

    let ready = get(&up.url, "/readyz");
    assert!(
        ready.starts_with("HTTP/1.1 200") && ready.contains(r#""jwks":{"status":"down""#),
        "{ready}"
    );
    let (code, found, _) = run(&["doctor", "--json"]);
    assert_eq!(code, 1);
    let found: Value = serde_json::from_str(&found).unwrap();
    let issuers: Vec<_> = found["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|item| item["check"] == "issuers")
        .map(|item| {
            (
                item["status"].as_str().unwrap(),
                item["detail"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(issuers[0], ("ok", "one"));
    assert!(
        issuers[1].0 == "failed" && issuers[1].1.starts_with("two: it cannot be read"),
        "{found}"
    );
    assert!(
        issuers[2].0 == "warning" && issuers[2].1.contains("one and two"),
        "{found}"
    );
    let keys = found["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|item| item["check"] == "keys");
    assert_eq!(keys.unwrap()["status"], "ok", "{found}");

    // Rotation on the command line.
    let (_, made, error) = run(&[
        "keys",
        "create",
        "--name",
        "shop",
        "--permission",
        "events:write",
        "--json",
    ]);
    let made: Value = serde_json::from_str(&made).unwrap_or_else(|_| panic!("{error}"));
    let id = made["id"].as_str().unwrap();
    let (code, rotated, error) = run(&["keys", "rotate", id, "--json"]);
    assert_eq!(code, 0, "{error}");
    let rotated: Value = serde_json::from_str(&rotated).unwrap();
    assert!(rotated["id"] == made["id"] && rotated["key"] != made["key"]);
    let (code, shown, note) = run(&["keys", "rotate", id, "--overlap-s", "0"]);
    assert_eq!(code, 0, "{note}");
    assert!(
        shown.starts_with("omni.") && note.contains("no longer valid"),
        "{note}"
    );
    assert_eq!(run(&["keys", "rotate", id, "--overlap-s", "2592001"]).0, 2);
    assert_eq!(up.stop(), 0);

    // All that is wrong with the configuration is reported at once.
    configure(json!([issuer("", "keys.json"), { "issuer": "x" }]));
    let (code, _, error) = output(&mut omnilink(dir, &["config"]));
    assert_eq!(code, 1);
    assert!(
        error.contains("item 1: `issuer` must have") && error.contains("item 2: missing field"),
        "{error}"
    );
}
