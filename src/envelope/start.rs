//! Parsing the envelopes of starts: commands, workflows, goals and tasks. They have the attributes of events; what is to be started
//! is in members of its own, beside the attributes in OmniLink's form, or in `data`, which CloudEvents' forms know alone.

use std::{borrow::Cow, collections::BTreeMap};

use super::{
    BodyHash, Data, Event, Form, Invalid,
    attributes::{Attributes, Receipt},
    binary::{self, Binary, Binding},
    body_hash::BodyHasher,
    cloudevents::{enter_events, start},
    entity_field::entity,
    json::{self, JsonError, Scanner, hash},
};
use crate::base::{clock::Millis, id::Tenant};

/// What an envelope starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartKind {
    /// A command; its `type` says which.
    Command,
    /// A workflow, or a plan.
    Workflow,
    /// A goal in plain words.
    Goal,
    /// A task; its `type` names the tool.
    Task,
}

impl StartKind {
    /// The kind of this name.
    pub fn named(name: &str) -> Option<Self> {
        let all = [Self::Command, Self::Workflow, Self::Goal, Self::Task];
        all.into_iter().find(|kind| kind.name() == name)
    }

    /// As `omnilinkkind` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Workflow => "workflow",
            Self::Goal => "goal",
            Self::Task => "task",
        }
    }

    /// The members that such an envelope may have beside the attributes.
    pub const fn members(self) -> &'static [&'static str] {
        match self {
            Self::Command | Self::Task => &["params", "target", "policy", "run_at", "on_behalf_of"],
            Self::Workflow => &[
                "workflow",
                "plan",
                "input",
                "target",
                "policy",
                "run_at",
                "on_behalf_of",
            ],
            Self::Goal => &[
                "goal",
                "params",
                "context",
                "policy",
                "run_at",
                "on_behalf_of",
            ],
        }
    }
}

/// A parsed start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParsedStart<'a> {
    /// What it starts.
    pub kind: StartKind,
    /// Its attributes; without data.
    pub event: Event<'a>,
    /// The JSON texts of its members, `null` left out.
    members: BTreeMap<&'static str, Cow<'a, str>>,
    /// The hash of the envelope without `id`, `time` and trace; of one from Kafka also without `omnilinkkind` and `idempotencykey`,
    /// which a request has outside of it.
    pub body_hash: BodyHash,
}

impl ParsedStart<'_> {
    /// The JSON text of a member; `None` if it is absent or `null`.
    pub fn member(&self, name: &str) -> Option<&str> {
        self.members.get(name).map(AsRef::as_ref)
    }

    /// The same start with owned data.
    pub fn into_owned(self) -> ParsedStart<'static> {
        let members = self.members.into_iter();
        ParsedStart {
            kind: self.kind,
            event: self.event.into_owned(),
            members: members
                .map(|(name, text)| (name, Cow::Owned(text.into_owned())))
                .collect(),
            body_hash: self.body_hash,
        }
    }
}

/// What carries an envelope.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carrier {
    /// A request: its route says the kind, and a header may hold the idempotency key.
    Request,
    /// A record: the envelope itself says both.
    Record,
}

/// One start of a body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StartItem<'a> {
    /// Its JSON text; in binary mode the body.
    pub raw: &'a [u8],
    /// The start, or why it is refused.
    pub parsed: Result<ParsedStart<'a>, Invalid>,
}

/// What all starts of a request have in common.
#[derive(Clone, Copy)]
pub struct StartReceipt<'t> {
    /// What they start.
    pub kind: StartKind,
    /// The tenant that owns them.
    pub tenant: &'t Tenant,
    /// When they were received.
    pub received: Millis,
}

/// The starts of a body, and whether they are a batch. In OmniLink's form an array and `{"events": […]}` are batches. A batch of more
/// than `max_items` fails with `batch_too_large`; bad items do not affect the others, as long as the whole body is JSON.
pub fn parse_starts<'a>(
    body: &'a [u8],
    form: Form,
    max_items: usize,
    receipt: StartReceipt<'_>,
) -> Result<(Vec<StartItem<'a>>, bool), Invalid> {
    let mut scanner = start(body)?;
    let in_object = form == Form::OmniLink && scanner.at_events();
    if scanner.peek() != Some(b'[') && !in_object {
        let from = scanner.position();
        let parsed = one(&mut scanner, form, Carrier::Request, receipt)?;
        let raw = scanner.since(from).as_bytes();
        scanner.end()?;
        return Ok((vec![StartItem { raw, parsed }], false));
    }
    if in_object {
        enter_events(&mut scanner)?;
    }
    let items = items(&mut scanner, form, max_items, receipt)?;
    if in_object {
        scanner.spaces();
        if !scanner.eat(b'}') {
            return Err(Invalid::payload(
                "a batch has no other member beside `events`",
            ));
        }
    }
    scanner.end()?;
    Ok((items, true))
}

/// Parses a start in CloudEvents' binary mode over HTTP.
pub fn parse_start_binary<'a>(
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    content_type: Option<&'a [u8]>,
    body: &'a [u8],
    receipt: StartReceipt<'_>,
) -> Result<ParsedStart<'a>, Invalid> {
    let binary = binary::read(headers, Binding::Http, content_type, Some(body));
    of_binary(binary, Carrier::Request, receipt)
}

/// Parses the envelope of a record: `text` is one JSON object.
pub(super) fn of_record<'a>(
    text: &'a str,
    form: Form,
    receipt: StartReceipt<'_>,
) -> Result<ParsedStart<'a>, Invalid> {
    one(&mut Scanner::new(text), form, Carrier::Record, receipt)?
}

/// Parses the envelope of a record in binary mode.
pub(super) fn of_binary_record<'a>(
    binary: Binary<'a>,
    receipt: StartReceipt<'_>,
) -> Result<ParsedStart<'a>, Invalid> {
    of_binary(binary, Carrier::Record, receipt)
}

fn of_binary<'a>(
    binary: Binary<'a>,
    carrier: Carrier,
    receipt: StartReceipt<'_>,
) -> Result<ParsedStart<'a>, Invalid> {
    let Binary { attributes, hash } = binary;
    let envelope = (attributes, BTreeMap::new(), hash);
    finish(envelope, Form::CloudEvents, carrier, receipt)
}

fn items<'a>(
    scanner: &mut Scanner<'a>,
    form: Form,
    max_items: usize,
    receipt: StartReceipt<'_>,
) -> Result<Vec<StartItem<'a>>, Invalid> {
    let mut items = Vec::new();
    if !scanner.eat(b'[') {
        return Err(scanner.not("an array").into());
    }
    scanner.spaces();
    if scanner.eat(b']') {
        return Ok(items);
    }
    loop {
        if items.len() == max_items {
            return Err(Invalid {
                code: "batch_too_large".into(),
                message: format!("a batch has at most {max_items} items"),
            });
        }
        let from = scanner.position();
        scanner.restart(from);
        let parsed = match one(scanner, form, Carrier::Request, receipt) {
            Ok(parsed) => parsed,
            Err(error) => {
                // The items after an invalid one can only be read if its end is found.
                let end = scanner.skip_from(from)?;
                scanner.restart(end);
                Err(error.into())
            }
        };
        let raw = scanner.since(from).as_bytes();
        items.push(StartItem { raw, parsed });
        scanner.spaces();
        if scanner.eat(b']') {
            return Ok(items);
        }
        if !scanner.eat(b',') {
            return Err(scanner.expected("a comma or a closing bracket").into());
        }
        scanner.spaces();
    }
}

/// Reads one envelope. The inner error is of the envelope, the outer one of the text.
fn one<'a>(
    scanner: &mut Scanner<'a>,
    form: Form,
    carrier: Carrier,
    receipt: StartReceipt<'_>,
) -> Result<Result<ParsedStart<'a>, Invalid>, JsonError> {
    if scanner.peek() != Some(b'{') {
        return Err(scanner.not("an object"));
    }
    let mut attributes = Attributes::default();
    let mut members = BTreeMap::new();
    let mut body_hash = BodyHasher::default();
    let object = scanner.enter_object()?;
    while scanner.next_member(&object)? {
        let (name, name_hash) = scanner.name(&object)?;
        let from = scanner.position();
        let own = receipt.kind.members().iter().find(|own| **own == name);
        let hash = match &*name {
            "data" => {
                let hash = scanner.value()?;
                attributes.json = Some(scanner.since(from));
                hash
            }
            "entity" if form == Form::OmniLink => entity(scanner, &mut attributes)?,
            _ if form == Form::OmniLink && own.is_some() => {
                let hash = scanner.value()?;
                if let Some(own) = own
                    && scanner.since(from) != "null"
                {
                    members.insert(*own, Cow::Borrowed(scanner.since(from)));
                }
                hash
            }
            "data_base64" => {
                attributes.fail(Invalid::payload(
                    "`data_base64`: a start has no binary data",
                ));
                scanner.value()?
            }
            _ => {
                let (value, hash) = scanner.scalar()?;
                attributes.set(&name, value, Some(scanner.since(from)));
                hash
            }
        };
        body_hash.insert(&name, name_hash, hash);
    }
    scanner.leave_object(&object)?;
    let envelope = (attributes, members, body_hash);
    Ok(finish(envelope, form, carrier, receipt))
}

/// Attributes, members beside them, and the hash of both.
type Envelope<'a> = (
    Attributes<'a>,
    BTreeMap<&'static str, Cow<'a, str>>,
    BodyHasher,
);

fn finish<'a>(
    (mut attributes, mut members, mut body_hash): Envelope<'a>,
    form: Form,
    carrier: Carrier,
    receipt: StartReceipt<'_>,
) -> Result<ParsedStart<'a>, Invalid> {
    let kind = receipt.kind.name();
    if let Some(named) = attributes.envelope_kind.as_deref()
        && named != kind
    {
        return Err(Invalid {
            code: "unsupported_kind".into(),
            message: format!("this route takes the kind `{kind}` alone"),
        });
    }
    if attributes.binary.is_some() {
        return Err(Invalid::payload("the data of a start must be JSON"));
    }
    let has_data = attributes.json.is_some();
    // In OmniLink's form an event needs data, and a start needs none.
    attributes.json.get_or_insert("{}");
    let mut event = attributes.finish(
        form,
        Receipt {
            tenant: receipt.tenant,
            received: receipt.received,
        },
    )?;
    if has_data && let Data::Json(text) = &event.data {
        let inner = of_data(text, receipt.kind, &mut members);
        inner?;
    }
    event.data = Data::Absent;
    let mut leave_out = |name: &str, value: &str| {
        body_hash.leave_out(hash::key(name.as_bytes()), hash::string(value.as_bytes()));
    };
    leave_out("id", &event.id);
    if carrier == Carrier::Record {
        leave_out("omnilinkkind", kind);
        if let Some(key) = &event.idempotency_key {
            leave_out("idempotencykey", key);
        }
    }
    Ok(ParsedStart {
        kind: receipt.kind,
        event,
        members,
        body_hash: body_hash.finish(),
    })
}

/// Adds the members that are in `data`.
fn of_data(
    text: &str,
    kind: StartKind,
    members: &mut BTreeMap<&'static str, Cow<'_, str>>,
) -> Result<(), Invalid> {
    let known = kind.members();
    let mut scanner = Scanner::new(text);
    if scanner.peek() != Some(b'{') {
        return Err(Invalid::payload(format!(
            "`data` of a {} must be an object with {}",
            kind.name(),
            known.join(", ")
        )));
    }
    let object = scanner.enter_object()?;
    while scanner.next_member(&object)? {
        let (name, _) = scanner.name(&object)?;
        let from = scanner.position();
        scanner.value()?;
        let Some(own) = known.iter().find(|own| **own == name) else {
            return Err(Invalid::payload(format!(
                "`data.{}`: the data of a {} have {}",
                json::truncated(&name),
                kind.name(),
                known.join(", ")
            )));
        };
        let value = scanner.since(from);
        if value != "null" && members.insert(own, Cow::Owned(value.to_owned())).is_some() {
            return Err(Invalid::payload(format!(
                "`{own}` is given twice, beside `data` and in it"
            )));
        }
    }
    Ok(())
}
