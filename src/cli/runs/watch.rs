//! `omnilink runs watch`: shows a run live.

use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use super::{
    Named, history,
    picture::Picture,
    screen::{Screen, room},
};
use crate::{
    base::{
        backoff::Backoff,
        clock::{Clock, SystemClock},
    },
    cli::{
        Global,
        client::{Client, Stream},
        output, sse,
    },
};

/// Time between redraws, which update the elapsed times.
const REDRAW: Duration = Duration::from_millis(500);
/// Pauses before the stream is reopened.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(500),
    max: Duration::from_secs(5),
};
/// The maximum number of times that the stream may break without a record in between.
const BREAKS_MAX: u32 = 10;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink runs watch 7dbd6d41-6f85-5f7b-98af-6637f5372c2e
  omnilink runs watch 7dbd6d41-6f85-5f7b-98af-6637f5372c2e --json | jq -c '{seq, type, step_id}'

On a terminal the plan is drawn in place; elsewhere each record is a line. The exit code is 1 unless the run succeeds. The key needs
the permission `runs:read`.")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    run: Named,
}

/// The state of a watch.
struct Watch<'a> {
    global: &'a Global,
    picture: Picture,
    screen: Screen,
    /// The id of the last event.
    last: Option<String>,
}

/// Shows a run until it ends.
pub(super) async fn watch(global: &Global, client: &Client, args: &Args) -> anyhow::Result<()> {
    let path = args.run.path(history::PART);
    let mut watch = Watch {
        global,
        picture: Picture::default(),
        screen: Screen::default(),
        last: None,
    };
    let mut breaks = 0;
    loop {
        let before = watch.last.clone();
        let broken = match client.events(&path, watch.last.as_deref()).await {
            Ok(stream) => watch.follow(stream).await.err(),
            // A permanent error: there is no such run, or the key lacks the permission.
            Err(error) if before.is_none() => return Err(error),
            Err(error) => Some(error),
        };
        if watch.picture.status().is_final() {
            break;
        }
        breaks = if watch.last == before { breaks + 1 } else { 1 };
        if breaks > BREAKS_MAX {
            let error = broken.unwrap_or_else(|| anyhow::anyhow!("the stream ends too early"));
            return Err(error).context("the run cannot be watched any more");
        }
        tokio::time::sleep(BACKOFF.pause(breaks)).await;
    }
    match watch.picture.failure {
        Some(failure) => bail!("the run has not succeeded: {failure}"),
        None => Ok(()),
    }
}

impl Watch<'_> {
    /// Whether the plan is drawn in place.
    fn draws(&self) -> bool {
        !self.global.json && output::is_terminal()
    }

    /// Shows records until the stream ends.
    async fn follow(&mut self, mut stream: Stream) -> anyhow::Result<()> {
        let mut parser = sse::Parser::default();
        let mut redraw = tokio::time::interval(REDRAW);
        loop {
            let piece = tokio::select! {
                piece = stream.next() => piece?,
                _ = redraw.tick(), if self.draws() => {
                    self.draw();
                    continue;
                }
            };
            let Some(piece) = piece else {
                return Ok(());
            };
            for event in parser.push(&piece)? {
                let record: Value =
                    serde_json::from_str(&event.data).context("an event of the run is not JSON")?;
                self.last = event.id.or(self.last.take());
                self.take(&record)?;
            }
            if self.draws() {
                self.draw();
            }
            if self.picture.status().is_final() {
                return Ok(());
            }
        }
    }

    fn take(&mut self, record: &Value) -> anyhow::Result<()> {
        self.picture.apply(record);
        if self.global.json {
            return output::json(record);
        }
        if !self.draws() {
            let row = history::row(record);
            let cells = row.iter().filter(|cell| !cell.is_empty() && *cell != "-");
            output::line(&cells.map(String::as_str).collect::<Vec<_>>().join("  "));
        }
        Ok(())
    }

    fn draw(&mut self) {
        let width = output::terminal_size().map_or(usize::MAX, |(columns, _)| columns);
        let now = SystemClock.now().0;
        let lines = self.picture.lines(now, width, output::colours());
        self.screen.draw(&lines, room());
    }
}
