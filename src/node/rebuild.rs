//! What `omnilink rebuild` names, and the projections that it stands for.

use std::{sync::Arc, time::Duration};

use crate::{
    port::NotBegun,
    projections::{self, ProjectionError, RebuildTables, Rebuilt, Setup},
};

/// What each projection needs.
#[derive(Clone)]
pub(crate) struct Setups {
    pub(crate) events: Setup,
    pub(crate) audit: Setup,
    pub(crate) odoo: Setup,
    pub(crate) odoo_dlq: Setup,
    pub(crate) odoo_ingress: Setup,
    pub(crate) runs: Setup,
    pub(crate) tasks: Setup,
}

/// What is rebuilt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a projection, wanted or not"
)]
pub(crate) struct Wanted {
    events: RebuildTables,
    audit: bool,
    odoo: bool,
    runs: bool,
    tasks: bool,
}

/// The names of what can be rebuilt.
const REBUILDABLE: &str = "events, entities, runs, approvals, tasks, audit, odoo";

impl Wanted {
    pub(crate) fn parse(projections: &[String]) -> Result<Self, NotBegun> {
        let mut wanted = Self {
            events: RebuildTables {
                events: false,
                entities: false,
            },
            audit: false,
            odoo: false,
            runs: false,
            tasks: false,
        };
        for name in projections {
            match name.as_str() {
                "events" => wanted.events.events = true,
                "entities" => wanted.events.entities = true,
                "audit" => wanted.audit = true,
                "odoo" => wanted.odoo = true,
                // One projection writes them all.
                "runs" | "approvals" => wanted.runs = true,
                "tasks" => wanted.tasks = true,
                other => return Err(NotBegun::Unknown(cannot_be_rebuilt(other))),
            }
        }
        if projections.is_empty() {
            return Err(NotBegun::Unknown(format!(
                "name a projection: {REBUILDABLE}"
            )));
        }
        Ok(wanted)
    }

    /// Rebuilds one after the other.
    pub(crate) fn run(
        self,
        setups: &Setups,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Rebuilt, ProjectionError> {
        let mut all = Rebuilt {
            records: 0,
            paused: Duration::ZERO,
        };
        let events = self.events.events || self.events.entities;
        let odoo = Setup {
            dlq: Arc::clone(&setups.odoo_dlq.topic),
            ..setups.odoo.clone()
        };
        let steps: [(bool, Rebuilding<'_>); 5] = [
            (events, &|p| {
                projections::rebuild(&setups.events, self.events, p)
            }),
            (self.audit, &|p| {
                projections::rebuild_audit(&setups.audit, p)
            }),
            (self.odoo, &|p| {
                projections::rebuild_odoo(&odoo, &setups.odoo_ingress.topic, p)
            }),
            (self.runs, &|p| projections::rebuild_runs(&setups.runs, p)),
            (self.tasks, &|p| {
                projections::rebuild_tasks(&setups.tasks, p)
            }),
        ];
        for (_, rebuild) in steps.into_iter().filter(|(wanted, _)| *wanted) {
            let before = all.records;
            let rebuilt = rebuild(&mut |done, total| progress(before + done, before + total))?;
            all.records += rebuilt.records;
            all.paused = all.paused.max(rebuilt.paused);
        }
        Ok(all)
    }
}

/// One rebuild, which is given a callback for its progress.
type Rebuilding<'a> = &'a dyn Fn(&mut dyn FnMut(u64, u64)) -> Result<Rebuilt, ProjectionError>;

/// Why a name is none of a projection that can be rebuilt.
fn cannot_be_rebuilt(name: &str) -> String {
    match name {
        "reader_grants" | "api_keys" | "integrations" | "emergency_controls" => format!(
            "`{name}` follows the topic `controls` as a whole: it is written again by itself, at the latest after a minute"
        ),
        "audit_log" | "rejections" | "orchestration_requests" => {
            format!("`{name}` is written by the projection `audit`: `omnilink rebuild audit`")
        }
        "run_steps" | "run_events" => {
            format!("`{name}` is written by the projection `runs`: `omnilink rebuild runs`")
        }
        "webhook_events" => {
            "`webhook_events` is written by the projection `odoo`: `omnilink rebuild odoo`".into()
        }
        other => {
            format!("there is no projection `{other}`; the projections are {REBUILDABLE}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::rebuild::StartRebuild;

    #[test]
    fn what_cannot_be_rebuilt_is_refused_with_why() {
        let parse = |name: &str| match Wanted::parse(&[name.to_owned()]) {
            Err(NotBegun::Unknown(why)) => why,
            other => panic!("{name}: {other:?}"),
        };
        assert!(parse("api_keys").contains("follows the topic `controls`"));
        assert!(parse("audit_log").contains("omnilink rebuild audit"));
        assert!(parse("nothing").contains(REBUILDABLE));
        let all: Vec<String> = REBUILDABLE.split(", ").map(str::to_owned).collect();
        assert!(Wanted::parse(&all).is_ok());
        assert!(Wanted::parse(&[]).is_err());
    }

    #[test]
    fn the_api_names_what_can_be_rebuilt() {
        let schema = serde_json::to_value(schemars::schema_for!(StartRebuild)).unwrap();
        let described = schema["properties"]["projections"]["description"].as_str();
        for name in REBUILDABLE.split(", ") {
            let named = described.unwrap().contains(&format!("`{name}`"));
            assert!(named, "{name} {described:?}");
        }
    }
}
