//! `omnilink send`: sends events from JSON lines, in batches. The events bring their own ids, so one that is sent twice is
//! ingested once: after an interruption the same command continues.

use std::{
    fs::File,
    io::{BufRead, BufReader, IsTerminal, Read},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use hyper::{Method, StatusCode, header::RETRY_AFTER};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    Global,
    client::{Client, Response},
    output,
};
use crate::envelope::json::without_mark;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink send events.jsonl
  gunzip -c events.jsonl.gz | omnilink send -
  OMNILINK_URL=http://omnilink:7700 OMNILINK_KEY=omni.… omnilink send events.jsonl --json

Each line is an event: {\"id\":\"1\",\"source\":\"/shop\",\"type\":\"order.paid\",\"data\":{}}. What was sent before counts
as a duplicate, so the same command can be run again after an interruption.")]
pub(super) struct Args {
    /// A file of JSON lines, or - for standard input
    file: PathBuf,
    /// Give up if a batch is not accepted for this many seconds; waiting for a rate limit does not count
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    give_up_after: u64,
}

/// Limits of a batch.
const BATCH_ITEMS: usize = 50;
const BATCH_BYTES: usize = 900 * 1024;
/// Size limit of a line, in bytes.
const MAX_LINE: usize = 16 << 20;
/// The first and the longest pause between retries.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// The maximum number of refusals that are printed.
const MAX_SHOWN: usize = 10;

#[derive(Default, Serialize)]
struct Summary {
    events: u64,
    ingested: u64,
    duplicates: u64,
    refused: u64,
    retries: u64,
    seconds: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refusals: Vec<Refusal>,
}

#[derive(Serialize)]
struct Refusal {
    line: u64,
    code: String,
    message: String,
}

/// A line and its number.
type Line = (u64, Vec<u8>);

pub(super) fn main(global: &Global, args: &Args) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    super::runtime()?.block_on(async {
        let mut sender = Sender {
            client: Client::new(&config)?,
            give_up_after: Duration::from_secs(args.give_up_after),
            summary: Summary::default(),
        };
        let began = Instant::now();
        let result = sender.send_file(&args.file).await;
        let mut summary = sender.summary;
        summary.seconds = began.elapsed().as_secs_f64();
        report(global, &summary)?;
        result?;
        if summary.refused > 0 {
            bail!(
                "{} of {} events were refused",
                summary.refused,
                summary.events
            );
        }
        Ok(())
    })
}

fn report(global: &Global, summary: &Summary) -> anyhow::Result<()> {
    if global.json {
        return output::json(summary);
    }
    for refusal in &summary.refusals {
        output::note(&format!(
            "line {}: {}: {}",
            refusal.line, refusal.code, refusal.message
        ));
    }
    let more = summary.refused - summary.refusals.len() as u64;
    if more > 0 {
        output::note(&format!("… and {more} more"));
    }
    let rate = summary.events as f64 / summary.seconds.max(0.001);
    output::line(&format!(
        "{} events in {:.1} s ({rate:.0}/s): {} ingested, {} duplicates, {} refused",
        summary.events, summary.seconds, summary.ingested, summary.duplicates, summary.refused
    ));
    Ok(())
}

struct Sender {
    client: Client,
    give_up_after: Duration,
    summary: Summary,
}

impl Sender {
    async fn send_file(&mut self, file: &Path) -> anyhow::Result<()> {
        let (input, size): (Box<dyn Read>, _) = if file == Path::new("-") {
            (Box::new(std::io::stdin()), None)
        } else {
            let opened =
                File::open(file).with_context(|| format!("{} cannot be read", file.display()))?;
            let size = opened.metadata().ok().map(|m| m.len());
            (Box::new(opened), size)
        };
        let bar = progress(size);
        let input = BufReader::with_capacity(1 << 20, bar.wrap_read(input));
        let result = self.send_lines(input, &bar).await;
        bar.finish_and_clear();
        result
    }

    async fn send_lines(
        &mut self,
        mut input: impl BufRead,
        bar: &ProgressBar,
    ) -> anyhow::Result<()> {
        let mut batch: Vec<Line> = Vec::with_capacity(BATCH_ITEMS);
        let mut bytes = 0;
        let mut number = 0;
        while let Some(line) = next_line(&mut input, &mut number)? {
            // One line that is not JSON would make the port refuse the whole batch.
            if let Err(error) = serde_json::from_slice::<&RawValue>(&line.1) {
                self.refuse(
                    line.0,
                    "invalid_payload",
                    &format!("not valid JSON: {error}"),
                );
                continue;
            }
            if batch.len() == BATCH_ITEMS || bytes + line.1.len() > BATCH_BYTES {
                self.send_batch(std::mem::take(&mut batch)).await?;
                bar.set_message(format!("{} events", self.summary.events));
                bytes = 0;
            }
            bytes += line.1.len() + 1;
            batch.push(line);
        }
        self.send_batch(batch).await
    }

    /// Sends a batch, with retries, until every line is ingested, a duplicate, or refused.
    async fn send_batch(&mut self, batch: Vec<Line>) -> anyhow::Result<()> {
        let mut parts = vec![batch];
        while let Some(part) = parts.pop() {
            // The node has smaller limits: send halves.
            if let Some((first, second)) = self.send_part(part).await? {
                parts.push(second);
                parts.push(first);
            }
        }
        Ok(())
    }

    async fn send_part(
        &mut self,
        mut part: Vec<Line>,
    ) -> anyhow::Result<Option<(Vec<Line>, Vec<Line>)>> {
        let mut began = Instant::now();
        let mut pause = BACKOFF_MIN;
        while !part.is_empty() {
            let (error, wait) = match self.try_once(&part).await {
                Ok(response) if too_large(&response) && part.len() > 1 => {
                    let second = part.split_off(part.len() / 2);
                    return Ok(Some((part, second)));
                }
                Ok(response) => {
                    let limited = limited_for(&response);
                    if limited.is_some() {
                        // Waiting for a rate limit does not count as failing.
                        began = Instant::now();
                    }
                    let wait = limited.or_else(|| retry_after(&response));
                    let error = describe(&response);
                    part = self.count(response, part)?;
                    (error, wait)
                }
                Err(error) => (error, None),
            };
            if part.is_empty() {
                break;
            }
            if began.elapsed() >= self.give_up_after {
                return Err(error.context(format!(
                    "gave up at line {} after {} s; accepted events are kept, send the file again to continue",
                    part[0].0,
                    self.give_up_after.as_secs()
                )));
            }
            self.summary.retries += 1;
            // Jitter, so that many senders do not retry at the same time.
            let jittered = pause.mul_f64(rand::random_range(0.5..1.0));
            tokio::time::sleep(wait.unwrap_or(jittered)).await;
            pause = (pause * 2).min(BACKOFF_MAX);
        }
        Ok(None)
    }

    async fn try_once(&self, batch: &[Line]) -> anyhow::Result<Response> {
        let mut body =
            Vec::with_capacity(batch.iter().map(|(_, l)| l.len() + 1).sum::<usize>() + 2);
        body.push(b'[');
        for (i, (_, line)) in batch.iter().enumerate() {
            if i > 0 {
                body.push(b',');
            }
            body.extend_from_slice(line);
        }
        body.push(b']');
        self.client
            .call(Method::POST, "/v1/events", Some(body.into()))
            .await
    }

    /// Counts the lines with a final result, and returns the lines to retry.
    fn count(&mut self, response: Response, batch: Vec<Line>) -> anyhow::Result<Vec<Line>> {
        let Some(results) = response.body["results"].as_array() else {
            let status = response.status;
            if status.is_server_error()
                || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status)
            {
                return Ok(batch);
            }
            if status == StatusCode::UNAUTHORIZED || batch.len() > 1 {
                return response.success().map(|_| batch);
            }
            let text = |name: &str| response.body[name].as_str().unwrap_or_default();
            self.refuse(batch[0].0, text("code"), text("detail"));
            return Ok(Vec::new());
        };
        let mut retry = Vec::new();
        for (line, result) in batch.into_iter().zip(results) {
            let error = |name: &str| result["error"][name].as_str().unwrap_or_default();
            match result["status"].as_str().unwrap_or_default() {
                "ingested" => {
                    self.summary.events += 1;
                    self.summary.ingested += 1;
                }
                "duplicate" => {
                    self.summary.events += 1;
                    self.summary.duplicates += 1;
                }
                _ if result["retry_after_seconds"].is_number() => retry.push(line),
                _ => self.refuse(line.0, error("code"), error("message")),
            }
        }
        Ok(retry)
    }

    fn refuse(&mut self, line: u64, code: &str, message: &str) {
        self.summary.events += 1;
        self.summary.refused += 1;
        if self.summary.refusals.len() < MAX_SHOWN {
            self.summary.refusals.push(Refusal {
                line,
                code: code.to_owned(),
                message: message.to_owned(),
            });
        }
    }
}

/// Whether the batch as a whole was refused because of its size.
fn too_large(response: &Response) -> bool {
    response.status == StatusCode::PAYLOAD_TOO_LARGE && response.body["results"].is_null()
}

/// How long to wait if a rate limit refused a line.
fn limited_for(response: &Response) -> Option<Duration> {
    let results = response.body["results"].as_array()?.iter();
    let limited = results.filter(|result| result["status"] == "rate_limited");
    let seconds = limited.filter_map(|result| result["retry_after_seconds"].as_u64());
    Some(Duration::from_secs(seconds.max()?).min(BACKOFF_MAX))
}

fn describe(response: &Response) -> anyhow::Error {
    let detail = response.body["detail"].as_str();
    anyhow::anyhow!(
        "{}: {}",
        response.status,
        detail.unwrap_or("some events were not accepted")
    )
}

/// The next line that is not empty.
fn next_line(input: &mut impl BufRead, number: &mut u64) -> anyhow::Result<Option<Line>> {
    loop {
        let mut line = Vec::new();
        let read = input
            .by_ref()
            .take(MAX_LINE as u64 + 1)
            .read_until(b'\n', &mut line);
        if read.context("the input cannot be read")? == 0 {
            return Ok(None);
        }
        *number += 1;
        if line.len() > MAX_LINE {
            bail!("line {number} has more than {MAX_LINE} bytes");
        }
        // A file may begin with a byte order mark; concatenated files have one inside.
        let line = without_mark(&line).trim_ascii();
        if !line.is_empty() {
            return Ok(Some((*number, line.to_vec())));
        }
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response
        .headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds).min(BACKOFF_MAX))
}

/// A progress bar if standard error is a terminal, else a hidden one.
fn progress(size: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = size.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    let style = "{bar:30} {bytes}/{total_bytes} {msg} {eta}";
    bar.with_style(
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
    )
}
