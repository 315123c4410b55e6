//! The member of a consumer group as librdkafka knows it.

#![allow(unsafe_code, reason = "librdkafka's functions take pointers, and rdkafka shows none of these values")]

use std::ffi::{CStr, c_char};

use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};

use crate::wire::requests::GroupMember;

/// The consumer's group, member and generation now; `None` before it has joined.
pub fn group_member<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<GroupMember> {
    // SAFETY: the client lives as long as the consumer, which is borrowed.
    let metadata = unsafe { native::rd_kafka_consumer_group_metadata(consumer.client().native_ptr()) };
    if metadata.is_null() {
        return None;
    }
    // SAFETY: the four functions read from the metadata, which is valid until it is destroyed below; the texts are
    // copied before.
    let member = unsafe {
        GroupMember {
            group: text(native::rd_kafka_consumer_group_metadata_group_id(metadata)).unwrap_or_default(),
            generation: native::rd_kafka_consumer_group_metadata_generation_id(metadata),
            member: text(native::rd_kafka_consumer_group_metadata_member_id(metadata)).unwrap_or_default(),
            instance: text(native::rd_kafka_consumer_group_metadata_group_instance_id(metadata)),
        }
    };
    // SAFETY: it is ours, and nothing refers to it any more.
    unsafe { native::rd_kafka_consumer_group_metadata_destroy(metadata) };
    Some(member)
}

/// # Safety
/// `text` is null or a C string.
unsafe fn text(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: by the contract of this function.
    Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}
