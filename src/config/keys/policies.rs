//! `limits.policies`: named limits of requests, by their names.
//!
//! The file and single variables may set the fields of a policy one by one, so it is checked as a whole after all of them.

use std::{collections::BTreeMap, sync::Arc};

use super::{ValueError, nearest, text, texts, within};
use crate::config::{
    Kind, OnBackendDown, Per, Policy, Problem,
    given::{self, Given, Value},
    policy::RESERVED,
};

/// The key under which policies stand.
pub(super) const POLICIES: &str = "limits.policies";
/// What it takes.
const TAKES: &str =
    "a map of policies by name, such as {tenant: {limit: 6000, window_s: 60, per: tenant}}";
/// Policies of a configuration.
const POLICIES_MAX: usize = 64;
/// The largest limit of a policy. A full window takes 8 bytes for each item that it admitted.
const LIMIT_MAX: i64 = 10_000_000;
/// The longest window of a policy, in seconds.
const WINDOW_MAX: i64 = 86_400;

/// Policies of which perhaps not all fields are set yet.
#[derive(Default)]
pub(in crate::config) struct Drafts(BTreeMap<String, Draft>);

#[derive(Default)]
struct Draft {
    /// Where it was first named.
    place: String,
    limit: Option<u32>,
    window_s: Option<u32>,
    per: Option<Per>,
    on_backend_down: Option<OnBackendDown>,
    on: Option<Vec<Kind>>,
    /// Whether a field has no valid value, so that its problem is reported already.
    wrong: bool,
}

impl Drafts {
    /// The fields of a policy.
    const FIELDS: [&'static str; 5] = ["limit", "window_s", "per", "on_backend_down", "on"];

    /// Takes what is set at `path`, or below it. `false`: it has nothing to do with policies.
    pub(super) fn set(&mut self, path: &str, given: &Given, problems: &mut Vec<Problem>) -> bool {
        let Some(rest) = path.strip_prefix(POLICIES) else {
            return false;
        };
        match rest
            .strip_prefix('.')
            .map(|rest| (rest, rest.split_once('.')))
        {
            None if !rest.is_empty() => return false,
            None => {
                for (name, given) in entries(given, TAKES, path, problems).unwrap_or_default() {
                    self.set(&format!("{POLICIES}.{name}"), &given, problems);
                }
            }
            Some((name, None)) => {
                let takes = "a policy, such as {limit: 6000, window_s: 60, per: tenant}";
                let fields = entries(given, takes, path, problems);
                // Also one without any field, so that they are missed.
                if let Some(draft) = self.draft(name, &given.place, problems) {
                    draft.wrong |= fields.is_none();
                }
                for (field, given) in fields.unwrap_or_default() {
                    self.set(&format!("{path}.{field}"), &given, problems);
                }
            }
            Some((_, Some((name, field)))) => {
                let Some(draft) = self.draft(name, &given.place, problems) else {
                    return true;
                };
                if let Err(error) = draft.field(field, &given.value) {
                    draft.wrong = true;
                    problems.push(Problem {
                        place: given.place.clone(),
                        key: path.to_owned(),
                        message: error.to_string(),
                    });
                }
            }
        }
        true
    }

    /// The draft of that name; `None`: no policy may have it.
    fn draft(
        &mut self,
        name: &str,
        place: &str,
        problems: &mut Vec<Problem>,
    ) -> Option<&mut Draft> {
        let good = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        let message = if RESERVED.contains(&name) {
            "this name is reserved for a limit that is not a policy"
        } else if name.is_empty() || name.len() > 64 || !name.bytes().all(good) {
            "the name of a policy has 1 to 64 of the characters a-z 0-9 _ -"
        } else {
            let new = || Draft {
                place: place.to_owned(),
                ..Draft::default()
            };
            return Some(self.0.entry(name.to_owned()).or_insert_with(new));
        };
        let wrong = Problem {
            place: place.to_owned(),
            key: format!("{POLICIES}.{name}"),
            message: message.to_owned(),
        };
        // Each of its fields comes here.
        if !problems.iter().any(|p| p.key == wrong.key) {
            problems.push(wrong);
        }
        None
    }

    /// The policies, by name, unless there is a problem.
    pub(in crate::config) fn finish(self, problems: &mut Vec<Problem>) -> Vec<Arc<Policy>> {
        if self.0.len() > POLICIES_MAX {
            problems.push(Problem {
                place: "configuration".to_owned(),
                key: POLICIES.to_owned(),
                message: format!("{} policies; {POLICIES_MAX} is the most", self.0.len()),
            });
        }
        let mut policies = Vec::with_capacity(self.0.len());
        for (name, draft) in self.0 {
            let mut missing = Vec::new();
            let fields = [
                ("limit", draft.limit.is_none()),
                ("window_s", draft.window_s.is_none()),
                ("per", draft.per.is_none()),
            ];
            missing.extend(fields.into_iter().filter(|(_, none)| *none).map(|(f, _)| f));
            match (draft.limit, draft.window_s, draft.per) {
                (Some(limit), Some(window_s), Some(per)) => policies.push(Arc::new(Policy {
                    name: name.into(),
                    limit,
                    window_s,
                    per,
                    on_backend_down: draft.on_backend_down.unwrap_or(OnBackendDown::Local),
                    on: draft.on,
                })),
                _ if draft.wrong => {}
                _ => problems.push(Problem {
                    place: draft.place,
                    key: format!("{POLICIES}.{name}"),
                    message: format!("`{}` is missing", missing.join("`, `")),
                }),
            }
        }
        policies
    }
}

/// The entries of a map, which a variable gives as YAML; `None`: it is none, which is a problem.
fn entries(
    given: &Given,
    takes: &'static str,
    path: &str,
    problems: &mut Vec<Problem>,
) -> Option<Vec<(String, Given)>> {
    let message = match &given.value {
        Value::Map(entries) => return Some(entries.clone()),
        Value::Null => return Some(Vec::new()),
        Value::Raw(raw) => match given::from_yaml(raw, &given.place, |_| false) {
            Ok(entries) => return Some(entries),
            Err(error) => error.message,
        },
        _ => takes.to_owned(),
    };
    problems.push(Problem {
        place: given.place.clone(),
        key: path.to_owned(),
        message,
    });
    None
}

impl Draft {
    fn field(&mut self, field: &str, value: &Value) -> Result<(), ValueError> {
        match field {
            "limit" => self.limit = Some(within(value, 1, LIMIT_MAX)? as u32),
            "window_s" => self.window_s = Some(within(value, 1, WINDOW_MAX)? as u32),
            "per" => self.per = Some(named(value, &Per::ALL, "`key`, `tenant`, `ip` or `type`")?),
            "on_backend_down" => {
                let takes = "`open`, `closed` or `local`";
                self.on_backend_down = Some(named(value, &OnBackendDown::ALL, takes)?);
            }
            "on" => {
                let kind = |name: String| {
                    named(&Value::Text(name.clone()), &Kind::ALL, "").map_err(|_| {
                        ValueError::Item {
                            item: name,
                            what: "one of events, commands, workflows, goals, tasks, webhooks, runs",
                        }
                    })
                };
                let kinds: Vec<_> = texts(value)?
                    .into_iter()
                    .map(kind)
                    .collect::<Result<_, _>>()?;
                if kinds.is_empty() {
                    return Err(ValueError::Empty);
                }
                self.on = Some(kinds);
            }
            _ => {
                let nearest = nearest(field, Drafts::FIELDS.into_iter());
                return Err(ValueError::NoSuchField { nearest });
            }
        }
        Ok(())
    }
}

fn named<T: Copy>(
    value: &Value,
    all: &[(&'static str, T)],
    takes: &'static str,
) -> Result<T, ValueError> {
    let text = text(value)?;
    let found = all.iter().find(|(name, _)| *name == text);
    found.map(|(_, one)| *one).ok_or(ValueError::MustBe(takes))
}
