//! What starts a workflow without a request: an event, or a time.

use croner::parser::{CronParser, Seconds};
use jiff::tz::TimeZone;
use serde_json::Value;

use super::source::Source;
use crate::{
    envelope::IDENTIFIER_MAX,
    plans::{
        Pointer,
        read::{Faults, Object},
    },
    topology::{Use, compile},
};

/// What starts a workflow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// An event that is admitted.
    Event {
        /// Its type, or the beginning of its type and `.*`.
        pattern: String,
        /// VRL over the envelope: whether it starts the workflow. Compiled once already.
        when: Option<String>,
        /// VRL over the envelope: what `.` is then are the params; `.data` without it. Compiled once already.
        params: Option<String>,
    },
    /// A time.
    Cron {
        /// Five fields: minute, hour, day, month, day of the week.
        pattern: String,
        /// The name of a time zone.
        zone: String,
        /// What happens with times that passed while nothing ran.
        catch_up: CatchUp,
    },
}

/// What happens with times that passed while nothing ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CatchUp {
    /// The last of them starts.
    Last,
    /// Each of them starts.
    All,
    /// None of them starts.
    None,
}

/// Reads the member `on`.
pub(super) fn read(source: &mut Source) -> Vec<Trigger> {
    let at = Pointer::root().at("on");
    let Some(value) = source.json.get("on").filter(|v| !v.is_null()).cloned() else {
        return Vec::new();
    };
    let mut faults = Faults::default();
    let mut triggers = Vec::new();
    for (n, item) in faults
        .list(&value, &at, "on")
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        triggers.extend(one(item, &at.at(n), &mut faults, source));
    }
    source.report_all(&Pointer::root(), &faults.0);
    triggers
}

fn one(value: &Value, at: &Pointer, faults: &mut Faults, source: &mut Source) -> Option<Trigger> {
    let of_event = value.get("event").is_some();
    let of_time = value.get("cron").is_some();
    match (of_event, of_time) {
        (true, false) => {
            let trigger = faults.object(
                value,
                at,
                "a trigger of events",
                &["event", "when", "params"],
            )?;
            event(&trigger, faults, source)
        }
        (false, true) => {
            let trigger =
                faults.object(value, at, "a trigger of times", &["cron", "tz", "catch_up"])?;
            cron(&trigger, faults)
        }
        _ => {
            faults.add(at, "a trigger has either `event` or `cron`");
            None
        }
    }
}

fn event(trigger: &Object<'_>, faults: &mut Faults, source: &mut Source) -> Option<Trigger> {
    let pattern = trigger.required_text("event", faults);
    if let Some(pattern) = pattern {
        let stem = pattern.strip_suffix(".*").unwrap_or(pattern);
        if stem.is_empty() || stem.contains('*') || pattern.len() > IDENTIFIER_MAX {
            let fault = faults.add(
                &trigger.at.at("event"),
                "`event` must be a type, or the beginning of one and `.*`",
            );
            fault.note = Some("such as `order.paid` or `order.*`".into());
        }
    }
    let when = program(trigger, "when", Use::Condition, faults, source);
    let params = program(trigger, "params", Use::Map, faults, source);
    Some(Trigger::Event {
        pattern: pattern?.to_owned(),
        when,
        params,
    })
}

/// Compiles a program where it stands in the file.
fn program(
    trigger: &Object<'_>,
    name: &str,
    usage: Use,
    faults: &mut Faults,
    source: &mut Source,
) -> Option<String> {
    let given = trigger.text(name, faults)?;
    let text = source.text(&trigger.at.at(name)).cloned()?;
    let compiled = compile(&text, usage, &mut source.problems);
    if compiled.is_some_and(|vrl| vrl.reads_metadata) {
        let fault = faults.add(&trigger.at.at(name), "there are no metadata (`%…`) here");
        fault.note = Some("`.` is the event: `.type`, `.data`, `.entity` …".into());
    }
    Some(given.to_owned())
}

fn cron(trigger: &Object<'_>, faults: &mut Faults) -> Option<Trigger> {
    let pattern = trigger.required_text("cron", faults);
    if let Some(pattern) = pattern {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).build();
        if let Err(error) = parser.parse(pattern) {
            let fault = faults.add(
                &trigger.at.at("cron"),
                format!("not a cron expression: {error}"),
            );
            fault.note =
                Some("five fields: minute, hour, day of the month, month, day of the week".into());
        }
    }
    let zone = trigger.text("tz", faults).unwrap_or("UTC");
    if TimeZone::get(zone).is_err() {
        let fault = faults.add(
            &trigger.at.at("tz"),
            format!("there is no time zone `{zone}`"),
        );
        fault.note = Some("such as `UTC` or `Europe/Berlin`".into());
    }
    let catch_up = trigger.one_of("catch_up", &["last", "all", "none"], faults);
    let catch_up = [CatchUp::Last, CatchUp::All, CatchUp::None][catch_up.unwrap_or(0)];
    Some(Trigger::Cron {
        pattern: pattern?.to_owned(),
        zone: zone.to_owned(),
        catch_up,
    })
}
