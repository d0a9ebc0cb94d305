//! What `doctor` checks of planning: language models, Qdrant, and the model of the embeddings.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{
    Request, StatusCode,
    header::{AUTHORIZATION, HeaderValue},
};

use super::findings::{Findings, Status};
use crate::{
    base::clock::SystemClock,
    config::{Config, LanguageModel},
    http::{Client, Endpoint, Options, Reach},
    planner::Qdrant,
};

/// Time limit for one server.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum size of a list of models, in bytes.
const ANSWER_MAX: usize = 4 * 1024 * 1024;

/// Whether the servers of `planner` and `guardian.llm` answer and take their keys. No model is asked.
pub(super) async fn models(config: &Config, found: &mut Findings) {
    const CHECK: &str = "planner";
    if config.planner.is_empty() {
        let detail =
            "not configured; goals get plans from the cache and from workflows with examples alone";
        found.add(CHECK, Status::Skipped, detail);
    }
    let look = config
        .guardian_llm
        .iter()
        .map(|model| ("guardian.llm", model));
    let all = config
        .planner
        .iter()
        .map(|model| (CHECK, model))
        .chain(look);
    for (check, model) in all {
        let name = format!("{} at {}", model.model, model.url);
        match answers(model).await {
            Ok(()) => found.add(check, Status::Ok, name),
            Err((status, why)) => found.add(check, status, format!("{name}: {why}")),
        }
    }
}

/// Whether a server answers to a request for its models, which not all servers have.
async fn answers(model: &LanguageModel) -> Result<(), (Status, String)> {
    let failed = |why: String| (Status::Failed, why);
    let server = Endpoint::new(&model.url).map_err(|error| failed(error.to_string()))?;
    let mut request = Request::get(format!("{}/models", server.base()));
    if let Some(authorization) = server.authorization() {
        request = request.header(AUTHORIZATION, authorization);
    }
    if let Some(key) = &model.api_key {
        let mut value = HeaderValue::try_from(format!("Bearer {}", key.expose()))
            .map_err(|_| failed("`api_key` cannot be sent".to_owned()))?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    let request = request.body(Bytes::new());
    let request = request.map_err(|error| failed(error.to_string()))?;
    let client = Client::new(Options {
        connect_timeout: TIMEOUT,
        timeout: TIMEOUT,
        max_body_bytes: ANSWER_MAX,
        reach: Reach::Configured,
    });
    let response = client.send(request).await;
    let status = response
        .map_err(|error| failed(error.to_string()))?
        .status();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(failed(format!(
            "it does not accept the key ({})",
            status.as_u16()
        ))),
        // A server without this route is reached all the same.
        status if status.is_success() || status == StatusCode::NOT_FOUND => Ok(()),
        status => Err((Status::Warning, format!("it answered {}", status.as_u16()))),
    }
}

/// Whether Qdrant answers and takes its key.
pub(super) async fn qdrant(config: &Config, found: &mut Findings) {
    const CHECK: &str = "qdrant";
    let Some(url) = &config.qdrant_url else {
        let detail = "not configured; each node searches cached plans in memory";
        return found.add(CHECK, Status::Skipped, detail);
    };
    let key = config.qdrant_api_key.as_ref();
    let client = Qdrant::new(url, key, &config.topics.prefix, Arc::new(SystemClock));
    let answer = match client {
        Ok(client) => client.probe().await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match answer {
        Ok(()) => found.add(CHECK, Status::Ok, ""),
        Err(why) => found.add(CHECK, Status::Failed, why),
    }
}

/// Whether the files of the model are there. Their checksums are checked when it is loaded.
#[cfg(feature = "embed")]
pub(super) fn embeddings(config: &Config, found: &mut Findings) {
    const CHECK: &str = "embeddings";
    let folder = config.model_dir();
    let missing = crate::embed::files::FILES.iter().find(|file| {
        let found = folder.join(file.name).metadata();
        !found.is_ok_and(|found| found.len() == file.bytes)
    });
    match missing {
        None => found.add(CHECK, Status::Ok, folder.display().to_string()),
        Some(file) => {
            let detail = format!(
                "{} is not there or has another size: only goals with the same words find cached plans and examples; `omnilink model fetch` gets it",
                folder.join(file.name).display()
            );
            let wanted = !config.planner.is_empty() || config.qdrant_url.is_some();
            let status = if wanted {
                Status::Warning
            } else {
                Status::Skipped
            };
            found.add(CHECK, status, detail);
        }
    }
}

/// This binary has no embeddings.
#[cfg(not(feature = "embed"))]
pub(super) fn embeddings(_: &Config, found: &mut Findings) {
    let detail = "this binary was built without embeddings";
    found.add("embeddings", Status::Skipped, detail);
}
