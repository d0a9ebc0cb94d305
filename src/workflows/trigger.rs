//! Triggers: they start a workflow without a request, by an event or by a time.

use serde_json::Value;

use super::{schedule::Schedule, source::Source};
use crate::{
    base::id::Tenant,
    envelope::IDENTIFIER_MAX,
    plans::{
        Pointer,
        read::{Faults, Object},
    },
    topology::{Program, Use},
};

/// The tenant of runs that a time starts, unless the trigger names another one. It is the tenant of the first key.
const DEFAULT_TENANT: &str = "default";

/// What starts a workflow.
#[derive(Clone, Debug)]
pub enum Trigger {
    /// An admitted event.
    Event(EventTrigger),
    /// A time.
    Cron(Box<CronTrigger>),
}

/// Events that start a workflow.
#[derive(Clone, Debug)]
pub struct EventTrigger {
    /// The event type, or a prefix followed by `.*`.
    pub pattern: String,
    /// A program over the envelope: whether the event starts the workflow.
    pub(crate) when: Option<Program>,
    /// A program over the envelope: the value of `.` afterwards are the params. Without it the params are `.data`.
    pub(crate) params: Option<Program>,
}

/// Times that start a workflow.
#[derive(Clone, Debug)]
pub struct CronTrigger {
    /// The tenant of the runs.
    pub tenant: Tenant,
    /// When it fires.
    pub schedule: Schedule,
    /// What happens to times that passed while no node ran.
    pub catch_up: CatchUp,
}

/// What happens to times that passed while no node ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CatchUp {
    /// The last one starts a run.
    Last,
    /// Each one starts a run.
    All,
    /// None starts a run.
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
            let fields = ["cron", "tz", "catch_up", "tenant"];
            let trigger = faults.object(value, at, "a trigger of times", &fields)?;
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
    Some(Trigger::Event(EventTrigger {
        pattern: pattern?.to_owned(),
        when,
        params,
    }))
}

/// Compiles a program, with positions in the file.
fn program(
    trigger: &Object<'_>,
    name: &str,
    usage: Use,
    faults: &mut Faults,
    source: &mut Source,
) -> Option<Program> {
    trigger.text(name, faults)?;
    let text = source.text(&trigger.at.at(name)).cloned()?;
    let compiled = Program::in_file(&text, usage, &mut source.problems)?;
    if compiled.reads_metadata() {
        let fault = faults.add(&trigger.at.at(name), "there are no metadata (`%…`) here");
        fault.note = Some("`.` is the event: `.type`, `.data`, `.entity` …".into());
    }
    Some(compiled)
}

fn cron(trigger: &Object<'_>, faults: &mut Faults) -> Option<Trigger> {
    let pattern = trigger.required_text("cron", faults);
    let zone = trigger.text("tz", faults).unwrap_or("UTC");
    let schedule = Schedule::new(pattern.unwrap_or("* * * * *"), zone);
    for wrong in schedule.as_ref().err().into_iter().flatten() {
        let member = if wrong.in_zone { "tz" } else { "cron" };
        let fault = faults.add(&trigger.at.at(member), wrong.message.clone());
        fault.note = Some(wrong.note.into());
    }
    let catch_up = trigger.one_of("catch_up", &["last", "all", "none"], faults);
    let catch_up = [CatchUp::Last, CatchUp::All, CatchUp::None][catch_up.unwrap_or(0)];
    let tenant = Tenant::new(trigger.text("tenant", faults).unwrap_or(DEFAULT_TENANT));
    if let Err(wrong) = &tenant {
        faults.add(&trigger.at.at("tenant"), wrong.to_string());
    }
    pattern?;
    Some(Trigger::Cron(Box::new(CronTrigger {
        tenant: tenant.ok()?,
        schedule: schedule.ok()?,
        catch_up,
    })))
}
