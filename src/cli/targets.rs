//! Other servers that `doctor` looks at: Redis, and who is notified.

use std::{collections::BTreeSet, time::Duration};

use hyper::Uri;
use tokio::net::TcpStream;

use super::{
    clocks,
    findings::{Findings, Status},
};
use crate::config::{Config, NotifyTarget, SecretUrl};

/// Time limit for one server.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Whether Redis answers, and takes the commands that nodes send.
pub(super) async fn redis(config: &Config, found: &mut Findings) {
    const CHECK: &str = "redis";
    let Some(url) = &config.redis_url else {
        return found.add(
            CHECK,
            Status::Skipped,
            "not configured; a single node needs none",
        );
    };
    let asking = async {
        let client = redis::Client::open(url.expose())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let time = redis::cmd("TIME")
            .query_async::<(i64, i64)>(&mut connection)
            .await?;
        let refused = refused(&mut connection, &config.topics.prefix).await;
        Ok::<_, redis::RedisError>((time, refused))
    };
    match tokio::time::timeout(TIMEOUT, asking).await {
        Ok(Ok(((seconds, micros), refused))) => {
            if refused.is_empty() {
                found.add(CHECK, Status::Ok, "");
            } else {
                let detail = format!(
                    "the user of `redis.url` may not use {}, which nodes send",
                    refused.join(", ")
                );
                found.add(CHECK, Status::Failed, detail);
            }
            clocks::compare("Redis", seconds * 1000 + micros / 1000, found);
        }
        // Without the URL, which may hold a password.
        Ok(Err(error)) => found.add(CHECK, Status::Failed, error.category().to_owned()),
        Err(_) => found.add(CHECK, Status::Failed, "no response within 5 s"),
    }
}

/// The commands of nodes that the server refuses, each sent so that it changes nothing.
async fn refused(
    connection: &mut redis::aio::MultiplexedConnection,
    prefix: &str,
) -> Vec<&'static str> {
    let key = format!("{prefix}doctor");
    let commands: [(&'static str, &[&str]); 6] = [
        ("EVAL", &["return redis.call('EXISTS', KEYS[1])", "1", &key]),
        ("SCRIPT", &["LOAD", "return 1"]),
        // Of the same script.
        (
            "EVALSHA",
            &["e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "0"],
        ),
        ("INFO", &["server"]),
        // Only if it exists.
        ("SET", &[&key, "", "XX"]),
        ("ZREM", &[&key, "nothing"]),
    ];
    let mut refused = Vec::new();
    for (name, arguments) in commands {
        let mut command = redis::cmd(name);
        command.arg(arguments);
        let answer = command.query_async::<redis::Value>(connection).await;
        if answer.is_err_and(|error| error.code() != Some("NOSCRIPT")) {
            refused.push(name);
        }
    }
    refused
}

/// Whether the servers of `notify` accept connections. Nothing is sent.
pub(super) async fn notified(config: &Config, found: &mut Findings) {
    const CHECK: &str = "notify";
    if config.notify.is_empty() {
        return found.add(CHECK, Status::Skipped, "not configured");
    }
    // Several items may go through one server.
    let places: BTreeSet<_> = config
        .notify
        .iter()
        .filter_map(|item| match &item.to {
            NotifyTarget::Webhook { url, .. } | NotifyTarget::Smtp { url, .. } => place(url),
        })
        .collect();
    let mut all_ok = true;
    for (host, port) in &places {
        let connecting = TcpStream::connect((host.trim_matches(['[', ']']), *port));
        let why = match tokio::time::timeout(TIMEOUT, connecting).await {
            Ok(Ok(_)) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no response within {} s", TIMEOUT.as_secs()),
        };
        all_ok = false;
        let detail = format!("{host}:{port} does not accept connections: {why}");
        found.add(CHECK, Status::Warning, detail);
    }
    if all_ok {
        let detail = format!("{} servers accept connections", places.len());
        found.add(CHECK, Status::Ok, detail);
    }
}

/// Host and port; the rest of a URL may hold secrets.
fn place(url: &SecretUrl) -> Option<(String, u16)> {
    let uri: Uri = url.expose().parse().ok()?;
    let default = match uri.scheme_str()? {
        "https" => 443,
        "http" => 80,
        "smtps" => 465,
        _ => 587,
    };
    Some((uri.host()?.to_owned(), uri.port_u16().unwrap_or(default)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn a_place_is_host_and_port_alone() {
        let of = |text: &str| {
            let url = SecretUrl::new(Secret::new(text), &["http", "https", "smtp", "smtps"]);
            place(&url.unwrap()).unwrap()
        };
        let at = |host: &str, port: u16| (host.to_owned(), port);
        assert_eq!(
            of("https://u:p@hooks.example/x?y"),
            at("hooks.example", 443)
        );
        assert_eq!(of("http://hooks.example:81"), at("hooks.example", 81));
        assert_eq!(of("smtp://u:p@mail.example"), at("mail.example", 587));
        assert_eq!(of("smtps://mail.example"), at("mail.example", 465));
        assert_eq!(of("http://[::1]:7/x"), at("[::1]", 7));
    }
}
