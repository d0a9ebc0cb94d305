//! Approvals as those see them who decide: with the values of placeholders.

use super::{audit::read, caller::Permitted};
use crate::{
    api::{run_controls::APPROVALS_DECIDE, runs::ApprovalView},
    guardian::placeholders,
    port::problem::Refused,
    runs::Json,
    slots::Values,
    store::{Store, sealed},
};

/// Puts the values of placeholders into approvals, if the key may decide them. What cannot be opened keeps its placeholders.
pub(super) async fn show(
    caller: &Permitted,
    store: &Store,
    tenant: &str,
    approvals: &mut [ApprovalView],
) -> Result<(), Refused> {
    if !caller.key.scopes.permits(APPROVALS_DECIDE) {
        return Ok(());
    }
    let runs: Vec<&str> = approvals
        .iter()
        .filter(|approval| has_placeholders(approval))
        .map(|approval| approval.run_id.as_str())
        .collect();
    if runs.is_empty() {
        return Ok(());
    }
    let sealed = read(caller, sealed::of_runs(store, tenant, &runs)).await?;
    let secrets = &caller.shared.tools.secrets;
    for approval in approvals {
        let Some(sealed) = sealed.get(&approval.run_id) else {
            continue;
        };
        if let Ok(values) = Values::open(secrets, &approval.run_id, sealed) {
            bind(approval, &values);
        }
    }
    Ok(())
}

fn has_placeholders(approval: &ApprovalView) -> bool {
    let mut texts = [Some(approval.input.text()), approval.message.as_deref()]
        .into_iter()
        .flatten();
    texts.any(|text| placeholders(text).next().is_some())
}

fn bind(approval: &mut ApprovalView, values: &Values) {
    let input = values.bind(approval.input.text()).ok();
    if let Some(input) = input.and_then(|input| Json::parse(input).ok()) {
        approval.input = input;
    }
    if let Some(message) = &mut approval.message
        && let Ok(bound) = values.bind_text(message)
    {
        *message = bound;
    }
}
