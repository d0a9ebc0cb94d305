//! The messages that a record of a stage's input holds.

use std::sync::Arc;

use super::StageTransform;
use crate::topology::{
    plan::{Input, PlannedStep},
    run::{
        carried,
        message::{Message, Normalised},
    },
    syntax::model::KeyFields,
};
use crate::{
    controls::SecretKeys,
    envelope::{
        foreign::{ForRedriven, RedrivenRecord},
        kafka::unrecognised_avro,
    },
    stream::{Failure, Origin, Rejected, dlq::redriven},
};

/// The messages of a record, and the first step that is left to do.
type Read = (Vec<Result<Message, Rejected>>, usize);

impl StageTransform {
    /// The messages of a record, and the first step that is left to do.
    pub(super) fn read(&mut self, origin: &Arc<Origin>) -> Result<Read, Failure> {
        let stage = Arc::clone(&self.stage);
        let shared = Arc::clone(&self.shared);
        let tenant = shared.tenant.as_ref();
        let times = self.redriven(origin);
        let again = (times > 0).then(|| ForRedriven {
            schemas: &*shared.schemas,
            redriven: RedrivenRecord::of(&origin.topic, &origin.record),
        });
        let schemas = again.as_ref().map_or(&*shared.schemas, |again| again as _);
        let (mut messages, first) = match (&stage.input, stage.steps.first()) {
            (Input::Rekeyed(_), _) => {
                let value = origin.record.record.value.clone().unwrap_or_default();
                return Ok((vec![Ok(carried::decode(&value)?)], 0));
            }
            (Input::Events(_), _) => (vec![Message::of_events(origin)], 0),
            (Input::Foreign(_), Some(PlannedStep::Normalise(map))) => {
                let read = match (Message::normalised(origin, tenant, schemas), map) {
                    (Ok(Normalised::Events(events)), _) => events,
                    (Ok(Normalised::Json(json)), Some(map)) => {
                        let message = Message::of_json(json, origin, tenant)?;
                        vec![self.mapped(map, message)]
                    }
                    (Ok(Normalised::Json(_)), None) => return Err(unrecognised_avro().into()),
                    (Err(Failure::Rejected(rejected)), Some(map))
                        if rejected.code == "unrecognised_payload" =>
                    {
                        let messages = Message::decode(origin, &shared.codec, tenant, schemas)?;
                        messages
                            .into_iter()
                            .map(|message| self.map_part(map, message?))
                            .collect()
                    }
                    (Err(failure), _) => return Err(failure),
                };
                (read, 1)
            }
            (Input::Foreign(_), _) => (Message::decode(origin, &shared.codec, tenant, schemas)?, 0),
        };
        for message in &mut messages {
            if let Some(key) = &stage.keyed_by {
                keyed_by(message, key);
            }
            if let Ok(message) = message {
                message.redriven = times;
            }
        }
        Ok((messages, first))
    }

    /// How often a record of the source came back from the dead-letter queue; 0: never, or its mark is not genuine.
    fn redriven(&self, origin: &Origin) -> u32 {
        let record = &origin.record.record;
        let genuine = |secrets: &Arc<SecretKeys>| redriven::count(secrets, &origin.topic, record);
        // Nearly every record has no mark.
        redriven::claimed(record)
            .and(self.shared.secrets.as_ref())
            .and_then(genuine)
            .unwrap_or(0)
    }
}

fn keyed_by(message: &mut Result<Message, Rejected>, fields: &KeyFields) {
    if let Ok(one) = message
        && let Err(rejected) = one.keyed_by(fields)
    {
        let value = one.origin.record.record.value.clone();
        *message = Err(Rejected { value, ..rejected });
    }
}
