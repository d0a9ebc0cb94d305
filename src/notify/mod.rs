//! Notifications inform people and programs about important events, by signed webhooks and by mail (`docs/notifications.md`).
//!
//! Each target has an effect on each topic that records what it wants to know, so that a target that does not answer does not delay the
//! others. A consumer group distributes the work over all nodes, so each notification is sent by one of them.
//!
//! | file | holds |
//! |---|---|
//! | `notice` | the content of a notification, built from a record |
//! | `subscription` | whether a target wants it, and what it need not be told again |
//! | `deliver` | the effect: sends until the target accepts, for up to a day, then writes a dead letter |
//! | `webhook`, `mail` | the two ways to send |

mod deliver;
mod mail;
mod notice;
mod subscription;
mod webhook;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_64;

pub use self::{deliver::Failing, notice::STALLED};
use self::{
    deliver::{Deliver, Sender},
    mail::{Mail, MailError},
    notice::Source,
    subscription::Subscription,
    webhook::Webhook,
};
use crate::{
    base::clock::Clock,
    config::{Notify, NotifyTarget},
    http::NoSecret,
    log::{Log, topics::Names},
    stream::{effect, progress::Progress},
};

/// The prefix of the names of these effects.
pub const PREFIX: &str = "notify.";
/// The maximum number of concurrent notifications to a target, from one topic.
const AT_ONCE: usize = 64;
/// Longer than a notification is retried.
const CALL_MAX: Duration = Duration::from_hours(26);
/// How long a stop waits for a request in flight; the notification is then sent again by the next owner.
const DRAIN: Duration = Duration::from_secs(1);

/// What notifications need.
pub struct Parts {
    /// The log.
    pub log: Arc<dyn Log>,
    /// Its topics.
    pub names: Names,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The public URL of the port, without a trailing `/`.
    pub public_url: String,
}

/// A target cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// Its secret cannot be used.
    #[error(transparent)]
    Secret(#[from] NoSecret),
    /// Its mail server cannot be used.
    #[error(transparent)]
    Mail(#[from] MailError),
    /// A thread cannot be started.
    #[error(transparent)]
    Thread(#[from] io::Error),
}

/// The running notifications. Dropping it stops them; what is not accepted yet is sent again by the next owner.
pub struct Running {
    stop: CancellationToken,
    effects: Vec<effect::Running>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        let effects = self.effects.drain(..);
        // Each stop waits for its own requests.
        let stops: Vec<_> = effects
            .map(|one| std::thread::spawn(move || drop(one)))
            .collect();
        for stop in stops {
            crate::base::threads::join(stop);
        }
    }
}

/// Starts to send, on the current runtime. `watch` is called for each effect with its name and its report, and `failing` has the targets
/// that do not accept notifications.
pub fn start(
    items: &[Notify],
    parts: &Parts,
    failing: &Failing,
    mut watch: impl FnMut(&str, &Arc<Progress>),
) -> Result<Running, NotifyError> {
    let mut running = Running {
        stop: CancellationToken::new(),
        effects: Vec::new(),
    };
    for (id, items) in targets(items) {
        let Some(first) = items.first() else {
            continue;
        };
        let sender = Arc::new(sender(&first.to)?);
        for source in sources(&items) {
            let name = name(source, &id);
            let deliver = Deliver::new(
                name.clone(),
                source,
                Subscription::new(&items),
                (Arc::clone(&sender), first.to.to_string()),
                parts,
                (failing.clone(), running.stop.clone()),
            );
            let progress = Arc::<Progress>::default();
            watch(&name, &progress);
            let setup = effect::Setup {
                log: Arc::clone(&parts.log),
                name,
                topic: source.topic(&parts.names).to_string(),
                dlq: Arc::clone(&parts.names.dlq),
                concurrency: AT_ONCE,
                deadline: CALL_MAX,
                drain: DRAIN,
                clock: Arc::clone(&parts.clock),
                runtime: tokio::runtime::Handle::current(),
                progress,
            };
            running
                .effects
                .push(effect::start_at_end(Arc::new(deliver), setup)?);
        }
    }
    Ok(running)
}

/// The effects of these items: the name of each, and the topic that it reads.
pub fn processors(items: &[Notify], names: &Names) -> Vec<(String, Arc<str>)> {
    let mut processors = Vec::new();
    for (id, items) in targets(items) {
        for source in sources(&items) {
            processors.push((name(source, &id), source.topic(names).into()));
        }
    }
    processors
}

fn name(source: Source, id: &str) -> String {
    format!("{PREFIX}{}.{id}", source.name())
}

/// The topics that record what these items want to know.
fn sources(items: &[&Notify]) -> BTreeSet<Source> {
    let on = items.iter().flat_map(|item| &item.on);
    on.map(|on| Source::of(*on)).collect()
}

/// The items of each target, by an id that stays the same when other items of the list change.
fn targets(items: &[Notify]) -> BTreeMap<String, Vec<&Notify>> {
    let mut targets: BTreeMap<String, Vec<&Notify>> = BTreeMap::new();
    for item in items {
        let named = match &item.to {
            NotifyTarget::Webhook { url, .. } => format!("webhook {}", url.expose()),
            NotifyTarget::Smtp { to, .. } => {
                let to: Vec<_> = to.iter().map(|one| one.email.to_string()).collect();
                format!("smtp {}", to.join(" "))
            }
        };
        let id = format!("{:016x}", xxh3_64(named.as_bytes()));
        targets.entry(id).or_default().push(item);
    }
    targets
}

fn sender(to: &NotifyTarget) -> Result<Sender, NotifyError> {
    Ok(match to {
        NotifyTarget::Webhook { url, secret } => {
            Sender::Webhook(Box::new(Webhook::new(url, secret)?))
        }
        NotifyTarget::Smtp { url, from, to } => Sender::Mail(Box::new(Mail::new(url, from, to)?)),
    })
}
