//! The commit protocols as small models, every state of which is explored.
//!
//! Each model has the steps that its program takes between two durable effects, and whatever may come in between: crashes,
//! processes that stand still and wake up later, requests that arrive late. Its properties are the promise: nothing lost,
//! nothing twice, nothing out of order. Each guard of the protocol can be taken out by a parameter (`Without`); a test then
//! asserts that the checker finds out how the promise breaks, and prints the steps.
//!
//! Every run of a model comes to an end, as faults are bounded and each other step is progress. So "where nothing more can
//! happen, everything is done" says that each run ends well.
//!
//! The bounds are constants at the head of each model. What the models leave out: time, the content of records, more than
//! two processes, and Kafka's own replication.

mod check;
mod checkpoint;
mod consumer;
mod producer;
mod progress;
mod snapshot;
