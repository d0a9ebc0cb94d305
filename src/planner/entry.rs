//! A cached plan as this node knows it, and whether it may be used: with the tools and the workflow as they are now.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use serde_json::{Value, value::RawValue};
use sha2::{Digest, Sha256};

use super::{bounds::Bounds, goal::Goal};
use crate::{
    base::{clock::Millis, hex::hex},
    commands::start::{PlanSource, WorkflowVersion},
    plans::{
        Kind, Lane,
        shape::{Generalised, generalise},
    },
    runs::{CachedPlan, PlanRecord},
    workflows::{Catalog, Definition, Workflow},
};

/// A cached plan.
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) template: String,
    /// When the last run with it succeeded.
    pub(super) at: Millis,
    pub(super) cached: CachedPlan,
    /// The plan as JSON.
    pub(super) plan: Value,
    /// What is written in it.
    literals: Literals,
    /// The result of [`Entry::ready`] for a catalog.
    judged: Mutex<Option<(Weak<Catalog>, Judged)>>,
}

type Judged = Result<Arc<UsablePlan>, &'static str>;

/// What a plan has as literals. A workflow has nothing: it is for every goal that its params are bound to.
#[derive(Default)]
struct Literals {
    /// Slots that it does not use for certain, and slots whose values it has.
    of_slots: Vec<String>,
    /// A date of the day on which it was made.
    dated: bool,
}

impl Literals {
    fn of(mut general: Generalised) -> Self {
        general.literal.append(&mut general.written);
        Self {
            of_slots: general.literal,
            dated: general.dated,
        }
    }
}

/// What a run gets with the plan of an entry.
pub(super) struct UsablePlan {
    /// The workflow of the plan, as it is now.
    pub(super) workflow: Option<(Arc<Workflow>, WorkflowVersion)>,
    /// The definitions of the tools.
    pub(super) tools: BTreeMap<String, Box<RawValue>>,
    /// The steps that need approval.
    pub(super) red: BTreeMap<String, Vec<String>>,
}

impl Entry {
    /// The entry of a record; `None`: its body cannot be read.
    pub(super) fn of_record(record: &PlanRecord) -> Option<Self> {
        let cached: CachedPlan = serde_json::from_str(&record.body).ok()?;
        let plan = cached.plan.value();
        let literals = if cached.workflow.is_some() {
            Literals::default()
        } else {
            Literals::of(generalise(&plan, &cached.slots))
        };
        Some(Self {
            id: record.entry.clone(),
            template: record.template.clone(),
            at: Millis(record.at),
            plan,
            literals,
            cached,
            judged: Mutex::default(),
        })
    }

    /// The slots whose values are written in the plan, and these values. A workflow binds its params by itself.
    pub(super) fn fixed(&self) -> BTreeMap<String, Value> {
        let slots = &self.cached.slots;
        let fixed = self.literals.of_slots.iter().filter_map(|name| {
            let short = name.strip_suffix("_1").unwrap_or(name);
            let value = slots.get(name).or_else(|| slots.get(short))?;
            Some((name.clone(), value.clone()))
        });
        fixed.collect()
    }

    /// Whether a person has to approve one of its steps.
    pub(super) fn is_red(&self, catalog: &Arc<Catalog>, bounds: &Bounds) -> bool {
        let sensitive = |name: &str| {
            catalog.tool(name).is_none_or(|tool| {
                let tool = &tool.tool;
                tool.risk.lane == Some(Lane::Sensitive)
                    || tool.irreversible
                    || matches!(tool.kind, Some(Kind::Delete | Kind::Payment))
            })
        };
        let mut steps = self.plan["steps"].as_array().into_iter().flatten();
        steps.any(|step| {
            step["irreversible"] == true || sensitive(step["tool"].as_str().unwrap_or_default())
        }) || !bounds.red(&self.plan).is_empty()
    }

    /// What a run gets with the plan. `Err`: why the plan cannot be used now. Cheap while the catalog stays the same.
    pub(super) fn ready(&self, catalog: &Arc<Catalog>, bounds: &Bounds) -> Judged {
        let mut judged = self.judged.lock();
        if let Some((of, judged)) = &*judged
            && std::ptr::eq(of.as_ptr(), Arc::as_ptr(catalog))
        {
            return judged.clone();
        }
        let fresh = self.judge(catalog, bounds).map(Arc::new);
        // The weak reference keeps the address from being used for another catalog.
        *judged = Some((Arc::downgrade(catalog), fresh.clone()));
        fresh
    }

    fn judge(&self, catalog: &Catalog, bounds: &Bounds) -> Result<UsablePlan, &'static str> {
        if self.literals.dated {
            return Err("dated");
        }
        let workflow = match &self.cached.workflow {
            None => None,
            Some(of) => {
                let current = catalog.workflow(&of.name, None).ok_or("workflow_gone")?;
                let same = current.version.to_string() == of.version;
                if !same || current.hash != self.cached.hash {
                    return Err("workflow_changed");
                }
                Some(current)
            }
        };
        let compiled = catalog.plan(&self.plan).map_err(|_| "plan_invalid")?;
        let mut of_files = 0;
        for tool in catalog.called(&compiled) {
            if tool.tool.risk.lane == Some(Lane::Blocked) {
                return Err("tool_blocked");
            }
            let Some(hash) = hash(tool) else {
                continue;
            };
            if self.cached.tools.get(&tool.tool.name) != Some(&hash) {
                return Err("tool_changed");
            }
            of_files += 1;
        }
        if of_files != self.cached.tools.len() {
            return Err("tool_changed");
        }
        let workflow = workflow.map(|workflow| (Arc::clone(workflow), workflow.to_version()));
        // Persons and workflows may reach what they like.
        let trusted = workflow.is_some() || self.cached.source == PlanSource::Person.name();
        Ok(UsablePlan {
            tools: catalog.definitions(&compiled),
            red: if trusted {
                BTreeMap::new()
            } else {
                bounds.red(&self.plan)
            },
            workflow,
        })
    }

    /// Whether the plan may serve a goal. `Err`: why not.
    pub(super) fn serves(&self, goal: &Goal) -> Result<(), &'static str> {
        if let Some(workflow) = &self.cached.workflow {
            if goal.disabled_workflows.contains(&workflow.name) {
                return Err("workflow_disabled");
            }
            // Its params are bound anew, and say what it makes of slots.
            let allowed = goal.allows(&workflow.name, &workflow.version);
            return if allowed {
                Ok(())
            } else {
                Err("workflow_not_allowed")
            };
        }
        if !goal.allowed_workflows.is_empty() {
            return Err("workflow_not_allowed");
        }
        if goal.has_inputs() {
            return Err("goal_has_inputs");
        }
        // What the plan says instead is known of slots without personal data alone.
        let mut ignored = goal.ignored_slots(&self.plan).into_iter();
        if ignored.any(|name| !self.cached.slots.contains_key(name)) {
            return Err("slots_ignored");
        }
        if !goal.unknown_slots(&self.plan).is_empty() {
            return Err("slots_missing");
        }
        Ok(())
    }
}

/// The SHA-256 of a tool's definition as runs keep it; `None` for builtin tools, which have none.
fn hash(tool: &Definition) -> Option<String> {
    let text = tool.kept.as_ref()?.get();
    Some(hex(&Sha256::digest(text)))
}
