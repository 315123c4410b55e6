//! Attacks by users with few rights: a user of MySQL with rights on another database, or only on the rows of the table;
//! a writer of the topic or of schemas; somebody who reaches a metrics port or the folder of CSV files.
//!
//! The users of MySQL are real ones with just these rights. The harness's Kafka and registry have no logins; the
//! attacker only writes there.

mod beside;
mod letters;
mod mysql;
mod topic;

/// The faults of this family.
pub(super) use beside::FAULTS as BESIDE;
pub(super) use mysql::FAULTS as MYSQL;
pub(super) use topic::FAULTS as TOPIC;
