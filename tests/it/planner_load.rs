//! Many goals: what a hit does not write, and bursts.

use std::collections::BTreeMap;

use omnilink::{
    base::clock::{Clock, SystemClock},
    commands::start::PlanSource,
    planner::Settings,
    plans::jcs,
    runs::{CachedPlan, ENTRY, Json, PlanRecord, entry_id},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    language_model::{answer_for, ask, planned, put_plans, request, stages, start},
    port::{Node, NodeOptions},
};

fn noop() -> Value {
    json!({ "steps": [{ "id": "a", "tool": "noop" }] })
}

/// The record of a plan that succeeded this many milliseconds ago.
fn entry(template: &str, ago_ms: i64) -> PlanRecord {
    let cached = CachedPlan {
        run_id: "00000000-0000-5000-8000-000000000009".into(),
        plan: Json::of(&noop()),
        hash: jcs::hash(&noop()),
        source: "llm".into(),
        workflow: None,
        tools: BTreeMap::new(),
        slots: BTreeMap::new(),
    };
    PlanRecord {
        tenant: "acme".into(),
        entry: entry_id("acme", template),
        kind: ENTRY.into(),
        template: template.into(),
        at: SystemClock.now().0 - ago_ms,
        body: serde_json::to_string(&cached).unwrap(),
    }
}

/// A node on which planning has begun, once it has these plans.
async fn node_with(settings: Settings, records: &[PlanRecord]) -> Node {
    let options = NodeOptions {
        planner: settings,
        ..NodeOptions::default()
    };
    let node = Node::start_whole(TempDir::new().unwrap(), options).await;
    put_plans(&node, records).await;
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_says_whether_its_entry_has_to_be_written_again() {
    let records = [entry("Tidy up", 1_000), entry("Clean up", 10 * 60_000)];
    let node = node_with(Settings::default(), &records).await;
    let _planning = start(&node);
    for (run, goal, fresh) in [(1, "tidy up", true), (2, "clean up", false)] {
        let answer = planned(&node, &request(run, goal)).await;
        let source = answer.planned.as_ref().map(|planned| planned.source);
        assert_eq!(source, Some(PlanSource::Cache), "{:?}", stages(&answer));
        assert_eq!(answer.found.fresh, fresh, "{goal}");
        // Feedback and a failed run name the entry in both cases.
        assert!(answer.found.template.is_some() && answer.found.entry.is_some());
    }
    // Of a plan that lives shorter, a 64th.
    let mut settings = Settings::default();
    settings.plans.ttl = std::time::Duration::from_mins(1);
    let node = node_with(settings, &[entry("Tidy up", 5_000)]).await;
    let _planning = start(&node);
    let answer = planned(&node, &request(1, "tidy up")).await;
    assert!(answer.planned.is_some() && !answer.found.fresh);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_goals_is_planned() {
    let node = node_with(Settings::default(), &[entry("Tidy up", 0)]).await;
    let _planning = start(&node);
    let requests: Vec<_> = (1..=2_000).map(|run| request(run, "tidy up")).collect();
    ask(&node, &requests).await;
    for run in [1, 1_000, 2_000] {
        assert!(answer_for(&node, run).await.planned.is_some(), "{run}");
    }
}

#[cfg(feature = "embed")]
#[tokio::test(flavor = "multi_thread")]
async fn more_goals_than_the_embedder_queues_get_their_vectors() {
    let Some(model) = crate::embed::model_dir() else {
        return;
    };
    let vectors = omnilink::planner::Vectors::new(Some(model));
    assert!(vectors.load());
    let goals = 2 * omnilink::embed::QUEUE_TEXTS;
    let calls = (0..goals).map(|_| {
        let vectors = vectors.clone();
        tokio::spawn(async move { vectors.one("go").await })
    });
    // All of them wait before the first one has its turn.
    let calls: Vec<_> = calls.collect();
    for call in calls {
        assert_eq!(call.await.unwrap().map(|vector| vector.len()), Ok(384));
    }
}
