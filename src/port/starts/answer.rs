//! The answer to starts.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::refusal::Refusal;
use crate::{
    api::events::{Accepted, ItemError, ItemResult},
    port::{RequestId, problem::Problem},
};

/// A problem with the code of the first start and the results of all; 202 for an empty batch.
pub(super) fn respond(id: RequestId, refusals: Vec<Refusal>) -> Result<Response, Problem> {
    let results: Vec<_> = refusals
        .iter()
        .enumerate()
        .map(|(index, refusal)| ItemResult {
            status: refusal.status,
            index,
            record_id: None,
            run_id: None,
            poll_url: None,
            duplicate: None,
            error: Some(ItemError {
                code: refusal.name.to_string(),
                message: refusal.message.to_string(),
            }),
            retry_after_seconds: refusal.retry_after,
        })
        .collect();
    if let Some(first) = refusals.into_iter().next() {
        // Texts and numbers always have a JSON form.
        let results = serde_json::to_vec(&results).unwrap_or_default();
        return Err(first.into_problem().results(&results));
    }
    let request_id = id.to_string();
    let accepted = Accepted {
        request_id,
        results,
    };
    Ok((StatusCode::ACCEPTED, Json(accepted)).into_response())
}
