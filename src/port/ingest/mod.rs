//! `POST /v1/events`, which carries the main load: requests go directly from hyper to an append.

pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod events;
pub(crate) mod idempotency;
pub(crate) mod intake;
pub(crate) mod media;
pub(crate) mod nodes;
