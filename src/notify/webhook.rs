//! Notifications as Standard Webhooks.

use std::time::Duration;

use bytes::Bytes;
use hyper::{
    Request,
    header::{CONTENT_TYPE, HeaderValue, USER_AGENT},
};
use serde_json::{Map, Value, json};

use super::notice::Notice;
use crate::{
    base::clock::Millis,
    config::{Secret, SecretUrl},
    http::{Client, NoSecret, Options, Reach, RequestError, SIGNATURE_HEADERS, SigningKey},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Standard Webhooks recommends 15 to 30 s.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The limit on an answer, which is not used.
const ANSWER_MAX: usize = 64 * 1024;
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("OmniLink/", env!("CARGO_PKG_VERSION")));

/// The receiver of a webhook.
pub(super) struct Webhook {
    client: Client,
    url: String,
    key: SigningKey,
}

/// The receiver has not accepted a notification.
#[derive(Debug, thiserror::Error)]
pub(super) enum WebhookError {
    /// The answer is not a success.
    #[error("it answers {0}")]
    Status(hyper::StatusCode),
    /// There was no answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The URL cannot be requested.
    #[error("its URL cannot be used: {0}")]
    Url(#[from] hyper::http::Error),
}

impl Webhook {
    pub(super) fn new(url: &SecretUrl, secret: &Secret) -> Result<Self, NoSecret> {
        Ok(Self {
            client: Client::new(Options {
                connect_timeout: CONNECT_TIMEOUT,
                timeout: TIMEOUT,
                max_body_bytes: ANSWER_MAX,
                reach: Reach::Configured,
            }),
            url: url.expose().to_owned(),
            key: SigningKey::of(secret)?,
        })
    }

    pub(super) async fn send(
        &self,
        notice: &Notice,
        base: &str,
        now: Millis,
    ) -> Result<(), WebhookError> {
        let body = Bytes::from(body(notice, base).to_string());
        let at = now.0.div_euclid(1000).to_string();
        let signature = self.key.sign(&notice.id, &at, &body);
        let [id_name, at_name, signature_name] = SIGNATURE_HEADERS;
        let request = Request::post(&self.url)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(USER_AGENT, AGENT)
            .header(id_name, &notice.id)
            .header(at_name, at)
            .header(signature_name, signature)
            .body(body)?;
        let status = match self.client.send(request).await {
            Ok(response) => response.status(),
            // The receiver accepted it, although its answer is too large.
            Err(RequestError::TooLarge { status, .. }) => status,
            Err(error) => return Err(error.into()),
        };
        if status.is_success() {
            return Ok(());
        }
        Err(WebhookError::Status(status))
    }
}

/// Builds `{type, timestamp, data}`, as Standard Webhooks recommends.
fn body(notice: &Notice, base: &str) -> Value {
    let mut data: Map<String, Value> = notice.data.clone();
    if let Some(tenant) = &notice.tenant {
        data.insert("tenant".into(), tenant.clone().into());
    }
    data.insert("subject".into(), notice.subject.clone().into());
    data.insert("url".into(), format!("{base}{}", notice.path).into());
    json!({ "type": notice.on.name(), "timestamp": notice.at, "data": data })
}
