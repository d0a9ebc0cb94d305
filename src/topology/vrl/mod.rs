//! VRL programs: compiled once, run with bounded fuel and memory, and deterministic: no clock, no random numbers, no environment,
//! no network.

pub(crate) mod document;
pub(crate) mod functions;
pub(crate) mod json;
pub(crate) mod nesting;
pub(crate) mod number;
pub(crate) mod products;

use std::{
    ops::{ControlFlow, Range},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, LazyLock},
};

use tikv_jemalloc_ctl::thread::{ThreadLocal, allocatedp, deallocatedp};
use vrl::{
    compiler::{
        CompileConfig, Function, Program, Target, TimeZone, TypeState,
        runtime::{Runtime, Terminate},
        state::{ExternalEnv, LocalEnv},
    },
    diagnostic::{Diagnostic, DiagnosticList, Note},
    path::{OwnedSegment, OwnedValuePath, PathPrefix},
    value::{Kind, Value, kind::Collection},
};

use super::{
    syntax::{problem::Problems, yaml::Text},
    vrl::{
        document::into_fields,
        functions::Why,
        nesting::{MOST_LEVELS, too_deep},
        products::unbounded,
    },
};
use crate::{base::panics::panic_message, stream::Rejected};

/// What one run may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Expressions that it evaluates.
    pub(crate) fuel: u32,
    /// Bytes that it holds between two expressions.
    pub(crate) memory: u64,
}

/// Some tenths of a second, and many times the size of a record.
pub(crate) const BOUNDS: Bounds = Bounds {
    fuel: 1_000_000,
    memory: 64 << 20,
};

static FUNCTIONS: LazyLock<Vec<Box<dyn Function>>> = LazyLock::new(functions::available);

/// What a program is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Use {
    /// Changes the record.
    Map,
    /// Answers true or false, and changes nothing.
    Condition,
}

/// A compiled program. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Vrl {
    program: Arc<Program>,
    /// It reads or sets metadata (`%key`, …).
    pub(crate) reads_metadata: bool,
    /// It sets metadata.
    pub(crate) sets_metadata: bool,
    /// What it reads within fields of the record.
    pub(crate) looks: Arc<[OwnedValuePath]>,
}

/// Compiles a program that stands in a file; says what is wrong with it, in the file's own lines.
pub(crate) fn compile(text: &Text, usage: Use, problems: &mut Problems) -> Option<Vrl> {
    let whole = text.place(0..text.value.len());
    if text.value.trim().is_empty() {
        problems.error(&whole, "an empty VRL program");
        return None;
    }
    if let Some(at) = too_deep(&text.value) {
        problems
            .error(
                &text.place(at..at + 1),
                format!("VRL: the program is nested deeper than {MOST_LEVELS} levels here"),
            )
            .note("each bracket is a level, and each operator of a chain; give parts of it names of their own");
        return None;
    }
    // The compiler reports below what cannot be parsed.
    let parsed = vrl::parser::parse(&text.value);
    let endless = parsed.map_or_else(|_| Vec::new(), |parsed| unbounded(parsed, &FUNCTIONS));
    for found in &endless {
        problems
            .error(
                &text.place(found.at.clone()),
                format!("VRL: {}", found.what),
            )
            .note(found.instead);
    }
    if endless.iter().any(|found| found.in_compiler) {
        return None;
    }
    // A record's value may be any JSON; its metadata are an object.
    let external = ExternalEnv::new_with_kind(Kind::any(), metadata_kind());
    let state = TypeState {
        local: LocalEnv::default(),
        external,
    };
    let mut config = CompileConfig::default();
    if usage == Use::Condition {
        config.set_read_only();
    }
    let compile = || vrl::compiler::compile_with_state(&text.value, &FUNCTIONS, &state, config);
    let compiled = match catch_unwind(AssertUnwindSafe(compile)) {
        Ok(Ok(compiled)) => compiled,
        Ok(Err(diagnostics)) => {
            report(text, diagnostics, problems);
            return None;
        }
        // Some functions panic when they are compiled with an argument that they do not expect.
        Err(panic) => {
            let why = panic_message(&*panic);
            problems
                .error(&whole, "VRL: the program cannot be compiled")
                .note(format!(
                    "an argument is not what its function expects: {}",
                    one_line(&why)
                ));
            return None;
        }
    };
    report(text, compiled.warnings, problems);
    let program = compiled.program;
    if usage == Use::Condition {
        let kind = program.final_type_info().result.kind().clone();
        if !kind.is_boolean() {
            problems
                .error(
                    &whole,
                    format!("a condition must be true or false, and this is {kind}"),
                )
                .note("compare it (`.count == 1`), or say what it is (`bool!(.flag)`)");
            return None;
        }
    }
    let metadata = |paths: &[vrl::path::OwnedTargetPath]| {
        paths.iter().any(|path| path.prefix == PathPrefix::Metadata)
    };
    let info = program.info();
    let is_tombstone = |path: &vrl::path::OwnedTargetPath| {
        path.prefix == PathPrefix::Metadata
            && matches!(path.path.segments.first(), Some(OwnedSegment::Field(name)) if &**name == "tombstone")
    };
    if info
        .target_queries
        .iter()
        .chain(&info.target_assignments)
        .any(is_tombstone)
    {
        let at = text.value.find("%tombstone").unwrap_or(0);
        problems
            .error(&text.place(at..at + "%tombstone".len()), "there is no `%tombstone`: an event ends its entity when its type ends in `.deleted`")
            .note("give the event such a type (`.type = \"order.deleted\"`); `del(.data)` leaves it without data");
        return None;
    }
    if !endless.is_empty() {
        return None;
    }
    let sets_metadata = metadata(&info.target_assignments);
    Some(Vrl {
        reads_metadata: sets_metadata || metadata(&info.target_queries),
        sets_metadata,
        looks: into_fields(info.target_queries.iter()).cloned().collect(),
        program: Arc::new(program),
    })
}

/// What `%` holds when a program begins ([`super::message::Message::metadata`]), and `%tombstone`, which is refused by its name.
fn metadata_kind() -> Kind {
    let known: [(&str, Kind); 8] = [
        ("key", Kind::bytes().or_null()),
        ("headers", Kind::object(Collection::any())),
        ("tenant", Kind::bytes().or_null()),
        ("tombstone", Kind::boolean()),
        ("topic", Kind::bytes()),
        ("partition", Kind::integer()),
        ("offset", Kind::integer()),
        ("timestamp", Kind::timestamp().or_null()),
    ];
    let known = known.map(|(name, kind)| (name.into(), kind));
    Kind::object(Collection::from_parts(
        known.into_iter().collect(),
        Kind::undefined(),
    ))
}

fn report(text: &Text, diagnostics: DiagnosticList, problems: &mut Problems) {
    for diagnostic in diagnostics {
        let primary = diagnostic
            .labels
            .iter()
            .find(|label| label.primary)
            .or(diagnostic.labels.first());
        let part = primary.map_or(0..text.value.len(), |label| label.span.range());
        let span = text.place(part.clone());
        let called = text.value.get(part.clone()).unwrap_or_default();
        let mut message = format!("VRL: {}", diagnostic.message.trim());
        if diagnostic.message == "call to undefined function" {
            message = format!("VRL: there is no function `{called}`");
        } else if let Some(label) = primary
            && !label.message.is_empty()
            && label.message != diagnostic.message
        {
            message = format!("{message}: {}", one_line(&label.message));
        }
        let notes = notes(text, &diagnostic, &part);
        let problem = if diagnostic.is_problem() {
            problems.error(&span, message)
        } else {
            problems.warning(&span, message)
        };
        problem.notes = notes;
    }
}

fn notes(text: &Text, diagnostic: &Diagnostic, part: &Range<usize>) -> Vec<String> {
    let mut notes = Vec::new();
    let called = text.value.get(part.clone()).unwrap_or_default();
    if let Some((why, instead)) = functions::left_out(called) {
        let why = match why {
            Why::Differs => "so that a record that is processed again gives the same",
            Why::Unbounded => "for what it makes of a few bytes has no bound",
        };
        notes.push(format!("`{called}` is left out, {why}; {instead}"));
        return notes;
    }
    if diagnostic.message == "unhandled error" {
        notes.push(
            "say what happens then: `!` behind the function's name (the record goes to the dead letters), or `?? default`".into(),
        );
        notes.push("a comparison must know what it compares, such as `int!(.total) > 0`".into());
        return notes;
    }
    for label in &diagnostic.labels {
        // The parser lists every token that could follow, which helps nobody.
        let endless = label.message.matches("\", \"").count() > 6;
        if !label.primary && !label.message.is_empty() && !endless {
            notes.push(one_line(&label.message));
        }
    }
    for note in &diagnostic.notes {
        if let Note::Hint(_) | Note::Example(_) | Note::CoerceValue | Note::Basic(_) = note {
            let text = note.to_string();
            if !text.trim().is_empty() {
                notes.push(text.trim_end().to_owned());
            }
        }
    }
    notes
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Runs programs of one lane.
pub(crate) struct Machine {
    runtime: Runtime,
    zone: TimeZone,
    bounds: Bounds,
}

impl Machine {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            runtime: Runtime::default(),
            // Not the machine's own: a record gives the same result everywhere.
            zone: TimeZone::parse("UTC").unwrap_or_default(),
            bounds,
        }
    }

    /// Runs a program on a target, which it changes; returns the value of its last expression.
    pub(crate) fn run(&mut self, vrl: &Vrl, target: &mut dyn Target) -> Result<Value, Rejected> {
        let Bounds { fuel, memory } = self.bounds;
        let mut left = fuel;
        let held = Held::now();
        let mut control = || match left.checked_sub(1) {
            Some(rest) if held.since() <= memory => {
                left = rest;
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Break(()),
        };
        self.runtime.clear();
        let runtime = &mut self.runtime;
        let run = AssertUnwindSafe(|| {
            runtime.resolve_with_control(target, &vrl.program, &self.zone, &mut control)
        });
        // What the panic left half done is dropped with the record and the runtime.
        let result = catch_unwind(run).unwrap_or_else(|panic| {
            self.runtime = Runtime::default();
            let message = format!("a function panicked: {}", panic_message(&*panic));
            Err(Terminate::Error(message.into()))
        });
        let (code, message) = match result {
            Ok(value) => return Ok(value),
            Err(Terminate::Interrupted) if left == 0 => (
                "vrl_out_of_fuel",
                format!("the program was stopped after {fuel} expressions"),
            ),
            Err(Terminate::Interrupted) => (
                "vrl_out_of_memory",
                format!("the program was stopped when it held more than {memory} bytes"),
            ),
            Err(Terminate::Abort(error)) => ("vrl_abort", error.to_string()),
            Err(Terminate::Error(error)) => ("vrl_error", error.to_string()),
        };
        Err(Rejected {
            code: code.into(),
            message,
            value: None,
            stage: None,
        })
    }
}

thread_local! {
    /// The allocator's own counts of what this thread has allocated and freed.
    static COUNTS: Option<(ThreadLocal<u64>, ThreadLocal<u64>)> =
        allocatedp::read().ok().zip(deallocatedp::read().ok());
}

/// What this thread had allocated at some time.
struct Held {
    counts: Option<(ThreadLocal<u64>, ThreadLocal<u64>)>,
    then: u64,
}

impl Held {
    fn now() -> Self {
        let counts = COUNTS.with(Clone::clone);
        let mut held = Self { counts, then: 0 };
        held.then = held.bytes();
        held
    }

    fn bytes(&self) -> u64 {
        let counts = self.counts.as_ref();
        counts.map_or(0, |(allocated, freed)| {
            allocated.get().wrapping_sub(freed.get())
        })
    }

    /// Bytes that it has allocated since, less what it has freed.
    fn since(&self) -> u64 {
        let more = self.bytes().wrapping_sub(self.then) as i64;
        u64::try_from(more).unwrap_or(0)
    }
}
