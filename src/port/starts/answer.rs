//! The answer to starts.

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header::LOCATION},
    response::{IntoResponse, Response},
};

use super::{outcome::StartOutcome, refusal::Refusal};
use crate::{
    api::{
        events::{Accepted, ItemError, ItemResult, ItemStatus},
        runs::RunView,
        starts::AgentAccepted,
    },
    port::{RequestId, problem::Problem},
};

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Answers 202 if any start was accepted or is a duplicate, or the batch is empty; otherwise a problem with the results of all starts. Its
/// code is that of the first start refused by a rate limit, or else of the first start.
pub(super) fn respond(
    id: RequestId,
    is_batch: bool,
    taken: Vec<StartOutcome>,
) -> Result<Response, Problem> {
    let results: Vec<_> = taken.iter().enumerate().map(result).collect();
    if !taken.is_empty() && taken.iter().all(Result::is_err) {
        let mut refusals: Vec<_> = taken.into_iter().filter_map(Result::err).collect();
        let is_limited = |refusal: &Refusal| refusal.status == ItemStatus::RateLimited;
        let first = refusals.iter().position(is_limited).unwrap_or(0);
        // Texts and numbers always have a JSON form.
        let results = serde_json::to_vec(&results).unwrap_or_default();
        return Err(refusals.swap_remove(first).into_problem().results(&results));
    }
    let location = results.first().and_then(|first| first.poll_url.clone());
    let location = location.filter(|_| !is_batch);
    let accepted = Accepted {
        request_id: id.to_string(),
        results,
    };
    let mut response = (StatusCode::ACCEPTED, Json(accepted)).into_response();
    if let Some(location) = location.and_then(|url| HeaderValue::try_from(url).ok()) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

fn result((index, taken): (usize, &StartOutcome)) -> ItemResult {
    let mut result = ItemResult {
        status: ItemStatus::Queued,
        index,
        record_id: None,
        run_id: None,
        poll_url: None,
        duplicate: None,
        error: None,
        retry_after_seconds: None,
    };
    match taken {
        Ok(started) => {
            let run_id = started.run.to_string();
            result.poll_url = Some(poll_url(&run_id));
            result.run_id = Some(run_id);
            if started.duplicate {
                result.status = ItemStatus::Duplicate;
                result.duplicate = Some(true);
            }
        }
        Err(refusal) => {
            result.status = refusal.status;
            result.error = Some(ItemError {
                code: refusal.name.to_string(),
                message: refusal.message.to_string(),
            });
            result.retry_after_seconds = refusal.retry_after;
        }
    }
    result
}

/// The URL of a run.
fn poll_url(run_id: &str) -> String {
    format!("/v1/runs/{run_id}")
}

/// Answers 202 in the agents' format.
pub(super) fn agent(taken: Vec<StartOutcome>) -> Result<Response, Problem> {
    match taken.into_iter().next() {
        Some(Ok(started)) => {
            let accepted = AgentAccepted::new(&started.run.to_string());
            Ok((StatusCode::ACCEPTED, Json(accepted)).into_response())
        }
        Some(Err(refusal)) => Err(refusal.into_problem()),
        None => Err(Problem::log_unavailable()),
    }
}

/// Answers 200 with a run that ended while the client waited.
pub(super) fn ended(run: &RunView) -> Response {
    let mut response = Json(run).into_response();
    let headers = response.headers_mut();
    headers.insert(PREFERENCE_APPLIED, HeaderValue::from_static("wait"));
    if let Ok(location) = HeaderValue::try_from(poll_url(&run.run_id)) {
        headers.insert(LOCATION, location);
    }
    response
}
