//! What the operator's tools ask of a running node, which has the embedded log to itself: `/v1/lag`, `/v1/topics`.
//! All of it needs the scope `operator`, for it reaches over tenants.

use std::{path::PathBuf, sync::Arc};

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use crate::port::peer::FromPeer;
use crate::port::{
    RequestId, Shared, auth,
    problem::{Problem, Refused},
};
use crate::{
    controls::SecretKeys,
    log::{Cleanup, Log, LogError, TopicSpec, survey, topics::Names},
    stream::lag,
};

/// What the tools work on.
pub struct Tools {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The names of its topics.
    pub names: Names,
    /// The number of partitions that topics have.
    pub partitions: u32,
    /// How far processors are.
    pub lags: Arc<dyn Lags>,
    /// What marks of redriven records are signed with.
    pub secrets: Arc<SecretKeys>,
    /// Where the index of the history lies.
    pub index_dir: PathBuf,
    /// Held by the one redrive that runs.
    pub redriving: Arc<tokio::sync::Mutex<()>>,
}

/// Knows how far behind each processor is.
pub trait Lags: Send + Sync {
    /// The lag of each processor in each partition. Blocks.
    fn lags(&self) -> Result<Vec<lag::Item>, LogError>;
}

/// A list, as every list is.
#[derive(Serialize)]
struct List<T> {
    items: Vec<T>,
}

/// Runs what blocks away from the requests' threads.
pub(crate) async fn blocking<T: Send + 'static>(
    id: RequestId,
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, Refused> {
    let failed = |problem| Refused::new(problem, id);
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(failed(of_log(&error))),
        Err(_) => Err(failed(Problem::log_unavailable())),
    }
}

/// The log's words reach operators only.
pub(crate) fn of_log(error: &LogError) -> Problem {
    use hyper::StatusCode;
    match error {
        LogError::UnknownTopic(_) => {
            Problem::new(StatusCode::NOT_FOUND, "unknown_topic", error.to_string())
        }
        LogError::PartitionCount { .. } | LogError::Grown { .. } => {
            Problem::new(StatusCode::CONFLICT, "partition_count", error.to_string())
        }
        _ => {
            tracing::warn!(%error, "the log cannot be read for a tool");
            let detail = error.to_string();
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "log_unavailable", detail).retry_after(5)
        }
    }
}

/// `GET /v1/lag`.
pub(crate) async fn lag(
    State(shared): State<Arc<Shared>>,
    peer: FromPeer,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let id = auth::operator(&shared, &headers, peer)?;
    let lags = Arc::clone(&shared.tools.lags);
    let items = blocking(id, move || lags.lags()).await?;
    Ok(Json(List { items }).into_response())
}

/// `GET /v1/topics`.
pub(crate) async fn topics(
    State(shared): State<Arc<Shared>>,
    peer: FromPeer,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let id = auth::operator(&shared, &headers, peer)?;
    let specs = shared.tools.names.specs(shared.tools.partitions);
    let log = Arc::clone(&shared.tools.log);
    let items = blocking(id, move || survey(&*log, &specs)).await?;
    Ok(Json(List { items }).into_response())
}

/// Which topics to make.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// Topics that are none of the system's; empty: the system's own.
    #[serde(default)]
    names: Vec<String>,
    partitions: Option<u32>,
}

/// `POST /v1/topics`: makes what is missing.
pub(crate) async fn create_topics(
    State(shared): State<Arc<Shared>>,
    peer: FromPeer,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    let id = auth::operator(&shared, &headers, peer)?;
    let refuse = |problem| Refused::new(problem, id);
    let body = body.map_err(|e| refuse(Problem::invalid(e.body_text())))?;
    let asked: Asked =
        serde_json::from_slice(&body).map_err(|e| refuse(Problem::invalid(e.to_string())))?;
    let Tools {
        names, partitions, ..
    } = &shared.tools;
    let specs = wanted(names, &asked.names, asked.partitions, *partitions)
        .map_err(|why| refuse(Problem::invalid(why)))?;
    let log = Arc::clone(&shared.tools.log);
    let made = move || {
        log.provision(&specs, true)?;
        survey(&*log, &specs)
    };
    let items = blocking(id, made).await?;
    Ok(Json(List { items }).into_response())
}

/// The topics to be made: the system's own, or others by name.
pub(crate) fn wanted(
    names: &Names,
    others: &[String],
    partitions: Option<u32>,
    configured: u32,
) -> Result<Vec<TopicSpec>, String> {
    if others.is_empty() {
        return match partitions {
            Some(_) => Err(
                "the partitions of the system's own topics are `topics.partitions`; name a topic to choose"
                    .into(),
            ),
            None => Ok(names.specs(configured)),
        };
    }
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let spec = |name: &String| {
        if name.is_empty() || name.len() > 249 || !name.bytes().all(good) {
            return Err(format!(
                "`{name}`: a topic's name has 1 to 249 of the characters A-Z a-z 0-9 . _ -"
            ));
        }
        if names.is_own(name) {
            return Err(format!(
                "`{name}` begins as the system's own topics do (`{}`)",
                names.prefix
            ));
        }
        Ok(TopicSpec {
            name: name.as_str().into(),
            partitions: partitions.unwrap_or(configured).clamp(1, 10_000),
            cleanup: Cleanup::Keep,
        })
    };
    others.iter().map(spec).collect()
}
