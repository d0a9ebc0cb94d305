//! Functions of librdkafka that rdkafka's safe interface lacks: topic ids (`rd_kafka_DescribeTopics`), and the group metadata of a
//! consumer.
//!
//! The only file with `unsafe`. Every object that librdkafka returns is owned by a [`Handle`], which destroys it once; data within an
//! event (topic descriptions, names, ids) are copied before the event is destroyed.

#![allow(
    unsafe_code,
    reason = "rdkafka has no safe interface to DescribeTopics and to a group's metadata; each block says why it is sound"
)]

use std::{
    collections::HashMap,
    ffi::{CStr, CString, c_char, c_int},
    ptr,
    time::Duration,
};

use rdkafka::{
    ClientContext, bindings as c,
    client::Client,
    error::{KafkaError, RDKafkaErrorCode},
    types::RDKafkaRespErr,
};

use crate::log::{Described, TopicId};

/// An object of librdkafka's, destroyed when it is dropped.
struct Handle<T> {
    object: *mut T,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Handle<T> {
    /// `None` for null, which librdkafka returns if it cannot create the object.
    fn of(object: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Option<Self> {
        (!object.is_null()).then_some(Self { object, destroy })
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        // SAFETY: the object is not null, came from the function that `destroy` belongs to, and only this handle destroys it.
        unsafe { (self.destroy)(self.object) }
    }
}

/// The description of a topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    Is(Described),
    Missing,
    /// It may not be described, or its leaders are being elected.
    Unknown,
}

/// The identity of a consumer in its group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct GroupMember {
    pub(super) generation: i32,
    pub(super) id: String,
    pub(super) instance: Option<String>,
}

/// The identity of a consumer in its group; `None`: it is in no group.
pub(super) fn group_member<C: ClientContext>(client: &Client<C>) -> Option<GroupMember> {
    // SAFETY: the client is alive for the whole call.
    let metadata = unsafe { c::rd_kafka_consumer_group_metadata(client.native_ptr()) };
    let metadata = Handle::of(metadata, c::rd_kafka_consumer_group_metadata_destroy)?;
    // SAFETY: the metadata is not null, and alive until the end of the function; its texts are null or NUL-terminated, and lie within it.
    unsafe {
        let text = |text: *const c_char| {
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        };
        Some(GroupMember {
            generation: c::rd_kafka_consumer_group_metadata_generation_id(metadata.object),
            id: text(c::rd_kafka_consumer_group_metadata_member_id(
                metadata.object,
            ))?,
            instance: text(c::rd_kafka_consumer_group_metadata_group_instance_id(
                metadata.object,
            )),
        })
    }
}

/// Describes topics (ids and partition counts) in one request. Blocks.
pub(super) fn describe_topics<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<HashMap<String, Answer>, KafkaError> {
    let mut asked: Vec<&str> = topics.to_vec();
    asked.sort_unstable();
    // librdkafka rejects empty names, and lists with duplicates.
    asked.dedup();
    asked.retain(|topic| !topic.is_empty());
    let names: Vec<CString> = asked
        .iter()
        .filter_map(|topic| CString::new(*topic).ok())
        .collect();
    if names.is_empty() {
        return Ok(HashMap::new());
    }
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let failed = || KafkaError::AdminOpCreation("the topics cannot be described".into());
    let handle = client.native_ptr();
    // SAFETY: `pointers` has the given number of valid C strings; librdkafka copies them.
    let collection = unsafe {
        c::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len())
    };
    let collection =
        Handle::of(collection, c::rd_kafka_TopicCollection_destroy).ok_or_else(failed)?;
    // SAFETY: `handle` is the client's, which is borrowed for the whole call.
    let queue = unsafe { c::rd_kafka_queue_new(handle) };
    let queue = Handle::of(queue, c::rd_kafka_queue_destroy).ok_or_else(failed)?;
    let operation = c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
    // SAFETY: as above.
    let options = unsafe { c::rd_kafka_AdminOptions_new(handle, operation) };
    let options = Handle::of(options, c::rd_kafka_AdminOptions_destroy).ok_or_else(failed)?;
    let millis = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
    // SAFETY: the options are alive; without a buffer no error text is written.
    let set = unsafe {
        c::rd_kafka_AdminOptions_set_request_timeout(options.object, millis, ptr::null_mut(), 0)
    };
    refused(set)?;
    // SAFETY: all four are alive; librdkafka copies the names and the options, and the event comes to our own queue, where
    // it waits for us or is destroyed with the queue.
    unsafe {
        c::rd_kafka_DescribeTopics(handle, collection.object, options.object, queue.object);
    }
    // The request has its own timeout, and the event arrives a little later at most.
    // SAFETY: the queue is alive; an event, unlike null, is ours to destroy.
    let event = unsafe { c::rd_kafka_queue_poll(queue.object, millis.saturating_add(500)) };
    let event = Handle::of(event, c::rd_kafka_event_destroy)
        .ok_or(KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut))?;
    // SAFETY: the event is alive.
    refused(unsafe { c::rd_kafka_event_error(event.object) })?;
    // SAFETY: the event is alive; null is returned for an event of another kind.
    let result = unsafe { c::rd_kafka_event_DescribeTopics_result(event.object) };
    if result.is_null() {
        return Err(failed());
    }
    let mut count = 0;
    // SAFETY: `result` is the living event itself; the array belongs to it.
    let found = unsafe { c::rd_kafka_DescribeTopics_result_topics(result, &raw mut count) };
    if found.is_null() {
        return Ok(HashMap::new());
    }
    let mut answers = HashMap::with_capacity(count);
    for index in 0..count {
        // SAFETY: the array has `count` valid pointers, and lives as long as the event.
        let (name, answer) = unsafe { described(*found.add(index)) };
        answers.insert(name, answer);
    }
    Ok(answers)
}

fn refused(code: RDKafkaRespErr) -> Result<(), KafkaError> {
    match code {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        code => Err(KafkaError::AdminOp(code.into())),
    }
}

/// Copies a description.
///
/// # Safety
///
/// `topic` is a description within an event that is alive.
unsafe fn described(topic: *const c::rd_kafka_TopicDescription_t) -> (String, Answer) {
    // SAFETY: the caller's promise; a description always has a name, NUL-terminated.
    let name = unsafe { CStr::from_ptr(c::rd_kafka_TopicDescription_name(topic)) };
    let name = name.to_string_lossy().into_owned();
    // SAFETY: the caller's promise; `rd_kafka_error_code` takes null for no error.
    let code = unsafe { c::rd_kafka_error_code(c::rd_kafka_TopicDescription_error(topic)) };
    let answer = match code {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {
            let mut partitions = 0;
            // SAFETY: the caller's promise; only the count is taken.
            unsafe { c::rd_kafka_TopicDescription_partitions(topic, &raw mut partitions) };
            // SAFETY: the caller's promise; the id lies within the description.
            let id = unsafe { c::rd_kafka_TopicDescription_topic_id(topic) };
            let id = if id.is_null() {
                None
            } else {
                // SAFETY: not null, and alive as long as the description.
                let (most, least) = unsafe {
                    (
                        c::rd_kafka_Uuid_most_significant_bits(id),
                        c::rd_kafka_Uuid_least_significant_bits(id),
                    )
                };
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&most.to_be_bytes());
                bytes[8..].copy_from_slice(&least.to_be_bytes());
                TopicId::from_bytes(bytes)
            };
            match u32::try_from(partitions) {
                Ok(partitions) if partitions > 0 => Answer::Is(Described { id, partitions }),
                _ => Answer::Unknown,
            }
        }
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART => Answer::Missing,
        _ => Answer::Unknown,
    };
    (name, answer)
}
