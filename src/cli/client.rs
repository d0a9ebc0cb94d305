//! Talking to a running `omnilink up` over its port.

use std::{fmt::Write, path::Path, time::Duration};

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    HeaderMap, Method, Request, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use hyper_util::{
    client::legacy::{Client as Http, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

use crate::config::Config;

/// An answer must be there within this time.
const DEADLINE: Duration = Duration::from_secs(20);
/// The same for one that reads much of the log first.
const PATIENCE: Duration = Duration::from_mins(10);
/// The most bytes of an answer.
const ANSWER_BYTES: usize = 16 << 20;

/// The port of a running node, and a key for it.
pub(super) struct Client {
    http: Http<HttpConnector, Full<Bytes>>,
    base: String,
    key: String,
}

/// An answer, whatever its status.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

/// The file in the data directory that holds the first key.
pub(super) const ADMIN_KEY: &str = "admin.key";

/// Text as a part of a path or query.
pub(super) fn encoded(text: &str) -> percent_encoding::PercentEncode<'_> {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
}

impl Client {
    /// `OMNILINK_URL` or the configured address; `OMNILINK_KEY` or the first key's file.
    pub(super) fn new(config: &Config) -> anyhow::Result<Self> {
        let base = std::env::var("OMNILINK_URL")
            .unwrap_or_else(|_| format!("http://{}", reachable(config)));
        let base = base.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") {
            bail!("OMNILINK_URL is `{base}`, and only http:// URLs are understood");
        }
        let key = match std::env::var("OMNILINK_KEY") {
            Ok(key) => key,
            Err(_) => read_key(&config.data_dir.join(ADMIN_KEY))?,
        };
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(5)));
        connector.set_keepalive(Some(Duration::from_secs(15)));
        Ok(Self {
            http: Http::builder(TokioExecutor::new()).build(connector),
            base,
            key,
        })
    }

    /// A page of a list: at most so many, of what these say, if they do.
    pub(super) async fn page(
        &self,
        path: &str,
        limit: u16,
        of: &[(&str, &Option<String>)],
    ) -> anyhow::Result<Value> {
        let mut path = format!("{path}?limit={limit}");
        for (name, value) in of {
            if let Some(value) = value {
                // A `String` never refuses text.
                let _ = write!(path, "&{name}={}", encoded(value));
            }
        }
        self.call(Method::GET, &path, None).await?.success()
    }

    /// Sends JSON and reads JSON. An error means that there was no answer.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> anyhow::Result<Answer> {
        let request = self.request(method, path, body)?;
        let exchange = async {
            let response = self
                .http
                .request(request)
                .await
                .map_err(|error| unreachable(&self.base, error))?;
            self.whole(response).await
        };
        tokio::time::timeout(DEADLINE, exchange)
            .await
            .with_context(|| self.late())?
    }
}

/// An answer that is read while it is made.
pub(super) struct Stream {
    body: hyper::body::Incoming,
    base: String,
}

impl Stream {
    /// The next piece; `None`: the whole answer is there.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| {
                let error = anyhow::Error::new(error).root_cause().to_string();
                anyhow::anyhow!(
                    "the answer from {} broke off, and the node's log says why: {error}",
                    self.base
                )
            })?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

impl Client {
    /// Sends JSON and reads an answer as it comes, however long it takes; a refusal is an error. A peer that is gone is
    /// found by TCP's own keep-alive.
    pub(super) async fn stream(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> anyhow::Result<Stream> {
        let asking = self.http.request(self.request(method, path, body)?);
        let response = tokio::time::timeout(DEADLINE, asking)
            .await
            .with_context(|| self.late())?
            .map_err(|error| unreachable(&self.base, error))?;
        if response.status().is_success() {
            return Ok(Stream {
                body: response.into_body(),
                base: self.base.clone(),
            });
        }
        self.whole(response).await?.success()?;
        bail!("{} answered in an unknown way", self.base)
    }

    /// Reads an answer of lines of JSON: `each` sees them, until the one that says `"status": "done"`, which is returned, or
    /// `"failed"`.
    pub(super) async fn lines(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        mut each: impl FnMut(&Value),
    ) -> anyhow::Result<Value> {
        let mut answer = self.stream(method, path, body).await?;
        let mut text = Vec::new();
        while let Some(piece) = answer.next().await? {
            text.extend_from_slice(&piece);
            while let Some(end) = memchr::memchr(b'\n', &text) {
                let line: Value = serde_json::from_slice(&text[..end])?;
                text.drain(..=end);
                each(&line);
                match line["status"].as_str() {
                    Some("done") => return Ok(line),
                    Some("failed") => bail!("{}", line["error"].as_str().unwrap_or_default()),
                    _ => {}
                }
            }
        }
        bail!("the answer from {} ended before it was done", self.base)
    }

    /// As [`Client::call`], for an answer that may take minutes.
    pub(super) async fn patiently(&self, method: Method, path: &str) -> anyhow::Result<Answer> {
        let asking = self.http.request(self.request(method, path, None)?);
        let response = tokio::time::timeout(PATIENCE, asking)
            .await
            .with_context(|| self.late())?
            .map_err(|error| unreachable(&self.base, error))?;
        self.whole(response).await
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> anyhow::Result<Request<Full<Bytes>>> {
        let url = format!("{}{path}", self.base);
        let uri: Uri = url.parse().with_context(|| format!("`{url}` is no URL"))?;
        Request::builder()
            .method(method)
            .uri(uri)
            .header(AUTHORIZATION, format!("Bearer {}", self.key))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body.unwrap_or_default()))
            .context("OMNILINK_KEY cannot stand in a header")
    }

    fn late(&self) -> String {
        format!(
            "{} did not answer within {} s",
            self.base,
            DEADLINE.as_secs()
        )
    }

    async fn whole(
        &self,
        response: hyper::Response<hyper::body::Incoming>,
    ) -> anyhow::Result<Answer> {
        let (head, body) = response.into_parts();
        let bytes = Limited::new(body, ANSWER_BYTES).collect().await;
        let bytes = bytes
            .map_err(|error| anyhow::anyhow!("the answer from {} broke off: {error}", self.base))?
            .to_bytes();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        })
    }
}

fn unreachable(base: &str, error: hyper_util::client::legacy::Error) -> anyhow::Error {
    let connect = error.is_connect();
    // The layers between say nothing that the first and the last do not.
    let error = anyhow::anyhow!("{}", anyhow::Error::new(error).root_cause());
    if connect {
        error.context(format!(
            "nothing answers at {base}; start `omnilink up`, or set OMNILINK_URL"
        ))
    } else {
        error.context(format!("the request to {base} failed"))
    }
}

/// A node that listens on every address is asked on loopback.
fn reachable(config: &Config) -> std::net::SocketAddr {
    let mut address = config.listen;
    if address.ip().is_unspecified() {
        let loopback = if address.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        };
        address.set_ip(loopback);
    }
    address
}

fn read_key(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!(
            "no key: OMNILINK_KEY is not set, and {} cannot be read (the first `omnilink up` makes it)",
            path.display()
        )
    })?;
    Ok(text.trim().to_owned())
}

impl Answer {
    /// The body, if it was a success; else an error that says what the problem details say.
    pub(super) fn success(self) -> anyhow::Result<Value> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        let text = |name: &str| {
            self.body
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        bail!("{} ({}): {}", self.status, text("code"), text("detail"))
    }
}
