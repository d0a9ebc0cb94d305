//! The opened values of a run's placeholders, and how they are put into inputs.

use std::{collections::HashMap, fmt};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{
    conceal::{Concealing, text_of},
    seal::{Unreadable, open},
};
use crate::{
    controls::SecretKeys,
    guardian::{self, Slot, placeholders},
    runs::Json,
};

/// The most bytes that values may add to one document.
pub const BOUND_MAX: usize = 128 * 1024;

/// All but the unreserved characters of a URL (RFC 3986).
const IN_URL: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// An input would be too large with the values of its placeholders.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the values of its placeholders would add more than {BOUND_MAX} bytes")]
pub struct TooLarge;

/// The values of a run's placeholders.
pub struct Values {
    slots: Vec<Slot>,
    concealing: Concealing,
}

/// Shows how many there are, and none of them.
impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Values").field(&self.slots.len()).finish()
    }
}

impl Values {
    /// Opens what was sealed for a run.
    pub fn open(secrets: &SecretKeys, run_id: &str, sealed: &str) -> Result<Self, Unreadable> {
        let slots = open(secrets, run_id, sealed)?;
        Ok(Self {
            concealing: Concealing::of(&slots).ok_or(Unreadable)?,
            slots,
        })
    }

    /// Whether a text, or JSON text, has one of the placeholders.
    pub fn are_in(&self, text: &str) -> bool {
        placeholders(text).any(|name| self.slots.iter().any(|slot| slot.name == name))
    }

    /// JSON text with the values. A text that is one placeholder becomes its value, which may be a number.
    pub fn bind(&self, json: &str) -> Result<String, BindError> {
        let mut value: Value = serde_json::from_str(json)?;
        self.bind_value(&mut value)?;
        Ok(value.to_string())
    }

    /// As [`Values::bind`], for a text that is not JSON.
    pub fn bind_text(&self, text: &str) -> Result<String, TooLarge> {
        self.check_size(text)?;
        Ok(guardian::bind(text, &self.slots))
    }

    /// As [`Values::bind`], in place.
    pub fn bind_value(&self, value: &mut Value) -> Result<(), TooLarge> {
        self.check_size(&value.to_string())?;
        guardian::bind_value(value, &self.slots);
        Ok(())
    }

    /// A URL with the values percent-encoded, so that each stays within its place.
    pub fn bind_url(&self, url: &str) -> Result<String, TooLarge> {
        self.check_size(url)?;
        let encoded: Vec<_> = self
            .slots
            .iter()
            .map(|slot| Slot {
                value: utf8_percent_encode(&text_of(&slot.value), IN_URL)
                    .to_string()
                    .into(),
                ..slot.clone()
            })
            .collect();
        Ok(guardian::bind(url, &encoded))
    }

    /// The text with placeholders instead of the values.
    pub fn conceal(&self, text: &str) -> String {
        self.concealing.text(text, &self.slots)
    }

    /// As [`Values::conceal`], for a text that may have been cut off: what is left of a value at its end is left out.
    pub fn conceal_cut(&self, text: &str) -> String {
        self.concealing.cut_text(text, &self.slots)
    }

    /// JSON with placeholders instead of the values, in names of members too. What cannot be read stays as it is: no run keeps it.
    pub fn conceal_json(&self, json: &Json) -> Json {
        match serde_json::from_str(json.text()) {
            Ok(mut value) => {
                self.concealing.value(&mut value, &self.slots);
                Json::of(&value)
            }
            Err(_) => json.clone(),
        }
    }

    /// As [`Values::conceal_json`]; what has none of the values keeps its text.
    pub fn conceal_given(&self, json: Json) -> Json {
        let concealed = self.conceal_json(&json);
        if serde_json::from_str::<Value>(json.text()).is_ok_and(|v| Json::of(&v) == concealed) {
            return json;
        }
        concealed
    }

    pub(super) fn parts(&self) -> (&[Slot], &Concealing) {
        (&self.slots, &self.concealing)
    }

    fn check_size(&self, text: &str) -> Result<(), TooLarge> {
        let sizes: HashMap<&str, usize> = self
            .slots
            .iter()
            .map(|slot| (&*slot.name, slot.value.to_string().len()))
            .collect();
        let mut added = 0_usize;
        for size in placeholders(text).filter_map(|name| sizes.get(name)) {
            added = added.saturating_add(*size);
            if added > BOUND_MAX {
                return Err(TooLarge);
            }
        }
        Ok(())
    }
}

/// Why values cannot be put into JSON text.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// It would be too large.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// It is not JSON.
    #[error("the input is not JSON that can be read")]
    NotJson(#[from] serde_json::Error),
}
