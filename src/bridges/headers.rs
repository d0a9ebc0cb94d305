//! A request's headers, by name.

use std::collections::BTreeMap;

use super::refusal::Refusal;

/// Headers as received; names are case-insensitive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Headers<'a>(pub(super) &'a [(&'a str, &'a [u8])]);

impl<'a> Headers<'a> {
    /// All values of a header that are valid text.
    pub(super) fn all(self, name: &str) -> impl Iterator<Item = &'a str> {
        let values = self
            .0
            .iter()
            .filter(move |(found, _)| found.eq_ignore_ascii_case(name));
        values.filter_map(|(_, value)| Some(std::str::from_utf8(value).ok()?.trim()))
    }

    /// The signatures in a header, one of which must match; 401 `missing_signature` if there is none.
    pub(super) fn signatures(self, name: &str) -> Result<Vec<&'a str>, Refusal> {
        let found: Vec<_> = self.all(name).filter(|text| !text.is_empty()).collect();
        if found.is_empty() {
            return Err(Refusal::missing_signature(name));
        }
        Ok(found)
    }

    /// The timestamp in a header: 401 `missing_timestamp`, or `invalid_timestamp` if there are two.
    pub(super) fn timestamp(self, name: &str) -> Result<&'a str, Refusal> {
        match self.one(name) {
            Ok(Some(text)) => Ok(text),
            Ok(None) => Err(Refusal::unauthenticated(
                "missing_timestamp",
                format!("the header `{name}` with the timestamp is missing"),
            )),
            Err(wrong) => Err(Refusal::unauthenticated("invalid_timestamp", wrong.message)),
        }
    }

    /// The value of an optional header; an empty one counts as absent. Two of them, or bytes that are not UTF-8, are 400
    /// `invalid_header`, because a proxy and OmniLink could each use a different one.
    pub(super) fn one(self, name: &str) -> Result<Option<&'a str>, Refusal> {
        let mut values = self
            .0
            .iter()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name));
        let Some((_, value)) = values.next() else {
            return Ok(None);
        };
        let wrong =
            |why: &str| Refusal::invalid("invalid_header", format!("the header `{name}` {why}"));
        if values.next().is_some() {
            return Err(wrong("occurs more than once"));
        }
        let text = std::str::from_utf8(value).map_err(|_| wrong("is not UTF-8"))?;
        Ok(Some(text.trim()).filter(|text| !text.is_empty()))
    }

    /// Like [`Headers::one`], for a required header: 400 `missing_header` if it is absent.
    pub(super) fn required(self, name: &str) -> Result<&'a str, Refusal> {
        self.one(name)?.ok_or_else(|| Refusal::missing_header(name))
    }

    /// All headers as a JSON object: names in lower case, values of the same name joined by `, `.
    pub(super) fn json(self) -> String {
        let mut all = BTreeMap::<String, String>::new();
        for (name, value) in self.0 {
            let value = String::from_utf8_lossy(value);
            let joined = all.entry(name.to_ascii_lowercase());
            joined
                .and_modify(|text| {
                    text.push_str(", ");
                    text.push_str(&value);
                })
                .or_insert_with(|| value.into_owned());
        }
        // A map of texts always has a JSON form.
        serde_json::to_string(&all).unwrap_or_default()
    }
}
