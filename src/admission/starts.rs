//! Starts that Kafka producers send to `ingress`: the start record of one, or why it is refused.
//!
//! The run's identity is that of a start over HTTP, so the same start sent again, by whatever producer or over HTTP, starts nothing twice:
//! the run's partition of `commands` drops it. The principal is [`KAFKA`]. It may start everything but plans of the sender's own, and acts
//! for nobody. Controls are no reason to refuse a start here: they keep its run queued.

use crate::{
    api::problem::{FEATURE_DISABLED, PERMISSION_DENIED},
    api::starts::PLANS_INLINE,
    base::clock::Millis,
    commands::{Command, start::run_id},
    controls::ACT_AS,
    envelope::{Invalid, ParsedStart},
    starts::{
        Checked, Guardian, KAFKA, Named, StartFields, StartTarget, check_idempotency_key, resolve,
    },
    workflows::Catalog,
};

/// The identity of the run: `["run", tenant, key]`, in a batch `["run", tenant, key, id]`.
pub(super) fn identity(start: &ParsedStart<'_>, in_batch: bool) -> Result<Vec<String>, Invalid> {
    let event = &start.event;
    let key = event.idempotency_key.as_deref();
    let key = key.ok_or_else(|| Invalid {
        message: "`idempotencykey` is required: it names the run, so that sending it again starts nothing twice"
            .into(),
        ..Invalid::missing("idempotency_key")
    })?;
    check_idempotency_key(key)?;
    let mut identity = vec!["run".to_owned(), event.tenant.to_string(), key.to_owned()];
    if in_batch {
        identity.push(event.id.to_string());
    }
    Ok(identity)
}

/// The start record of the run that `identity` names. Without a guardian goals are refused.
pub(super) fn command(
    (catalog, guardian): (&Catalog, Option<&Guardian>),
    start: &ParsedStart<'_>,
    identity: Vec<String>,
    (received, now): (Millis, Millis),
) -> Result<Command, Invalid> {
    let event = &start.event;
    let mut fields = StartFields::read(start, received)?;
    permitted(&fields)?;
    let named = Named::of(catalog, event, &fields);
    let resolved = resolve(catalog, event, &fields, &named)?;
    let guarded = match guardian {
        Some(guardian) => guardian.guard(&mut fields, &run_id(&identity).to_string())?,
        None if matches!(fields.what, StartTarget::Goal(_)) => {
            let message = "goals need `secret_key`, with which personal data are sealed";
            return Err(refused(FEATURE_DISABLED.code, message.to_owned()));
        }
        None => None,
    };
    let checked = Checked {
        kind: start.kind,
        identity,
        key: None,
        event,
        body_hash: start.body_hash,
        fields,
        guarded,
        resolved,
        received,
        now,
    };
    checked.record()
}

/// Whether a producer may ask for it.
fn permitted(fields: &StartFields) -> Result<(), Invalid> {
    let lacks = if matches!(fields.what, StartTarget::Plan(_)) {
        PLANS_INLINE
    } else if fields.on_behalf_of.is_some() {
        ACT_AS
    } else {
        return Ok(());
    };
    let message = format!("starts over Kafka (principal `{KAFKA}`) lack the permission `{lacks}`");
    Err(refused(PERMISSION_DENIED.code, message))
}

fn refused(code: &'static str, message: String) -> Invalid {
    Invalid {
        code: code.into(),
        message,
    }
}
