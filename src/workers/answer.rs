//! The outcome of a call, from the worker's answer or the error of the request (`docs/workers.md`, the table of outcomes). Pure.

use std::fmt::Display;

use hyper::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    base::clock::Millis,
    commands::result::ResultError,
    envelope::json::without_mark,
    http::{RequestError, retry_after_ms},
    runs::{CallKind, Json, Unreadable},
};

/// The maximum size of an output, in bytes.
pub const OUTPUT_MAX: usize = 128 * 1024;
/// The maximum length of a worker's error message, in characters; longer ones are cut.
const MESSAGE_MAX: usize = 1_000;
/// The maximum length of a worker's error code, in characters; longer ones are ignored.
const CODE_MAX: usize = 64;

/// The outcome of a call.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Answer {
    /// How the call ended; `None`: the worker accepted it and completes it later.
    pub(super) ended: Option<Ended>,
    /// Whether it counts as a failure of the worker for the circuit breaker: 5xx, no answer, no connection.
    pub(super) trouble: bool,
    /// For how long the worker asked for no further calls (429 or 503 with `Retry-After`), in milliseconds.
    pub(super) closed_ms: Option<u64>,
}

/// How a call ended.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Ended {
    /// It succeeded, with this output.
    Succeeded(Json),
    /// The call failed.
    Failed(Failed),
}

/// Why a call failed.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Failed {
    pub(super) error: ResultError,
    pub(super) retry_after_ms: Option<u64>,
    /// Whether the worker answered: without an answer the call may have had an effect.
    pub(super) answered: bool,
}

impl Failed {
    /// A failure that another attempt would not change.
    pub(super) fn permanent(code: &str, message: impl Into<String>) -> Self {
        Self::new(code, message, false)
    }

    /// A failure after which another attempt may succeed.
    pub(super) fn retryable(code: &str, message: impl Into<String>) -> Self {
        Self::new(code, message, true)
    }

    fn new(code: &str, message: impl Into<String>, retryable: bool) -> Self {
        Self {
            error: ResultError {
                code: code.to_owned(),
                message: message.into(),
                retryable,
            },
            retry_after_ms: None,
            answered: true,
        }
    }
}

impl From<Ended> for Answer {
    fn from(ended: Ended) -> Self {
        Self {
            ended: Some(ended),
            trouble: false,
            closed_ms: None,
        }
    }
}

impl From<Failed> for Answer {
    fn from(failed: Failed) -> Self {
        Ended::Failed(failed).into()
    }
}

/// The outcome of a worker's response to a step command.
pub(super) fn from_worker(
    kind: CallKind,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    now: Millis,
) -> Answer {
    if status == StatusCode::ACCEPTED {
        return Answer {
            ended: None,
            trouble: false,
            closed_ms: None,
        };
    }
    if !status.is_success() {
        return from_failure(status, headers, body, now);
    }
    match read_output(body) {
        Ok(output) => Ended::Succeeded(output).into(),
        // The output of a compensation is not used.
        Err(_) if kind == CallKind::Compensate => Ended::Succeeded(Json::null()).into(),
        Err(why) => invalid_output(why).into(),
    }
}

/// The failure of a call that succeeded, but with an invalid output.
pub(super) fn invalid_output(why: impl Display) -> Failed {
    Failed::permanent(
        "invalid_output",
        format!("the answer is not a valid output: {why}"),
    )
}

/// The failure of a call that succeeded, but with an output that is too large.
pub(super) fn output_too_large() -> Failed {
    let message = format!("its output has more than {OUTPUT_MAX} bytes");
    Failed::permanent("output_too_large", message)
}

/// The outcome of a response with a status other than 2xx.
pub(super) fn from_failure(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    now: Millis,
) -> Answer {
    let retryable = matches!(status.as_u16(), 408 | 409 | 425 | 429) || status.is_server_error();
    let (code, message) = problem(headers, body).unwrap_or_default();
    let code = code.unwrap_or_else(|| format!("http_{}", status.as_u16()));
    let message = message.unwrap_or_else(|| {
        let why = if status.is_redirection() {
            "; redirects are not followed"
        } else {
            ""
        };
        format!("the worker answered {status}{why}")
    });
    let mut failed = Failed::new(&code, message, retryable);
    let retry_after = headers.get(header::RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| retry_after_ms(value.to_str().ok()?, now));
    let closes = matches!(status.as_u16(), 429 | 503);
    failed.retry_after_ms = retry_after.filter(|_| retryable);
    Answer {
        ended: Some(Ended::Failed(failed)),
        trouble: status.is_server_error(),
        closed_ms: retry_after.filter(|_| closes),
    }
}

/// The outcome of a request without a usable response.
pub(super) fn from_error(kind: CallKind, error: &RequestError, now: Millis) -> Answer {
    let failed = match error {
        RequestError::Forbidden(_) => {
            return Failed::permanent("address_not_allowed", error.to_string()).into();
        }
        RequestError::NoHost => return Failed::permanent("invalid_url", error.to_string()).into(),
        RequestError::NoRoots(_) => {
            return Failed::retryable("tls_unavailable", error.to_string()).into();
        }
        RequestError::TooLarge { status, .. } if status.is_success() => {
            return match kind {
                CallKind::Execute => output_too_large().into(),
                CallKind::Compensate => Ended::Succeeded(Json::null()).into(),
            };
        }
        // The status alone decides, so the body is not needed.
        RequestError::TooLarge { status, .. } => {
            return from_failure(*status, &HeaderMap::new(), b"", now);
        }
        RequestError::Connect(_) => Failed::retryable("no_connection", error.to_string()),
        RequestError::Timeout(_) | RequestError::Request(_) | RequestError::Body(_) => Failed {
            answered: false,
            ..Failed::retryable("no_answer", error.to_string())
        },
    };
    Answer {
        trouble: true,
        ..failed.into()
    }
}

/// Reads a body as an output: JSON, after a byte order mark if there is one; an empty body is `null`. `Err`: why it is invalid.
pub fn read_output(body: &[u8]) -> Result<Json, Unreadable> {
    let body = without_mark(body);
    if body.is_empty() {
        return Ok(Json::null());
    }
    Json::read(body)
}

/// Code and message of problem details (RFC 9457), or of a plain JSON object with `code` and `message`.
fn problem(headers: &HeaderMap, body: &[u8]) -> Option<(Option<String>, Option<String>)> {
    #[derive(Deserialize)]
    struct Problem {
        #[serde(rename = "type")]
        kind: Option<Value>,
        code: Option<Value>,
        title: Option<Value>,
        detail: Option<Value>,
        message: Option<Value>,
    }
    let media = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let media = media.split(';').next()?.trim().to_ascii_lowercase();
    if media != "application/problem+json" && media != "application/json" {
        return None;
    }
    let problem: Problem = serde_json::from_slice(without_mark(body)).ok()?;
    let text = |value: Option<Value>| match value {
        Some(Value::String(text)) if !text.trim().is_empty() => Some(text),
        _ => None,
    };
    let kind = text(problem.kind).filter(|kind| kind != "about:blank");
    let last = |kind: String| kind.rsplit(['/', ':', '#']).next().map(str::to_owned);
    let code = text(problem.code).or_else(|| kind.and_then(last));
    let message = text(problem.detail)
        .or_else(|| text(problem.message))
        .or_else(|| text(problem.title));
    let message = message.map(|text| text.chars().take(MESSAGE_MAX).collect());
    Some((code.filter(|code| is_code(code)), message))
}

fn is_code(code: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    !code.is_empty() && code.len() <= CODE_MAX && code.bytes().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(status: u16, headers: &[(&'static str, &str)], body: &str) -> Answer {
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            all.insert(*name, value.parse().unwrap());
        }
        let status = StatusCode::from_u16(status).unwrap();
        from_worker(CallKind::Execute, status, &all, body.as_bytes(), Millis(0))
    }

    fn failed(answer: Answer) -> Failed {
        match answer.ended {
            Some(Ended::Failed(failed)) => failed,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_2xx_is_the_output() {
        for (body, output) in [
            ("", "null"),
            (" {\"a\":1.50}\n", "{\"a\":1.5}"),
            ("0", "0"),
            ("\u{feff}{}", "{}"),
            ("\u{feff}", "null"),
        ] {
            let answer = worker(200, &[], body);
            let Some(Ended::Succeeded(json)) = answer.ended else {
                panic!("{answer:?}");
            };
            assert_eq!(json.text(), output);
        }
        assert_eq!(worker(202, &[], "not read").ended, None);
        let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
        for wrong in [
            "OK",
            "{",
            "{} {}",
            "\u{feff}\u{feff}{}",
            &deep,
            r#""\ud800""#,
            "1e400",
        ] {
            let failed = failed(worker(201, &[], wrong));
            assert_eq!(failed.error.code, "invalid_output", "{wrong}");
            assert!(!failed.error.retryable && failed.answered);
        }
        let undone = from_worker(
            CallKind::Compensate,
            StatusCode::OK,
            &HeaderMap::new(),
            b"OK",
            Millis(0),
        );
        assert_eq!(undone.ended, Some(Ended::Succeeded(Json::null())));
    }

    #[test]
    fn which_failures_are_retried_and_which_count_for_the_breaker() {
        for (status, retryable, trouble) in [
            (408, true, false),
            (409, true, false),
            (425, true, false),
            (429, true, false),
            (500, true, true),
            (503, true, true),
            (301, false, false),
            (307, false, false),
            (400, false, false),
            (401, false, false),
            (422, false, false),
        ] {
            let answer = worker(status, &[("retry-after", "7")], "");
            assert_eq!(answer.trouble, trouble, "{status}");
            assert_eq!(
                answer.closed_ms.is_some(),
                matches!(status, 429 | 503),
                "{status}"
            );
            let failed = failed(answer);
            assert_eq!(failed.error.retryable, retryable, "{status}");
            assert_eq!(failed.error.code, format!("http_{status}"));
            assert_eq!(failed.retry_after_ms, retryable.then_some(7_000));
        }
    }

    #[test]
    fn problem_details_give_code_and_message() {
        let problem = [("content-type", "application/problem+json; charset=utf-8")];
        for (body, code, message) in [
            (
                r#"{"code":"no_funds","detail":"empty","title":"t"}"#,
                "no_funds",
                "empty",
            ),
            (
                r#"{"type":"https://e.com/p/no-funds","title":"No funds"}"#,
                "no-funds",
                "No funds",
            ),
            (r#"{"type":"about:blank","title":"No"}"#, "http_400", "No"),
            (r#"{"code":"a b","message":"m"}"#, "http_400", "m"),
            (
                r#"{"code":7}"#,
                "http_400",
                "the worker answered 400 Bad Request",
            ),
            ("no JSON", "http_400", "the worker answered 400 Bad Request"),
        ] {
            let failed = failed(worker(400, &problem, body));
            assert_eq!(
                (&*failed.error.code, &*failed.error.message),
                (code, message),
                "{body}"
            );
        }
        let text = failed(worker(
            400,
            &[("content-type", "text/html")],
            r#"{"code":"x"}"#,
        ));
        assert_eq!(text.error.code, "http_400");
        let long = format!(r#"{{"detail":"{}"}}"#, "ä".repeat(5_000));
        assert_eq!(
            failed(worker(400, &problem, &long))
                .error
                .message
                .chars()
                .count(),
            MESSAGE_MAX
        );
    }
}
