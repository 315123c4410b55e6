//! Asks the broker for this user's rights (KIP-430), without using any of them.
#![allow(unsafe_code, reason = "the client library tells rights to C programs only")]

use std::ffi::{CStr, CString};
use std::fmt;
use std::ptr;
use std::time::{Duration, Instant};

use rdkafka::bindings as c;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::client::{REQUEST_TIMEOUT, unreachable};
use super::read_back::LastRecords;
use model::error::{Error, Result};
use runtime::config::KafkaSettings;

/// How often to ask a broker again that does not know the group's coordinator yet.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The resource of a right, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A topic.
    Topic(String),
    /// A consumer group.
    Group(String),
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(name) => write!(f, "topic {name}"),
            Self::Group(name) => write!(f, "group {name}"),
        }
    }
}

/// What a right allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// `Read`.
    Read,
    /// `Write`.
    Write,
}

impl Right {
    /// Its name in an ACL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "READ",
            Self::Write => "WRITE",
        }
    }

    fn of(operation: c::rd_kafka_AclOperation_t) -> Option<Self> {
        match operation {
            c::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_READ => Some(Self::Read),
            c::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_WRITE => Some(Self::Write),
            _ => None,
        }
    }
}

/// The rights of this user on a resource; `None` when the broker does not report them (before Kafka 2.3). Blocks.
///
/// # Errors
/// Transient when Kafka can't be reached; usage when the name is invalid.
pub fn rights(settings: &KafkaSettings, resource: &Resource) -> Result<Option<Vec<Right>>> {
    use RDKafkaErrorCode::{
        CoordinatorLoadInProgress, CoordinatorNotAvailable, GroupAuthorizationFailed, NotCoordinator,
        TopicAuthorizationFailed, UnsupportedFeature, UnsupportedVersion,
    };
    let (Resource::Topic(name) | Resource::Group(name)) = resource;
    let name = CString::new(name.as_str()).map_err(|_| Error::usage(format!("{name:?} is no name at Kafka")))?;
    let records = LastRecords::new(settings)?;
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    let told = loop {
        break match describe(records.written.client().native_ptr(), resource, &name) {
            // A broker has just started, or creates its first group.
            Err(NotCoordinator | CoordinatorNotAvailable | CoordinatorLoadInProgress) if Instant::now() < deadline => {
                std::thread::sleep(LOOK_EVERY);
                continue;
            }
            Ok(told) => Ok(told),
            Err(TopicAuthorizationFailed | GroupAuthorizationFailed) => Ok(Some(Vec::new())),
            Err(UnsupportedFeature | UnsupportedVersion) => Ok(None),
            Err(code) => {
                let what = format!("cannot look up this user's rights on {resource}");
                Err(unreachable(settings, &what, &KafkaError::AdminOp(code), &records.logging))
            }
        };
    };
    records.close();
    told
}

/// Requests the description of the resource, with this user's rights. The client must be alive.
fn describe(
    client: *mut c::rd_kafka_t,
    resource: &Resource,
    name: &CStr,
) -> Result<Option<Vec<Right>>, RDKafkaErrorCode> {
    use c::rd_kafka_admin_op_t::{RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS, RD_KAFKA_ADMIN_OP_DESCRIBETOPICS};
    let patience = i32::try_from(REQUEST_TIMEOUT.as_millis()).unwrap_or(i32::MAX);
    let mut names = [name.as_ptr()];
    let mut reason = [0; 256];
    let is_topic = matches!(resource, Resource::Topic(_));
    let operation = if is_topic { RD_KAFKA_ADMIN_OP_DESCRIBETOPICS } else { RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS };
    // SAFETY: the client outlives the call, and so do the name and the buffer; each object that is made here is destroyed
    // once, after its last use. Without an answer in time the queue gives no event.
    unsafe {
        let queue = c::rd_kafka_queue_new(client);
        let options = c::rd_kafka_AdminOptions_new(client, operation);
        c::rd_kafka_AdminOptions_set_request_timeout(options, patience, reason.as_mut_ptr(), reason.len());
        let refused = c::rd_kafka_AdminOptions_set_include_authorized_operations(options, 1);
        if !refused.is_null() {
            c::rd_kafka_error_destroy(refused);
        }
        if is_topic {
            let topics = c::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
            c::rd_kafka_DescribeTopics(client, topics, options, queue);
            c::rd_kafka_TopicCollection_destroy(topics);
        } else {
            c::rd_kafka_DescribeConsumerGroups(client, names.as_mut_ptr(), names.len(), options, queue);
        }
        let event = c::rd_kafka_queue_poll(queue, patience.saturating_add(1_000));
        let told = if event.is_null() { Err(RDKafkaErrorCode::OperationTimedOut) } else { rights_of(event, is_topic) };
        if !event.is_null() {
            c::rd_kafka_event_destroy(event);
        }
        c::rd_kafka_AdminOptions_destroy(options);
        c::rd_kafka_queue_destroy(queue);
        told
    }
}

/// The rights on the one topic or group that the event describes.
///
/// # Safety
/// The event must be the result of a description, and alive.
unsafe fn rights_of(event: *mut c::rd_kafka_event_t, is_topic: bool) -> Result<Option<Vec<Right>>, RDKafkaErrorCode> {
    // SAFETY: the pointers that the event returns belong to it; none of them is kept.
    unsafe {
        failed(c::rd_kafka_event_error(event))?;
        let (mut found, mut count) = (0, 0);
        let operations = if is_topic {
            let result = c::rd_kafka_event_DescribeTopics_result(event);
            let topics = c::rd_kafka_DescribeTopics_result_topics(result, ptr::from_mut(&mut found));
            if found == 0 {
                return Ok(None);
            }
            failed(c::rd_kafka_error_code(c::rd_kafka_TopicDescription_error(*topics)))?;
            c::rd_kafka_TopicDescription_authorized_operations(*topics, ptr::from_mut(&mut count))
        } else {
            let result = c::rd_kafka_event_DescribeConsumerGroups_result(event);
            let groups = c::rd_kafka_DescribeConsumerGroups_result_groups(result, ptr::from_mut(&mut found));
            if found == 0 {
                return Ok(None);
            }
            failed(c::rd_kafka_error_code(c::rd_kafka_ConsumerGroupDescription_error(*groups)))?;
            c::rd_kafka_ConsumerGroupDescription_authorized_operations(*groups, ptr::from_mut(&mut count))
        };
        if operations.is_null() {
            return Ok(None);
        }
        Ok(Some(std::slice::from_raw_parts(operations, count).iter().filter_map(|o| Right::of(*o)).collect()))
    }
}

fn failed(code: c::rd_kafka_resp_err_t) -> Result<(), RDKafkaErrorCode> {
    match RDKafkaErrorCode::from(code) {
        RDKafkaErrorCode::NoError => Ok(()),
        code => Err(code),
    }
}
