//! A planner whose answers a test chooses: reads requests from `goals`, and answers on `commands`.

use std::{collections::BTreeMap, time::Duration};

use omnilink::{
    commands::{
        Command,
        plan::{self, NoPlan, PlanAnswer},
        start::PlanSource,
    },
    log::{Log, topics::Names},
    runs::{PlanInputs, PlanRecord, PlanRequest},
};
use serde_json::Value;

use super::{
    read_all,
    sagas::{command, definitions, planned},
};

/// The requests for plans, once there are so many.
pub fn requests(log: &dyn Log, names: &Names, at_least: usize) -> Vec<PlanRequest> {
    let records = read_all(log, &names.goals, at_least);
    let records = records.iter();
    let requests =
        records.map(|fetched| PlanRequest::decode(fetched.record.value.as_deref().unwrap()));
    requests.map(Option::unwrap).collect()
}

/// The only request, once there is one.
pub fn request(log: &dyn Log, names: &Names) -> PlanRequest {
    let mut all = requests(log, names, 1);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// The inputs of a request.
pub fn inputs(request: &PlanRequest) -> PlanInputs {
    serde_json::from_str(&request.inputs).unwrap()
}

/// The records of cached plans by key, `None` for one that was forgotten; in order.
pub fn cached(log: &dyn Log, names: &Names, at_least: usize) -> Vec<(String, Option<PlanRecord>)> {
    for _ in 0..100 {
        let records = read_all(log, &names.plans, at_least);
        if records.len() >= at_least {
            let records = records.into_iter().map(|fetched| {
                let key = fetched.record.key.unwrap();
                let value = fetched.record.value;
                (
                    String::from_utf8(key.to_vec()).unwrap(),
                    value.map(|value| PlanRecord::decode(&value).unwrap()),
                )
            });
            return records.collect();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("fewer than {at_least} records of plans");
}

fn blank(request: &PlanRequest) -> PlanAnswer {
    PlanAnswer {
        version: plan::VERSION,
        request: request.seq as u64,
        planned: None,
        workflow: None,
        tools: BTreeMap::new(),
        params: None,
        slots: BTreeMap::new(),
        template: None,
        entry: None,
        score: None,
        red: BTreeMap::new(),
        flagged: false,
        lookup: None,
        cost: None,
        degraded: Vec::new(),
        error: None,
    }
}

/// The answer with this plan of a language model.
pub fn plans(request: &PlanRequest, plan: &Value, tools: &[Value]) -> PlanAnswer {
    PlanAnswer {
        planned: Some(planned(PlanSource::Llm, plan)),
        tools: definitions(tools),
        ..blank(request)
    }
}

/// The answer that there is no plan.
pub fn fails(request: &PlanRequest, message: &str) -> PlanAnswer {
    PlanAnswer {
        error: Some(NoPlan {
            code: "no_plan".into(),
            message: message.into(),
        }),
        ..blank(request)
    }
}

/// The record of an answer.
pub fn answer(request: &PlanRequest, answer: &PlanAnswer) -> Command {
    let body = serde_json::to_value(answer).unwrap();
    let mut command = command(&request.run_id, plan::KIND, &body);
    command.principal = "planner".into();
    command
}
