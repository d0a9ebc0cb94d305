//! The transform of one partition: passes records and timers to the core, and writes rows and output records.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    OwnHolds, Settings, audited, begin,
    compile::Plans,
    counts::{Counts, Meters},
    environment::Environment,
    goals::{self, Arrived},
    in_force::InForce,
    inbox::{self, By, Message, RunInput},
    outputs,
    rows::{CONTROLS, ControlsRow, HELD, OWN_HOLDS, RunKey},
    run_cache::{About, CachedRun, RunCache},
    sealed,
    stub::{is_of, stub},
    view,
};
use crate::{
    audit::Entry,
    base::{
        clock::Millis,
        id::{Identity, Tenant},
    },
    commands::{Command, start},
    controls::EmergencyState,
    log::{Fetched, Record, partition_for, topics::Names},
    runs::{Event, RunStatus},
    saga::{
        self, Answer, Effects, Followers, Input, Notice, Refusal,
        answers::{ANSWERS_HEADER, UNKNOWN_RUN},
        decide,
        followers::Carried,
    },
    state::Window,
    stream::{Context, Failure, Rejected, Timer, Transform},
};

/// The key of the timer that wakes held runs, possibly followed by the run to continue after. The keys of runs' own timers have 16 bytes.
const WAKE: &[u8] = b"wake";
/// The key of the timer that only compares what the node holds with what the runs were told.
const OWN_HOLDS_CHANGED: &[u8] = b"own_holds";
/// How many held runs are woken at once.
const WAKE_BATCH: usize = 500;
/// The status of a start in the audit log.
const ACCEPTED: &str = "accepted";
const DUPLICATE: &str = "duplicate";

/// The runs of one partition of `commands`.
pub(super) struct Runs {
    names: Names,
    partitions: u32,
    settings: Settings,
    followers: Followers,
    _carried: Carried,
    pub(super) plans: Arc<Plans>,
    /// The identities of ended runs.
    pub(super) ended: Window,
    pub(super) cache: RunCache,
    controls: InForce,
    /// What the node holds by itself now.
    own_holds: OwnHolds,
    /// The runs that the open transaction has changed.
    pub(super) changed: Vec<RunKey>,
    notices: Vec<(Uuid, Notice)>,
    counts: Counts,
    meters: Arc<Meters>,
}

/// The kind and position of a record of `commands`.
struct Source<'a> {
    kind: &'a str,
    partition: u32,
    offset: u64,
}

impl Source<'_> {
    fn causation(&self) -> String {
        outputs::causation(self.kind, self.partition, self.offset)
    }
}

impl Runs {
    pub(super) fn new(
        names: Names,
        partitions: u32,
        settings: Settings,
        (followers, carried): (Followers, Carried),
        (plans, meters): (Arc<Plans>, Arc<Meters>),
        ended: Window,
        (controls, own_holds): (InForce, OwnHolds),
    ) -> Self {
        Self {
            names,
            partitions,
            settings,
            followers,
            _carried: carried,
            plans,
            ended,
            cache: RunCache::default(),
            controls,
            own_holds,
            changed: Vec::new(),
            notices: Vec::new(),
            counts: Counts::default(),
            meters,
        }
    }

    /// Forwards a record to the partition of its run if it is on another one, since workers on Kafka may write it anywhere. True:
    /// it was forwarded.
    fn forward(&self, run: Uuid, input: &Fetched, cx: &mut Context<'_>) -> Result<bool, Failure> {
        let mut buffer = Uuid::encode_buffer();
        let key = run.hyphenated().encode_lower(&mut buffer).as_bytes();
        if partition_for(key, self.partitions) == cx.partition() {
            return Ok(false);
        }
        let record = Record {
            key: Some(Bytes::copy_from_slice(key)),
            ..input.record.clone()
        };
        cx.try_emit(&self.names.commands, record)?;
        Ok(true)
    }

    /// Takes in the controls that the node holds by itself, if they are not those that the runs were told last: the node is another one,
    /// or has changed.
    fn compare_own_holds(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        let held = (self.own_holds)();
        if let Some(own) = self.controls.own_changed(held, cx.now()) {
            cx.try_put(&OWN_HOLDS, &0, &own)?;
            self.controls.set_own(own);
            cx.set_timer(WAKE, cx.now());
        }
        Ok(())
    }

    fn start(
        &mut self,
        command: Box<Command>,
        source: &Source<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        let run = inbox::run_id(&command.run_id)?;
        let key = *run.as_bytes();
        let now = cx.now();
        let known = if self.load(key, cx)? {
            let live = self.cache.get(&key);
            live.map(|live| stub(live.about.tenant.as_str(), &live.body_hash))
        } else {
            self.ended.get(&Identity(key), now)?
        };
        let begun = begin::read(&command, &self.plans)?;
        if let Some(known) = known {
            let same = known == stub(begun.about.tenant.as_str(), &begun.body_hash);
            if !same {
                let about = ("start", "identity_mismatch");
                let by = By {
                    principal: command.principal.clone(),
                    on_behalf_of: command.on_behalf_of.clone(),
                };
                let tenant = Some(&begun.about.tenant);
                let entry = audited::refused(tenant, &command.run_id, about, &by, now);
                self.audit(&entry, cx)?;
            } else if let Some(origin) = begun.origin.filter(|origin| origin.is_sent_once) {
                let entry =
                    audited::started(&command, &origin, DUPLICATE, &source.causation(), now);
                self.audit(&entry, cx)?;
            }
            self.answer(run, source, Answer::Duplicate { same });
            return Ok(());
        }
        if let Some(origin) = &begun.origin {
            let entry = audited::started(&command, origin, ACCEPTED, &source.causation(), now);
            self.audit(&entry, cx)?;
        }
        let about = begun.about;
        let environment = Environment {
            settings: &self.settings,
            controls: &self.controls,
            about: &about,
            now,
        };
        let (run_state, effects) = environment
            .with(|env| saga::start_goal(begun.started, begun.guardian, begun.plan, env));
        outputs::write(
            (&self.names, &self.settings),
            &about,
            &run_state,
            &effects.events,
            &source.causation(),
            cx,
        )?;
        self.counts.started += 1;
        let live = CachedRun {
            about: Arc::clone(&about),
            run: run_state,
            body_hash: begun.body_hash,
            updated_at: now,
            timer: None,
            large: BTreeMap::new(),
            unstored: Some(command),
            stored: false,
            held: false,
            changed: true,
            decided: Vec::new(),
        };
        self.cache.insert(key, live);
        self.changed.push(key);
        self.write_plans(key, &about, &effects.events, cx)?;
        self.answer(run, source, Answer::Done);
        self.after(run, &effects);
        Ok(())
    }

    fn deliver(
        &mut self,
        mut message: RunInput,
        source: &Source<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        let run = message.run;
        let key = *run.as_bytes();
        if !self.load(key, cx)? {
            let answer = match self.ended.get(&Identity(key), cx.now())? {
                Some(stub) if is_of(&stub, message.tenant.as_deref()) => {
                    Answer::from(Refusal::Ended)
                }
                _ => Answer::UnknownRun,
            };
            self.counts.ignored += 1;
            self.audit_answer((&message, source), None, &answer, cx)?;
            self.answer(run, source, answer);
            return Ok(());
        }
        let Some(live) = self.cache.get(&key) else {
            return Ok(());
        };
        let about = Arc::clone(&live.about);
        let owner = &about.tenant;
        let of_other = |tenant: &String| tenant != owner.as_str();
        let refused_at_once = if message.tenant.as_ref().is_some_and(of_other) {
            Some(Answer::UnknownRun)
        } else {
            audited::forbidden(&self.controls.emergency, &message)
        };
        if let Some(answer) = refused_at_once {
            self.audit_answer((&message, source), Some(owner), &answer, cx)?;
            self.answer(run, source, answer);
            return Ok(());
        }
        let secrets = self.settings.secrets.as_deref();
        sealed::conceal(secrets, &about, &mut message.input, &mut message.plan);
        message.bound_hold(cx.now());
        let control = audited::Control::of(&message).filter(|_| message.foreign);
        let arrived = match message.plan.take() {
            None => None,
            Some(given) => {
                let command = self.start_record(key, cx)?;
                let input = &mut message.input;
                goals::arrive(given, input, &command, &about, &self.plans)?
            }
        };
        let input = std::mem::replace(&mut message.input, Input::Wake);
        let effects = self.decide(key, (input, arrived), &source.causation(), cx)?;
        let answer = match effects.refused {
            Some(refusal) => Answer::from(refusal),
            None if effects.ignored => Answer::Ignored,
            None => done(&effects.events),
        };
        match control {
            Some(control) if answer == Answer::Done => {
                self.audit(&control.done(owner, run, cx.now()), cx)?;
            }
            // The run has records of it.
            _ if answer == Answer::Done && !effects.events.is_empty() => {}
            _ => self.audit_answer((&message, source), Some(owner), &answer, cx)?,
        }
        self.answer(run, source, answer);
        self.after(run, &effects);
        Ok(())
    }

    /// Writes the records for planners that follow from the last events of a run in memory.
    fn write_plans(
        &mut self,
        key: RunKey,
        about: &About,
        events: &[Event],
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        if !goals::concerned(about, events) {
            return Ok(());
        }
        let Some(seq) = self.cache.get(&key).map(|live| live.run.seq()) else {
            return Ok(());
        };
        let command = self.start_record(key, cx)?;
        goals::write(&self.names, about, (events, seq), &command, cx)
    }

    /// Passes an input to a run in memory, and writes what follows. `arrived`: the start to store if the run takes the plan of the input.
    fn decide(
        &mut self,
        key: RunKey,
        (input, arrived): (Input, Option<Arrived>),
        causation: &str,
        cx: &mut Context<'_>,
    ) -> Result<Effects, Failure> {
        let now = cx.now();
        let Some(live) = self.cache.get(&key) else {
            return Ok(Effects::default());
        };
        let mut about = Arc::clone(&live.about);
        let environment = Environment {
            settings: &self.settings,
            controls: &self.controls,
            about: &about,
            now,
        };
        let followed = self.followers.follows(&Uuid::from_bytes(key));
        let open = followed.then(|| live.open_approvals());
        let effects = environment.with(|env| decide(&mut live.run, input, env));
        if let Some(open) = open {
            live.remember_decisions(open, &effects.events, now);
        }
        let planned = |event: &Event| matches!(event, Event::PlanReady(_));
        let taken = |arrived: &Arrived| {
            !effects.ignored && (arrived.always || effects.events.iter().any(planned))
        };
        if let Some(arrived) = arrived.filter(taken) {
            live.unstored = Some(arrived.command);
            live.about = Arc::clone(&arrived.about);
            about = arrived.about;
        }
        if effects.ignored {
            self.counts.ignored += 1;
        }
        if effects.events.is_empty() {
            return Ok(effects);
        }
        live.updated_at = now;
        if !live.changed {
            live.changed = true;
            self.changed.push(key);
        }
        outputs::write(
            (&self.names, &self.settings),
            &about,
            &live.run,
            &effects.events,
            causation,
            cx,
        )?;
        self.write_plans(key, &about, &effects.events, cx)?;
        Ok(effects)
    }

    /// Writes the audit entry about a control or decision that was refused, or repeated without effect. Its header says what it answers:
    /// nodes that do not carry out the run read the answer from it. `owner`: the tenant of the run, if the run is known.
    fn audit_answer(
        &self,
        (message, source): (&RunInput, &Source<'_>),
        owner: Option<&Tenant>,
        answer: &Answer,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        let code = match answer {
            Answer::Refused { code, .. } => Some(*code),
            Answer::UnknownRun => Some(UNKNOWN_RUN),
            Answer::Done => None,
            _ => return Ok(()),
        };
        let Some(by) = &message.by else {
            return Ok(());
        };
        // The sender's tenant, if the message has one.
        let named = message.tenant.as_deref().map(Tenant::new).transpose();
        let named = named.ok().flatten();
        let tenant = named.as_ref().or(owner);
        let (run_id, kind, now) = (message.run.to_string(), message.kind, cx.now());
        let entry = match code {
            Some(code) => audited::refused(tenant, &run_id, (kind, code), by, now),
            None => audited::repeated(tenant, &run_id, kind, by, now),
        };
        let mut record = encode(&entry)?;
        let answers = (ANSWERS_HEADER.to_owned(), Some(source.causation().into()));
        record.headers.push(answers);
        cx.try_emit(&self.names.audit, record)?;
        Ok(())
    }

    fn audit(&self, entry: &Entry, cx: &mut Context<'_>) -> Result<(), Failure> {
        cx.try_emit(&self.names.audit, encode(entry)?)?;
        Ok(())
    }

    /// Keeps an answer for the followers of the run until the commit.
    fn answer(&mut self, run: Uuid, source: &Source<'_>, answer: Answer) {
        if !self.followers.follows(&run) {
            return;
        }
        let notice = Notice::Answered {
            partition: source.partition,
            offset: source.offset,
            answer,
        };
        self.notices.push((run, notice));
    }

    /// If the run has ended, counts that, and keeps a notice for its followers until the commit.
    fn after(&mut self, run: Uuid, effects: &Effects) {
        let Some(last) = effects.events.last() else {
            return;
        };
        let status = match last {
            Event::RunSucceeded { .. } => RunStatus::Succeeded,
            Event::RunFailed { .. } => RunStatus::Failed,
            Event::RunDenied { .. } => RunStatus::Denied,
            Event::RunCancelled { .. } => RunStatus::Cancelled,
            _ => return,
        };
        self.counts.end(status);
        if self.followers.follows(&run)
            && let Some(live) = self.cache.get(run.as_bytes())
        {
            let view = view::view(live);
            self.notices.push((run, Notice::Ended(Arc::new(view))));
        }
    }

    fn controls_changed(
        &mut self,
        state: EmergencyState,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        // Every node appends each change, so most are known already.
        if state.version <= self.controls.emergency.state.version {
            return Ok(());
        }
        let row = ControlsRow(state);
        cx.try_put(&CONTROLS, &0, &row)?;
        self.controls.set_state(row);
        cx.set_timer(WAKE, cx.now());
        Ok(())
    }

    /// Wakes a batch of held runs, starting after the run in the timer's key, and sets the timer again if there are more.
    fn wake_held(&mut self, timer: &[u8], cx: &mut Context<'_>) -> Result<(), Failure> {
        let after = timer.strip_prefix(WAKE).unwrap_or_default();
        // Write pending rows first, so that the scan includes runs held in this transaction.
        self.store_changed(cx);
        let held = cx.scan(&HELD)?;
        let mut held = held.into_iter().map(|(key, _)| key);
        let mut last = None;
        for key in held
            .by_ref()
            .filter(|key| &key[..] > after)
            .take(WAKE_BATCH)
        {
            self.wake(key, cx)?;
            last = Some(key);
        }
        if let Some(last) = last
            && held.next().is_some()
        {
            cx.set_timer([WAKE, &last].concat(), cx.now());
        }
        Ok(())
    }

    fn wake(&mut self, key: RunKey, cx: &mut Context<'_>) -> Result<(), Failure> {
        if self.load(key, cx)? {
            let effects = self.decide(key, (Input::Wake, None), outputs::TIMER, cx)?;
            self.after(Uuid::from_bytes(key), &effects);
        }
        Ok(())
    }
}

impl Transform for Runs {
    fn process(&mut self, input: &Fetched, cx: &mut Context<'_>) -> Result<(), Failure> {
        self.compare_own_holds(cx)?;
        let value = input.record.value.as_deref().unwrap_or_default();
        let source = |kind| Source {
            kind,
            partition: input.partition,
            offset: input.offset,
        };
        match inbox::read(value)? {
            Message::Unknown => Ok(()),
            Message::Controls(state) => self.controls_changed(*state, cx),
            Message::Start(command) => {
                if self.forward(inbox::run_id(&command.run_id)?, input, cx)? {
                    return Ok(());
                }
                self.start(command, &source(start::KIND), cx)
            }
            Message::Run(message) => {
                if self.forward(message.run, input, cx)? {
                    return Ok(());
                }
                let source = source(message.kind);
                self.deliver(message, &source, cx)
            }
        }
    }

    fn fire(&mut self, timer: Timer<'_>, cx: &mut Context<'_>) -> Result<(), Failure> {
        self.compare_own_holds(cx)?;
        if timer.key == OWN_HOLDS_CHANGED {
            return Ok(());
        }
        let Ok(key) = RunKey::try_from(timer.key) else {
            return self.wake_held(timer.key, cx);
        };
        if !self.load(key, cx)? {
            return Ok(());
        }
        if let Some(live) = self.cache.get(&key) {
            live.timer = None;
            if !live.changed {
                live.changed = true;
                self.changed.push(key);
            }
        }
        self.wake(key, cx)
    }

    fn close(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        self.store_changed(cx);
        cx.add_changes(self.ended.take_changes());
        self.cache.rotate();
        self.meters.add(&std::mem::take(&mut self.counts));
        Ok(())
    }

    fn wakes(&self) -> Option<&'static [u8]> {
        let told = self.controls.emergency.held;
        ((self.own_holds)() != told).then_some(OWN_HOLDS_CHANGED)
    }

    fn committed(&mut self, _now: Millis) {
        for (run, notice) in self.notices.drain(..) {
            self.followers.publish(&run, &notice);
        }
    }
}

/// The answer to what led to these events.
fn done(events: &[Event]) -> Answer {
    let started = events.iter().find_map(|event| match event {
        Event::StepStarted { deadline, .. } => Some(*deadline),
        _ => None,
    });
    started.map_or(Answer::Done, |deadline| Answer::Started { deadline })
}

fn encode(entry: &Entry) -> Result<Record, Rejected> {
    let record = entry.encode();
    record.map_err(|e| Rejected::new("invalid_state", e.to_string()))
}
