//! What people send to a run, before it is appended and audited: where it repeats values of the run's placeholders, it has the placeholders
//! (`docs/guardian.md`).

use std::time::Duration;

use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};
use tokio::time::{Instant, sleep, timeout};

use super::caller::Permitted;
use crate::{
    guardian::{Redactor, Slot, bind},
    runs::Json,
    slots::Values,
    store::sealed,
};

/// How long the first record of a new run may take to be in Postgres.
const ROW_DEADLINE: Duration = Duration::from_millis(500);
/// The poll interval of that record.
const ROW_EVERY: Duration = Duration::from_millis(50);
/// Time limit of each query.
const READ_DEADLINE: Duration = Duration::from_secs(1);

/// The values of the placeholders of a run.
pub(crate) enum Personal {
    /// The run has no placeholders.
    Nothing,
    /// The values, opened with a key of this node.
    Known(Values),
    /// Postgres does not say, or no key of this node opens them. The run itself conceals what it takes.
    Unknown,
}

impl Personal {
    /// Those of a run.
    pub(crate) async fn of_run(caller: &Permitted, tenant: &str, run_id: &str) -> Self {
        let Ok(store) = caller.shared.tables.store() else {
            return Self::Unknown;
        };
        let until = Instant::now() + ROW_DEADLINE;
        loop {
            let row = sealed::of_run(&store, tenant, run_id);
            match timeout(READ_DEADLINE, row).await {
                Ok(Ok(Some(None))) => return Self::Nothing,
                Ok(Ok(Some(Some(sealed)))) => {
                    let values = Values::open(&caller.shared.tools.secrets, run_id, &sealed);
                    return values.map_or(Self::Unknown, Self::Known);
                }
                Ok(Ok(None)) if Instant::now() < until => sleep(ROW_EVERY).await,
                Ok(Ok(None)) | Err(_) => return Self::Unknown,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the values of a run's placeholders cannot be read");
                    return Self::Unknown;
                }
            }
        }
    }

    /// A text for the run.
    pub(crate) fn text(&self, text: String) -> String {
        match self {
            Self::Known(values) => values.conceal(&text),
            Self::Nothing | Self::Unknown => text,
        }
    }

    /// A text for the audit log. If the values are not known, all personal data in it are left out: `[EMAIL]`.
    pub(crate) fn audited(&self, text: &str) -> String {
        if !matches!(self, Self::Unknown) {
            return self.text(text.to_owned());
        }
        let mut redactor = Redactor::default();
        redactor.reserve(text);
        let redacted = redactor.redact(text);
        let kinds = redactor.into_slots().into_iter().map(|slot| Slot {
            value: format!("[{}]", slot.kind.name()).into(),
            ..slot
        });
        bind(&redacted, &kinds.collect::<Vec<_>>())
    }

    /// A value for the run.
    pub(crate) fn json(&self, json: Json) -> Json {
        match self {
            Self::Known(values) => values.conceal_given(json),
            Self::Nothing | Self::Unknown => json,
        }
    }

    /// A plan for the run, if it differs.
    pub(crate) fn plan(&self, plan: &RawValue) -> Option<Box<RawValue>> {
        let Self::Known(values) = self else {
            return None;
        };
        let concealed: Value = values.conceal_plan(plan)?;
        to_raw_value(&concealed).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audit_log_has_no_personal_data_when_the_values_are_not_known() {
        let text = "asked ann@example.com and {EMAIL_1}, 4111 1111 1111 1111";
        let audited = Personal::Unknown.audited(text);
        assert_eq!(audited, "asked [EMAIL] and {EMAIL_1}, [CARD]");
        assert_eq!(Personal::Nothing.audited(text), text);
        assert_eq!(Personal::Unknown.text(text.to_owned()), text);
    }
}
