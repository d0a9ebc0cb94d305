//! `omnilink replay`: reads the history.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use clap::builder::NonEmptyStringValueParser;
use hyper::Method;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::{
    Global,
    access::Access,
    client::{Client, Stream, encoded},
    moment, output, recorded, runtime,
};
use crate::{
    audit::{EVENT_COPIED, EVENT_REPLAYED},
    base::{
        clock::{Clock, Millis, SystemClock},
        id::Tenant,
        printable::Printable,
    },
    config::Config,
    envelope::Rfc3339,
    log::{Log, topics::Names},
    node::storage,
    replay::{
        EntityName, History, IntoTopic, Lines, Parquet, Query, Replayed, Sink, TypePattern, as_of,
        replay,
    },
};

/// Bytes of a response that are buffered while there is no line end.
const MAX_BUFFERED: usize = 1 << 20;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink replay --since 1h
  omnilink replay --entity order:17 --tenant acme --json
  omnilink replay --entity order:17 --as-of 2026-01-31T12:00:00Z
  omnilink replay --entity-type erp:sale.order --entity-id SO:1
  omnilink replay --type 'order.*' --since 2026-01-01 --until 2026-02-01 --into orders.parquet
  omnilink replay --follow --json | jq -c '{type, data}'
  omnilink replay --into topic:shop.copy

Events are in append order. Times are append times: RFC 3339, a date (UTC), or how long ago (90s, 15m, 2h, 7d); --until is
exclusive, --as-of inclusive. With --json, and in files, an event is a CloudEvent with the extensions omnilinktenant, omnilinktopic, omnilinkpartition, omnilinkoffset, timesource, entitytype, entityid and
entityname. A file ending in .parquet is Parquet, with the columns of the table events; any other is lines of JSON.")]
pub(super) struct Args {
    /// From this time on
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    since: Option<Millis>,
    /// Before this time
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    until: Option<Millis>,
    /// Of this tenant [default: all that the key may read]
    #[arg(long, value_parser = Tenant::new)]
    tenant: Option<Tenant>,
    /// Of this type, or of all types with this prefix if it ends in `*`; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// About this entity; if it has more than one colon, use --entity-type and --entity-id
    #[arg(long, value_name = "TYPE:ID", group = "about")]
    entity: Option<EntityName>,
    /// About the entity of this type, which may contain colons
    #[arg(long, value_name = "TYPE", group = "about", requires = "entity_id", value_parser = NonEmptyStringValueParser::new())]
    entity_type: Option<String>,
    /// The entity's id
    #[arg(long, value_name = "ID", requires = "entity_type", value_parser = NonEmptyStringValueParser::new())]
    entity_id: Option<String>,
    /// Keep running and print new events
    #[arg(long, conflicts_with = "as_of")]
    follow: bool,
    /// Into a file, or into a topic that does not belong to the system
    #[arg(long, value_name = "FILE|topic:NAME", conflicts_with = "as_of")]
    into: Option<String>,
    /// The entity's state at this time, instead of its events
    #[arg(long, value_name = "TIME", value_parser = moment::parse, requires = "about", conflicts_with_all = ["since", "until", "types"])]
    as_of: Option<Millis>,
}

/// Where events are written.
enum Target {
    Stdout,
    Lines(PathBuf),
    Parquet(PathBuf),
    Topic(String),
}

impl Args {
    fn target(&self) -> anyhow::Result<Target> {
        let Some(into) = &self.into else {
            return Ok(Target::Stdout);
        };
        if let Some(topic) = into.strip_prefix("topic:") {
            return Ok(Target::Topic(topic.to_owned()));
        }
        let path = PathBuf::from(into);
        let is_parquet = path.extension().is_some_and(|x| x == "parquet");
        if is_parquet && self.follow {
            bail!(
                "a Parquet file cannot be written with --follow, which never ends; leave out --follow, or write JSON lines"
            );
        }
        Ok(if is_parquet {
            Target::Parquet(path)
        } else {
            Target::Lines(path)
        })
    }

    fn query(&self) -> Query {
        Query {
            since: self.since,
            until: self.until,
            tenant: self.tenant.clone(),
            types: self
                .types
                .iter()
                .map(|t| TypePattern::from(t.as_str()))
                .collect(),
            entity: self.entity(),
            follow: self.follow,
        }
    }

    fn entity(&self) -> Option<EntityName> {
        let separate = self.entity_type.as_ref().zip(self.entity_id.as_ref());
        let separate = separate.map(|(kind, id)| EntityName {
            kind: kind.clone(),
            external_id: id.clone(),
        });
        self.entity.clone().or(separate)
    }

    /// The parameters, as a request to a node has them.
    fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs: Vec<(&'static str, String)> = Vec::new();
        let time = |at: Millis| Rfc3339(at.0.saturating_mul(1000)).to_string();
        pairs.extend(self.since.map(|at| ("since", time(at))));
        pairs.extend(self.until.map(|at| ("until", time(at))));
        pairs.extend(self.as_of.map(|at| ("as_of", time(at))));
        pairs.extend(self.tenant.iter().map(|t| ("tenant", t.to_string())));
        pairs.extend(self.types.iter().map(|t| ("type", t.clone())));
        if let Some(entity) = self.entity() {
            pairs.push(("entity_type", entity.kind));
            pairs.push(("entity_id", entity.external_id));
        }
        pairs.extend(self.follow.then(|| ("follow", "true".to_owned())));
        pairs
    }

    /// The path and query of a request to a node.
    fn path(&self, base: &str, more: &[(&str, &str)]) -> String {
        let mut pairs: Vec<(&str, String)> = self.pairs();
        pairs.extend(
            more.iter()
                .map(|(name, value)| (*name, (*value).to_owned())),
        );
        let mut path = base.to_owned();
        for (at, (name, value)) in pairs.iter().enumerate() {
            path.push(if at == 0 { '?' } else { '&' });
            path.push_str(name);
            path.push('=');
            path.extend(encoded(value));
        }
        path
    }

    /// Records that the history is read, or copied to a topic.
    fn audit(&self, target: &Target, log: &dyn Log, names: &Names) -> anyhow::Result<()> {
        let mut given = Map::new();
        for (name, value) in self.pairs() {
            if name != "type" {
                given.insert(name.to_owned(), value.into());
            }
        }
        if !self.types.is_empty() {
            given.insert("type".into(), self.types.clone().into());
        }
        let (action, topic) = match target {
            Target::Topic(topic) => (EVENT_COPIED, topic.as_str()),
            _ => (EVENT_REPLAYED, &*names.events),
        };
        let entry = recorded::entry(self.tenant.as_ref(), action, ("topic", topic), given);
        recorded::record(log, names, &[entry])
    }
}

pub(super) fn main(global: &Global, args: &Args) -> anyhow::Result<()> {
    let target = args.target()?;
    let config = global.load(|sources| sources)?;
    let access = Access::of(&config)?;
    if args.as_of.is_some() {
        return state(global, &config, args, &access);
    }
    match access {
        Access::Port(client) => runtime()?.block_on(over_port(global, args, &target, &client)),
        Access::Log(log, names) => direct(global, args, &target, &config, &*log, &names),
    }
}

fn state(global: &Global, config: &Config, args: &Args, access: &Access) -> anyhow::Result<()> {
    let state = match access {
        Access::Port(client) => {
            let path = args.path("/v1/replay/state", &[]);
            // The first request may build the index.
            let response = runtime()?.block_on(client.call_slow(Method::GET, &path))?;
            response.success()?
        }
        Access::Log(log, names) => {
            let (Some(entity), at) = (args.entity(), args.as_of) else {
                bail!("--as-of needs --entity");
            };
            args.audit(&Target::Stdout, &**log, names)?;
            let history = History {
                log: &**log,
                names,
                index_dir: storage::index_dir(config),
            };
            let bar = bar()?;
            let at = at.unwrap_or_else(|| SystemClock.now());
            let folded = as_of(&history, args.tenant.as_ref(), &entity, at, &mut |so_far| {
                show(&bar, so_far);
                true
            });
            bar.finish_and_clear();
            json!(folded?)
        }
    };
    if global.json {
        return output::json(&state);
    }
    let rows: Vec<_> = state
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            vec![name.clone(), value]
        })
        .collect();
    output::list(&["FIELD", "VALUE"], &rows);
    Ok(())
}

/// Prints the summary; fails if events were too large for the topic.
fn summary(global: &Global, target: &Target, done: &Value) -> anyhow::Result<()> {
    let to = match target {
        Target::Stdout => return Ok(()),
        Target::Lines(path) | Target::Parquet(path) => path.display().to_string(),
        Target::Topic(topic) => format!("topic:{topic}"),
    };
    let too_large = done["too_large"].as_u64().unwrap_or(0);
    if global.json {
        let mut summary =
            json!({ "into": to, "events": done["events"], "unreadable": done["unreadable"] });
        if too_large > 0 {
            summary["too_large"] = json!(too_large);
        }
        output::json(&summary)?;
    } else if done["events"].is_null() {
        output::line(&format!("written to {to}"));
    } else {
        output::line(&format!("{} events to {to}", done["events"]));
    }
    if too_large > 0 {
        bail!(
            "{too_large} events are larger than the topic accepts and were skipped; raise its max.message.bytes and replay again"
        );
    }
    Ok(())
}

fn bar() -> anyhow::Result<ProgressBar> {
    // indicatif hides it if standard error is not a terminal.
    Ok(ProgressBar::new(0).with_style(ProgressStyle::with_template(
        "{bar:40} {human_pos}/{human_len} records, {per_sec}, {eta} left, {msg} events",
    )?))
}

fn show(bar: &ProgressBar, so_far: &Replayed) {
    bar.set_length(so_far.total);
    bar.set_position(so_far.done);
    bar.set_message(so_far.events.to_string());
}

fn direct(
    global: &Global,
    args: &Args,
    target: &Target,
    config: &Config,
    log: &dyn Log,
    names: &Names,
) -> anyhow::Result<()> {
    args.audit(target, log, names)?;
    let history = History {
        log,
        names,
        index_dir: storage::index_dir(config),
    };
    let mut file = None;
    let mut sink: Box<dyn Sink + '_> = match target {
        Target::Stdout => Box::new(Lines::new(StdoutLines::new(global.json), &names.events)),
        Target::Lines(path) => {
            let atomic = AtomicFile::create(path)?;
            let out = BufWriter::new(atomic.handle()?);
            file = Some(atomic);
            Box::new(Lines::new(out, &names.events))
        }
        Target::Parquet(path) => {
            let atomic = AtomicFile::create(path)?;
            let out = atomic.handle()?;
            file = Some(atomic);
            Box::new(Parquet::new(out).map_err(anyhow::Error::from_boxed)?)
        }
        Target::Topic(topic) => Box::new(IntoTopic::new(log, names, topic)?),
    };
    let bar = match target {
        Target::Stdout => ProgressBar::hidden(),
        _ => bar()?,
    };
    let interrupted = interrupted(args.follow)?;
    let query = args.query();
    let done = replay(&history, &query, &mut *sink, &mut |so_far| {
        show(&bar, so_far);
        !interrupted.load(Ordering::Relaxed)
    });
    bar.finish_and_clear();
    let done = match done {
        // A closed pipe (`| head`) is not an error.
        Err(crate::replay::ReplayError::Sink(error))
            if error.downcast_ref().is_some_and(broken_pipe) =>
        {
            return Ok(());
        }
        done => done?,
    };
    if interrupted.load(Ordering::Relaxed) {
        sink.finish().map_err(anyhow::Error::from_boxed)?;
    }
    drop(sink);
    if let Some(file) = file {
        file.finish()?;
    }
    if done.unreadable > 0 {
        output::note(&format!(
            "{} records contain no event and were skipped",
            done.unreadable
        ));
    }
    summary(global, target, &json!(done))
}

fn broken_pipe(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::BrokenPipe
}

/// A flag that SIGINT or SIGTERM sets with `follow`, so that what was read is written out. Without `follow` a signal ends the
/// process as usual. A second signal always does.
fn interrupted(follow: bool) -> anyhow::Result<Arc<AtomicBool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let flag = Arc::<AtomicBool>::default();
    if !follow {
        return Ok(flag);
    }
    let raised = Arc::clone(&flag);
    let runtime = runtime()?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(async {
                let (Ok(mut interrupt), Ok(mut terminate)) = (
                    signal(SignalKind::interrupt()),
                    signal(SignalKind::terminate()),
                ) else {
                    return;
                };
                for second in [false, true] {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    if second {
                        std::process::exit(130);
                    }
                    raised.store(true, Ordering::Relaxed);
                }
            });
        })
        .context("cannot start a thread")?;
    Ok(flag)
}

async fn over_port(
    global: &Global,
    args: &Args,
    target: &Target,
    client: &Client,
) -> anyhow::Result<()> {
    let (path, format) = match target {
        Target::Stdout => (None, "ndjson"),
        Target::Lines(path) => (Some(path), "ndjson"),
        Target::Parquet(path) => (Some(path), "parquet"),
        Target::Topic(topic) => {
            let path = args.path("/v1/replay/topic", &[("topic", topic)]);
            let done = topic_over_port(client, &path).await?;
            return summary(global, target, &done);
        }
    };
    let path_of = args.path("/v1/replay", &[("format", format)]);
    let mut stream = client.stream(Method::GET, &path_of, None).await?;
    let stop = interrupted(args.follow)?;
    let Some(path) = path else {
        let mut stdout = StdoutLines::new(global.json);
        let copied = copy(&mut stream, &mut stdout, &stop, &mut |_| {}).await;
        return match copied {
            // A closed pipe (`| head`) is not an error.
            Err(error) if error.downcast_ref().is_some_and(broken_pipe) => Ok(()),
            copied => copied.map(drop),
        };
    };
    let atomic = AtomicFile::create(path)?;
    let mut out = BufWriter::new(atomic.handle()?);
    let bar = ProgressBar::new_spinner().with_style(ProgressStyle::with_template(
        "{spinner} {bytes}, {bytes_per_sec}, {elapsed}",
    )?);
    bar.enable_steady_tick(Duration::from_millis(200));
    let copied = copy(&mut stream, &mut out, &stop, &mut |bytes| bar.inc(bytes)).await;
    bar.finish_and_clear();
    let lines = copied?;
    drop(out);
    atomic.finish()?;
    let events = match target {
        Target::Lines(_) => json!(lines),
        _ => Value::Null,
    };
    summary(global, target, &json!({ "events": events }))
}

/// Copies a response body and returns the number of lines. If `stop` is set, it ends after a complete line.
async fn copy(
    stream: &mut Stream,
    out: &mut impl Write,
    stop: &AtomicBool,
    copied: &mut dyn FnMut(u64),
) -> anyhow::Result<u64> {
    let mut lines = 0;
    let mut rest: Vec<u8> = Vec::new();
    let stopped = async {
        while !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::pin!(stopped);
    loop {
        let piece = tokio::select! {
            piece = stream.next() => piece?,
            () = &mut stopped => {
                out.flush()?;
                return Ok(lines);
            }
        };
        let Some(piece) = piece else {
            out.write_all(&rest)?;
            out.flush()?;
            return Ok(lines);
        };
        copied(piece.len() as u64);
        lines += memchr::memchr_iter(b'\n', &piece).count() as u64;
        let end = memchr::memrchr(b'\n', &piece).map_or(0, |at| at + 1);
        if end > 0 {
            out.write_all(&rest)?;
            out.write_all(&piece[..end])?;
            out.flush()?;
            rest.clear();
        }
        rest.extend_from_slice(&piece[end..]);
        // Parquet has no lines.
        if rest.len() > MAX_BUFFERED {
            out.write_all(&rest)?;
            rest.clear();
        }
    }
}

async fn topic_over_port(client: &Client, path: &str) -> anyhow::Result<Value> {
    let bar = bar()?;
    let done = client
        .lines(Method::POST, path, None, |line| {
            let so_far = &line["replay"];
            bar.set_length(so_far["total"].as_u64().unwrap_or_default());
            bar.set_position(so_far["done"].as_u64().unwrap_or_default());
            bar.set_message(so_far["events"].to_string());
        })
        .await;
    bar.finish_and_clear();
    Ok(done?["replay"].clone())
}

/// A file that is written as `PATH.part` and renamed to `PATH` when it is complete.
struct AtomicFile {
    file: File,
    part: PathBuf,
    path: PathBuf,
}

impl AtomicFile {
    fn create(path: &Path) -> anyhow::Result<Self> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file =
            File::create(&part).with_context(|| format!("{} cannot be written", part.display()))?;
        Ok(Self {
            file,
            part,
            path: path.to_owned(),
        })
    }

    fn handle(&self) -> anyhow::Result<File> {
        Ok(self.file.try_clone()?)
    }

    fn finish(self) -> anyhow::Result<()> {
        self.file.sync_all()?;
        std::fs::rename(&self.part, &self.path)
            .with_context(|| format!("{} cannot be written", self.path.display()))
    }
}

/// Standard output: JSON lines, or a short readable line an event. Invisible characters are escaped in both.
struct StdoutLines {
    json: bool,
    line: Vec<u8>,
}

impl StdoutLines {
    fn new(json: bool) -> Self {
        Self {
            json,
            line: Vec::new(),
        }
    }
}

impl Write for StdoutLines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut out = std::io::stdout().lock();
        let mut rest = bytes;
        // Only whole lines: a character may be split over two chunks.
        while let Some(end) = memchr::memchr(b'\n', rest) {
            self.line.extend_from_slice(&rest[..=end]);
            if self.json {
                Printable(&mut out).write_all(&self.line)?;
            } else {
                let event: Value = serde_json::from_slice(&self.line).unwrap_or(Value::Null);
                writeln!(out, "{}", output::fit(&readable(&event)))?;
            }
            self.line.clear();
            rest = &rest[end + 1..];
        }
        self.line.extend_from_slice(rest);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stdout().flush()
    }
}

fn readable(event: &Value) -> String {
    use std::fmt::Write as _;
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    let mut line = format!(
        "{} {} {}",
        text("time"),
        text("omnilinktenant"),
        text("type")
    );
    // Writing to a `String` cannot fail.
    if let Ok(entity) = EntityName::new(text("entitytype"), text("entityid")) {
        let _ = write!(line, " {entity}");
    }
    if let Some(data) = event.get("data") {
        let _ = write!(line, " {data}");
    }
    line
}
