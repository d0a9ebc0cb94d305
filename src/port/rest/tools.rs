//! Routes for operator tools, which need the running node because it has exclusive access to the embedded log: `/v1/lag`, `/v1/topics`.

use std::{path::PathBuf, sync::Arc};

use axum::Json;
use serde_json::Map;

use super::caller::{Permitted, Sent};
use crate::{
    api::{list::List, topics::CreateTopics},
    audit::TOPIC_CREATED,
    controls::SecretKeys,
    log::{Log, LogError, Surveyed, survey, topics::Names},
    port::problem::Refused,
    stream::lag,
};

/// What the operator tools need.
pub struct Tools {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The names of the topics.
    pub names: Names,
    /// The number of partitions of new topics.
    pub partitions: u32,
    /// The progress of processors.
    pub lags: Arc<dyn Lags>,
    /// The key that signs the marks of redriven records.
    pub secrets: Arc<SecretKeys>,
    /// The directory of the history index.
    pub index_dir: PathBuf,
    /// Held by the running redrive, so that there is only one.
    pub redriving: Arc<tokio::sync::Mutex<()>>,
}

/// Reports how far behind each processor is.
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

/// `POST /v1/topics`: creates missing topics.
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
        caller.audit_operation(TOPIC_CREATED, of, Map::new()).await;
    }
    Ok(Json(List::whole(items)))
}
