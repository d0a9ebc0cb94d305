//! What an operator's tools ask of a running node, which has the embedded log to itself: `/v1/lag`, `/v1/topics`.

use std::{path::PathBuf, sync::Arc};

use axum::Json;
use serde_json::Map;

use super::caller::{Permitted, Sent};
use crate::{
    api::{list::List, topics::CreateTopics},
    controls::SecretKeys,
    log::{Log, LogError, Surveyed, survey, topics::Names},
    port::problem::Refused,
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

/// `GET /v1/lag`.
pub(crate) async fn lag(caller: Permitted) -> Result<Json<List<lag::Item>>, Refused> {
    let lags = Arc::clone(&caller.shared.tools.lags);
    let items = caller.blocking(move || lags.lags()).await?;
    Ok(Json(List::whole(items)))
}

/// `GET /v1/topics`.
pub(crate) async fn topics(caller: Permitted) -> Result<Json<List<Surveyed>>, Refused> {
    let tools = &caller.shared.tools;
    let specs = tools.names.specs(tools.partitions);
    let log = Arc::clone(&tools.log);
    let items = caller.blocking(move || survey(&*log, &specs)).await?;
    Ok(Json(List::whole(items)))
}

/// `POST /v1/topics`: makes what is missing.
pub(crate) async fn create_topics(
    Sent(caller, body): Sent<Permitted>,
) -> Result<Json<List<Surveyed>>, Refused> {
    let wanted: CreateTopics = caller.body(body)?;
    let tools = &caller.shared.tools;
    let specs = wanted
        .specs(&tools.names, tools.partitions)
        .map_err(|e| caller.invalid(e))?;
    let log = Arc::clone(&tools.log);
    let make = move || {
        let before = survey(&*log, &specs)?;
        log.provision(&specs, true)?;
        Ok((before, survey(&*log, &specs)?))
    };
    let (before, items) = caller.blocking(make).await?;
    for made in before.iter().filter(|topic| topic.partitions.is_none()) {
        let of = ("topic", &*made.name);
        caller
            .audit_operation("topic.created", of, Map::new())
            .await;
    }
    Ok(Json(List::whole(items)))
}
