//! HTTP client for the port of a running `omnilink up`.

use std::{fmt::Write, path::Path, time::Duration};

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    HeaderMap, Method, Request, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as Http, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

use super::trust;
use crate::config::Config;

/// Time limit for a response.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Time limit for a response that needs a scan of the log first.
const SCAN_TIMEOUT: Duration = Duration::from_mins(10);
/// Size limit of a response body, in bytes.
const MAX_RESPONSE_BYTES: usize = 16 << 20;

/// The port of a running node, and a key for it.
pub(super) struct Client {
    /// Boxed: it is large.
    http: Box<Http<HttpsConnector<HttpConnector>, Full<Bytes>>>,
    base: String,
    key: String,
}

/// A response of any status; `body` is null unless it is JSON.
pub(super) struct Response {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

/// The file in the data directory that holds the first key.
pub(super) const ADMIN_KEY: &str = "admin.key";

/// Percent-encodes text for use in a path or query.
pub(super) fn encoded(text: &str) -> percent_encoding::PercentEncode<'_> {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
}

impl Client {
    /// Connects to `OMNILINK_URL`, else to the configured address, with the key in `OMNILINK_KEY`, else the one in `admin.key`.
    pub(super) fn new(config: &Config) -> anyhow::Result<Self> {
        let named = std::env::var("OMNILINK_URL").ok();
        let own = || format!("{}://{}", scheme(config), reachable(config));
        let base = named.clone().unwrap_or_else(own);
        let base = base.trim_end_matches('/').to_owned();
        let tls = match (base.split_once("://"), &named) {
            (Some(("http", _)), _) => trust::no_roots()?,
            (Some(("https", _)), Some(_)) => trust::roots()?,
            (Some(("https", _)), None) => trust::own_node(config)?,
            _ => bail!("OMNILINK_URL is `{base}`, but must begin with http:// or https://"),
        };
        let key = match std::env::var("OMNILINK_KEY") {
            Ok(key) => key,
            Err(_) => read_key(&config.data_dir.join(ADMIN_KEY))?,
        };
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(5)));
        connector.set_keepalive(Some(Duration::from_secs(15)));
        connector.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        Ok(Self {
            http: Box::new(Http::builder(TokioExecutor::new()).build(connector)),
            base,
            key,
        })
    }

    /// Requests one page of a list: at most `limit` items, filtered by the query parameters that have a value.
    pub(super) async fn page(
        &self,
        path: &str,
        limit: u16,
        filters: &[(&str, &Option<String>)],
    ) -> anyhow::Result<Value> {
        let mut path = format!("{path}?limit={limit}");
        for (name, value) in filters {
            if let Some(value) = value {
                // Writing to a `String` cannot fail.
                let _ = write!(path, "&{name}={}", encoded(value));
            }
        }
        self.call(Method::GET, &path, None).await?.success()
    }

    /// Sends a JSON body and reads the response. An error means that no response arrived.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> anyhow::Result<Response> {
        self.exchange(self.request(method, path, body)?).await
    }

    /// As [`Client::call`], with `Idempotency-Key`.
    pub(super) async fn post_once(
        &self,
        path: &str,
        key: &str,
        body: Bytes,
    ) -> anyhow::Result<Response> {
        let mut request = self.request(Method::POST, path, Some(body))?;
        let key = HeaderValue::from_str(key).context("an HTTP header cannot hold this key")?;
        request.headers_mut().insert("idempotency-key", key);
        self.exchange(request).await
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Response> {
        let exchange = async {
            let response = self
                .http
                .request(request)
                .await
                .map_err(|error| unreachable(&self.base, error))?;
            self.read(response).await
        };
        tokio::time::timeout(TIMEOUT, exchange)
            .await
            .with_context(|| self.timed_out(TIMEOUT))?
    }
}

/// A response body that is read as it arrives.
pub(super) struct Stream {
    body: hyper::body::Incoming,
    base: String,
}

impl Stream {
    /// The next chunk; `None` at the end of the body.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| {
                let error = anyhow::Error::new(error).root_cause().to_string();
                anyhow::anyhow!(
                    "the response from {} was cut off; the node's log says why: {error}",
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
    /// Sends a JSON body and reads the response body as it arrives, without a time limit: TCP keep-alive detects a peer that
    /// is gone. A status other than success is an error.
    pub(super) async fn stream(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> anyhow::Result<Stream> {
        self.open_stream(self.request(method, path, body)?).await
    }

    /// Opens a stream of server-sent events, after the event with the id `last`; as [`Client::stream`].
    pub(super) async fn events(&self, path: &str, last: Option<&str>) -> anyhow::Result<Stream> {
        let mut request = self.request(Method::GET, path, None)?;
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(last) = last {
            let last = HeaderValue::from_str(last).context("the id of an event is not valid")?;
            headers.insert("last-event-id", last);
        }
        self.open_stream(request).await
    }

    async fn open_stream(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Stream> {
        let sent = self.http.request(request);
        let response = tokio::time::timeout(TIMEOUT, sent)
            .await
            .with_context(|| self.timed_out(TIMEOUT))?
            .map_err(|error| unreachable(&self.base, error))?;
        if response.status().is_success() {
            return Ok(Stream {
                body: response.into_body(),
                base: self.base.clone(),
            });
        }
        let status = response.status();
        self.read(response).await?.success()?;
        bail!("unexpected status {status} from {}", self.base)
    }

    /// Reads a response of JSON lines and passes each to `each`. Returns the line with `"status": "done"`; the status `"failed"`
    /// is an error.
    pub(super) async fn lines(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        mut each: impl FnMut(&Value),
    ) -> anyhow::Result<Value> {
        let mut stream = self.stream(method, path, body).await?;
        let mut text = Vec::new();
        while let Some(chunk) = stream.next().await? {
            text.extend_from_slice(&chunk);
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
        bail!("the response from {} ended before it was done", self.base)
    }

    /// The text at a path that needs no key, such as the metrics.
    pub(super) async fn text(&self, path: &str) -> anyhow::Result<String> {
        let request = self.request(Method::GET, path, None)?;
        let exchange = async {
            let response = self.http.request(request).await?;
            let body = Limited::new(response.into_body(), MAX_RESPONSE_BYTES);
            let bytes = body.collect().await.map_err(anyhow::Error::from_boxed)?;
            Ok(String::from_utf8(bytes.to_bytes().to_vec())?)
        };
        tokio::time::timeout(TIMEOUT, exchange)
            .await
            .with_context(|| self.timed_out(TIMEOUT))?
    }

    /// Like [`Client::call`], for a response that may take minutes.
    pub(super) async fn call_slow(&self, method: Method, path: &str) -> anyhow::Result<Response> {
        let sent = self.http.request(self.request(method, path, None)?);
        let response = tokio::time::timeout(SCAN_TIMEOUT, sent)
            .await
            .with_context(|| self.timed_out(SCAN_TIMEOUT))?
            .map_err(|error| unreachable(&self.base, error))?;
        self.read(response).await
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> anyhow::Result<Request<Full<Bytes>>> {
        let url = format!("{}{path}", self.base);
        let uri: Uri = url
            .parse()
            .with_context(|| format!("`{url}` is not a valid URL"))?;
        Request::builder()
            .method(method)
            .uri(uri)
            .header(AUTHORIZATION, format!("Bearer {}", self.key))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body.unwrap_or_default()))
            .context("OMNILINK_KEY contains characters that an HTTP header cannot hold")
    }

    fn timed_out(&self, limit: Duration) -> String {
        format!("{} did not answer within {} s", self.base, limit.as_secs())
    }

    async fn read(
        &self,
        response: hyper::Response<hyper::body::Incoming>,
    ) -> anyhow::Result<Response> {
        let (head, body) = response.into_parts();
        let bytes = Limited::new(body, MAX_RESPONSE_BYTES).collect().await;
        let bytes = bytes
            .map_err(|error| {
                anyhow::anyhow!("the response from {} was cut off: {error}", self.base)
            })?
            .to_bytes();
        Ok(Response {
            status: head.status,
            headers: head.headers,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        })
    }
}

fn unreachable(base: &str, error: hyper_util::client::legacy::Error) -> anyhow::Error {
    let connect = error.is_connect();
    // The errors between the outermost and the root cause add nothing.
    let error = anyhow::anyhow!("{}", anyhow::Error::new(error).root_cause());
    if connect {
        error.context(format!(
            "nothing answers at {base}; start `omnilink up`, or set OMNILINK_URL"
        ))
    } else {
        error.context(format!("the request to {base} failed"))
    }
}

/// The scheme of the configured node.
pub(super) fn scheme(config: &Config) -> &'static str {
    if config.tls.files().is_some() {
        "https"
    } else {
        "http"
    }
}

/// The address to connect to: loopback for a node that listens on all addresses.
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
            "no key: OMNILINK_KEY is not set, and {} cannot be read (the first `omnilink up` creates it)",
            path.display()
        )
    })?;
    Ok(text.trim().to_owned())
}

impl Response {
    /// The body of a successful response; for any other status an error with the code and detail of the problem details.
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
