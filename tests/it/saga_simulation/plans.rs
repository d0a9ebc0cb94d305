//! The plans of goals in the simulation: planners that answer late, twice or not at all, and records of cached plans.

use std::time::Duration;

use omnilink::{
    log::Fetched,
    runs::{CachedPlan, Event, PlanRecord, PlanRequest},
};
use rand::RngExt;

use super::World;
use crate::support::planner;

impl World {
    /// Reads newly committed requests for plans, and records of cached plans.
    pub(super) fn read_plans(&mut self) {
        let mut records: Vec<Fetched> = Vec::new();
        self.goals.poll(Duration::ZERO, &mut records).unwrap();
        for fetched in records.drain(..) {
            let request = PlanRequest::decode(fetched.record.value.as_deref().unwrap()).unwrap();
            self.unplanned.insert(self.requests.len());
            self.requests.push(request);
        }
        self.cache.poll(Duration::ZERO, &mut records).unwrap();
        for fetched in records.drain(..) {
            let key = fetched.record.key.unwrap();
            match fetched.record.value {
                None => self
                    .forgotten
                    .push(String::from_utf8(key.to_vec()).unwrap()),
                Some(value) => {
                    let record = PlanRecord::decode(&value).unwrap();
                    let plan: CachedPlan = serde_json::from_str(&record.body).unwrap();
                    self.cached.push(plan.run_id);
                }
            }
        }
    }

    /// A planner answers a request.
    pub(super) fn plan(&mut self, at: usize, good: bool) {
        self.unplanned.remove(&at);
        let request = self.requests[at].clone();
        let (plan, tools) = &self.plans[&request.run_id];
        let mut answer = match self.rng.random_range(0..4) {
            2 if !good => planner::fails(&request, "nobody knows how"),
            // Its tools are missing, unless all are builtin ones.
            3 if !good => planner::plans(&request, plan, &[]),
            _ => planner::plans(&request, plan, tools),
        };
        if answer.planned.is_some() && self.rng.random_ratio(1, 2) {
            answer.template = Some(format!("Do it, {}", request.run_id));
            answer.entry = Some(request.run_id.clone());
        }
        let command = planner::answer(&request, &answer);
        self.send(&command);
        // After a crash it is repeated.
        if self.rng.random_ratio(1, 5) {
            self.send(&command);
        }
    }

    /// Checks that each request was written once, that a run has one plan at most, and that plans are cached that succeeded, and
    /// forgotten that did not.
    pub(super) fn check_plans(&self) {
        let (mut requested, mut cached, mut forgotten) = (Vec::new(), Vec::new(), Vec::new());
        for (run, history) in &self.histories {
            let mut ready = None;
            for (event, seq) in history.records.iter().map(|(event, _)| event).zip(1..) {
                match event {
                    Event::PlanRequested => requested.push((run.clone(), seq)),
                    Event::PlanReady(plan) => {
                        assert!(ready.replace(plan).is_none(), "{run}: a second plan");
                    }
                    Event::RunSucceeded { .. }
                        if ready.is_some_and(|plan| plan.found.template.is_some()) =>
                    {
                        cached.push(run.clone());
                    }
                    Event::RunFailed { .. } | Event::RunDenied { .. }
                        if ready.is_some_and(|plan| plan.found.entry.is_some()) =>
                    {
                        forgotten.push(format!("acme\u{1f}{run}"));
                    }
                    _ => {}
                }
            }
        }
        let mut asked: Vec<_> = self
            .requests
            .iter()
            .map(|request| (request.run_id.clone(), request.seq))
            .collect();
        asked.sort();
        requested.sort();
        assert_eq!(asked, requested);
        let sorted = |all: &[String]| {
            let mut all = all.to_vec();
            all.sort();
            all
        };
        assert_eq!(sorted(&self.cached), sorted(&cached));
        assert_eq!(sorted(&self.forgotten), sorted(&forgotten));
    }
}
