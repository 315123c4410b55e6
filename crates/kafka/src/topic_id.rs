//! The id of a topic. Kafka draws it when it creates a topic (KIP-516), so a topic that was deleted and created again
//! under its name has another id, even if its offsets are the same.
#![allow(unsafe_code, reason = "the client library tells topic ids to C programs only")]

use std::ffi::{CStr, CString};
use std::ptr;

use rdkafka::bindings as c;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::client::{REQUEST_TIMEOUT, unreachable};
use super::read_back::LastRecords;
use model::error::{Error, Result};
use runtime::config::KafkaSettings;

/// The id of a topic, in Base64; `None` when there is no such topic, or when the broker is older than topic ids (2.8). Blocks.
///
/// # Errors
/// Transient when Kafka can't be reached; definite when it does not let this user see the topic.
pub fn topic_id(settings: &KafkaSettings, topic: &str) -> Result<Option<String>> {
    let records = LastRecords::new(settings)?;
    let id = records.topic_id(topic);
    records.close();
    id
}

impl LastRecords {
    /// As [`topic_id`].
    ///
    /// # Errors
    /// As [`topic_id`].
    pub fn topic_id(&self, topic: &str) -> Result<Option<String>> {
        use RDKafkaErrorCode::{UnknownTopic, UnknownTopicOrPartition, UnsupportedFeature, UnsupportedVersion};
        let name = CString::new(topic).map_err(|_| Error::usage(format!("{topic:?} is no name of a topic")))?;
        match describe(self.written.client().native_ptr(), &name) {
            Ok(id) => Ok(id),
            Err(UnknownTopic | UnknownTopicOrPartition | UnsupportedFeature | UnsupportedVersion) => Ok(None),
            Err(code) => {
                let what = format!("cannot look up the id of topic {topic}");
                Err(unreachable(&self.settings, &what, &KafkaError::AdminOp(code), &self.logging))
            }
        }
    }
}

/// Requests the description of one topic. The client must be alive.
fn describe(client: *mut c::rd_kafka_t, topic: &CStr) -> Result<Option<String>, RDKafkaErrorCode> {
    let patience = i32::try_from(REQUEST_TIMEOUT.as_millis()).unwrap_or(i32::MAX);
    let mut names = [topic.as_ptr()];
    let mut reason = [0; 256];
    // SAFETY: the client outlives the call, and so do the name and the buffer; each object that is made here is destroyed
    // once, after its last use. Without an answer in time the queue gives no event.
    unsafe {
        let queue = c::rd_kafka_queue_new(client);
        let options = c::rd_kafka_AdminOptions_new(client, c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        c::rd_kafka_AdminOptions_set_request_timeout(options, patience, reason.as_mut_ptr(), reason.len());
        let topics = c::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        c::rd_kafka_DescribeTopics(client, topics, options, queue);
        let event = c::rd_kafka_queue_poll(queue, patience.saturating_add(1_000));
        let id = if event.is_null() { Err(RDKafkaErrorCode::OperationTimedOut) } else { id_of(event) };
        if !event.is_null() {
            c::rd_kafka_event_destroy(event);
        }
        c::rd_kafka_TopicCollection_destroy(topics);
        c::rd_kafka_AdminOptions_destroy(options);
        c::rd_kafka_queue_destroy(queue);
        id
    }
}

/// The id of the one topic that the event describes.
///
/// # Safety
/// The event must be the result of a description, and alive.
unsafe fn id_of(event: *mut c::rd_kafka_event_t) -> Result<Option<String>, RDKafkaErrorCode> {
    // SAFETY: the pointers that the event returns belong to it; none of them is kept.
    unsafe {
        let failed = RDKafkaErrorCode::from(c::rd_kafka_event_error(event));
        if failed != RDKafkaErrorCode::NoError {
            return Err(failed);
        }
        let mut count = 0;
        let result = c::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err(RDKafkaErrorCode::Unknown);
        }
        let topics = c::rd_kafka_DescribeTopics_result_topics(result, ptr::from_mut(&mut count));
        if count == 0 {
            return Ok(None);
        }
        let error = c::rd_kafka_TopicDescription_error(*topics);
        let failed = RDKafkaErrorCode::from(c::rd_kafka_error_code(error));
        if !error.is_null() && failed != RDKafkaErrorCode::NoError {
            return Err(failed);
        }
        let id = c::rd_kafka_TopicDescription_topic_id(*topics);
        let is_zero =
            c::rd_kafka_Uuid_most_significant_bits(id) == 0 && c::rd_kafka_Uuid_least_significant_bits(id) == 0;
        let text = c::rd_kafka_Uuid_base64str(id);
        if is_zero || text.is_null() {
            return Ok(None);
        }
        Ok(Some(CStr::from_ptr(text).to_string_lossy().into_owned()))
    }
}
