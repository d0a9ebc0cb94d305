//! Parsing events in JSON: one event or a batch (CloudEvents JSON format 1.0.2, or OmniLink's form).

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    BodyHash, Form, Invalid, Parsed, agents,
    attributes::{Attributes, Receipt, string},
    body_hash::BodyHasher,
    entity_field::entity,
    json::{self, JsonError, Scanner},
};
use crate::base::{clock::Millis, id::Tenant};

/// One item of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item<'a, T = Parsed<'a>> {
    /// The JSON text of the item.
    pub raw: &'a [u8],
    /// The event, or why it is refused.
    pub parsed: Result<T, Invalid>,
}

/// A body that is one event or a batch.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one per request, and it is matched at once"
)]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body<'a> {
    /// One event.
    One(Parsed<'a>),
    /// A batch, which may have one item or none.
    Batch(Vec<Item<'a>>),
}

/// Parses a body in OmniLink's form (`application/json`): an object is one event; an array or `{"events": […]}` is a batch.
pub fn parse<'a>(
    body: &'a [u8],
    max_items: usize,
    tenant: &Tenant,
    received: Millis,
) -> Result<Body<'a>, Invalid> {
    let form = Form::OmniLink;
    let mut scanner = start(body)?;
    if scanner.peek() != Some(b'[') && !scanner.at_events() {
        let envelope = envelope(&mut scanner, form)?;
        scanner.end()?;
        if !envelope.is_batch {
            let receipt = Receipt { tenant, received };
            return Ok(Body::One(envelope.finish(form, receipt)?));
        }
    }
    Ok(Body::Batch(parse_batch(
        body, form, max_items, tenant, received,
    )?))
}

/// Parses one event in structured mode.
///
/// ```
/// # use omnilink::{base::{clock::Millis, id::Tenant}, envelope::{Form, parse_structured}};
/// let body = br#"{"specversion":"1.0","id":"1","source":"/shop","type":"order.paid","data":{"total":12.50}}"#;
/// let tenant = Tenant::new("acme").unwrap();
/// let parsed = parse_structured(body, Form::CloudEvents, &tenant, Millis(0)).unwrap();
/// assert_eq!(parsed.event.kind, "order.paid");
///
/// let error = parse_structured(b"{}", Form::CloudEvents, &tenant, Millis(0)).unwrap_err();
/// assert_eq!(error.code, "missing_specversion");
/// ```
pub fn parse_structured<'a>(
    body: &'a [u8],
    form: Form,
    tenant: &Tenant,
    received: Millis,
) -> Result<Parsed<'a>, Invalid> {
    structured(body, form)?.finish(form, Receipt { tenant, received })
}

/// Parses a batch: an array, or in OmniLink's form also `{"events": […]}`. Invalid items do not affect the others, as long as the whole
/// body is JSON. A batch of more than `max_items` fails with `batch_too_large`.
pub fn parse_batch<'a>(
    body: &'a [u8],
    form: Form,
    max_items: usize,
    tenant: &Tenant,
    received: Millis,
) -> Result<Vec<Item<'a>>, Invalid> {
    let receipt = Receipt { tenant, received };
    batch(body, form, max_items, |envelope| {
        envelope.finish(form, receipt)
    })
}

/// Like [`parse_structured`], without checking the attributes.
pub(super) fn structured(body: &[u8], form: Form) -> Result<Envelope<'_>, JsonError> {
    let mut scanner = start(body)?;
    let envelope = envelope(&mut scanner, form)?;
    scanner.end()?;
    Ok(envelope)
}

/// Like [`parse_batch`], but checks each envelope with `judge`.
pub(super) fn batch<'a, T>(
    body: &'a [u8],
    form: Form,
    max_items: usize,
    judge: impl Fn(Envelope<'a>) -> Result<T, Invalid>,
) -> Result<Vec<Item<'a, T>>, Invalid> {
    let mut scanner = start(body)?;
    let in_object = form == Form::OmniLink && scanner.peek() == Some(b'{');
    if in_object {
        enter_events(&mut scanner)?;
    }
    let found = items(&mut scanner, form, max_items, judge)?;
    if in_object {
        scanner.spaces();
        if !scanner.eat(b'}') {
            return Err(Invalid::payload(
                "a batch has no other member beside `events`",
            ));
        }
    }
    scanner.end()?;
    Ok(found)
}

pub(super) fn start(body: &[u8]) -> Result<Scanner<'_>, JsonError> {
    let mut scanner = Scanner::new(json::document(body)?);
    scanner.spaces();
    Ok(scanner)
}

/// Steps to the array in `{"events": […]}`.
pub(super) fn enter_events(scanner: &mut Scanner<'_>) -> Result<(), Invalid> {
    let members = scanner.enter_object()?;
    if !scanner.next_member(&members)? {
        return Err(Invalid::missing("events"));
    }
    let (name, _) = scanner.name(&members)?;
    if name == "events" {
        return Ok(());
    }
    Err(Invalid::payload(format!(
        "`{}` beside `events`: a batch has no other member",
        json::truncated(&name)
    )))
}

fn items<'a, T>(
    scanner: &mut Scanner<'a>,
    form: Form,
    max_items: usize,
    judge: impl Fn(Envelope<'a>) -> Result<T, Invalid>,
) -> Result<Vec<Item<'a, T>>, Invalid> {
    let mut items = Vec::new();
    if !scanner.eat(b'[') {
        return Err(scanner.not("an array of events").into());
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
        let start = scanner.position();
        scanner.restart(start);
        let parsed = match envelope(scanner, form) {
            Ok(envelope) => judge(envelope),
            Err(error) => {
                // The items after an invalid one can only be read if its end is found.
                let end = scanner.skip_from(start)?;
                scanner.restart(end);
                Err(error.into())
            }
        };
        let raw = scanner.since(start).as_bytes();
        items.push(Item { raw, parsed });
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

/// One event whose attributes are not checked yet.
pub(super) struct Envelope<'a> {
    pub(super) attributes: Attributes<'a>,
    pub(super) text: &'a str,
    /// Whether it has a member `events` that is an array.
    is_batch: bool,
    hash: BodyHash,
}

impl<'a> Envelope<'a> {
    pub(super) fn finish(self, form: Form, receipt: Receipt<'_>) -> Result<Parsed<'a>, Invalid> {
        match self.attributes.finish(form, receipt) {
            Ok(event) => Ok(Parsed {
                event,
                body_hash: self.hash,
            }),
            // The agents' form is never valid in OmniLink's form, so it is only tried after a failure.
            Err(_) if form == Form::OmniLink && agents::is(self.text) => {
                agents::parse(self.text, receipt)
            }
            Err(invalid) => Err(invalid),
        }
    }
}

fn envelope<'a>(scanner: &mut Scanner<'a>, form: Form) -> Result<Envelope<'a>, JsonError> {
    if scanner.peek() != Some(b'{') {
        return Err(scanner.not("an object"));
    }
    let start_of_all = scanner.position();
    let mut attributes = Attributes::default();
    let mut is_batch = false;
    let mut body_hash = BodyHasher::default();
    let members = scanner.enter_object()?;
    while scanner.next_member(&members)? {
        let (name, name_hash) = scanner.name(&members)?;
        let start = scanner.position();
        let hash = match &*name {
            "data" => {
                let hash = scanner.value()?;
                attributes.json = Some(scanner.since(start));
                hash
            }
            "entity" if form == Form::OmniLink => entity(scanner, &mut attributes)?,
            "events" if form == Form::OmniLink && scanner.peek() == Some(b'[') => {
                is_batch = true;
                attributes.fail(Invalid::payload(
                    "`events`: a batch has no other member, and no batch inside",
                ));
                scanner.value()?
            }
            _ => {
                let (value, hash) = scanner.scalar()?;
                if name == "data_base64" {
                    match string(&name, value) {
                        Ok(text) => set_base64(&mut attributes, text),
                        Err(problem) => attributes.fail(problem),
                    }
                } else {
                    attributes.set(&name, value, Some(scanner.since(start)));
                }
                hash
            }
        };
        body_hash.insert(&name, name_hash, hash);
    }
    scanner.leave_object(&members)?;
    Ok(Envelope {
        attributes,
        text: scanner.since(start_of_all),
        is_batch,
        hash: body_hash.finish(),
    })
}

fn set_base64<'a>(attributes: &mut Attributes<'a>, text: Option<Cow<'a, str>>) {
    let Some(text) = text else {
        return;
    };
    match STANDARD.decode(text.as_bytes()) {
        Ok(bytes) => attributes.binary = Some(Cow::Owned(bytes)),
        Err(_) => attributes.fail(Invalid::payload(
            "`data_base64` must be base64 (RFC 4648, section 4)",
        )),
    }
}
