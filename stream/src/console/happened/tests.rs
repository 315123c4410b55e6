use super::*;
use crate::fault::Fault;
use crate::status::{Answer, Partition, Producer, Table};

fn partition(number: usize, holder: Option<&str>) -> Partition {
    Partition::for_test(number, 10, holder)
}

fn consumer(name: &str, state: State) -> Consumer {
    Consumer::for_test(name, state)
}

fn status() -> Status {
    let (one, two) = ("consumer_1-aaaaaaaa", "consumer_2-aaaaaaaa");
    let mut status = Status::default();
    status.group = "g".to_owned();
    status.producer = Producer { holder: Some("process 1 on a".to_owned()), has_folder: true, metrics: None };
    status.tables = vec![Table {
        name: "shop.orders".to_owned(),
        topic: "orders".to_owned(),
        exists: true,
        partitions: vec![partition(0, Some(one)), partition(1, Some(one)), partition(2, Some(two))],
        ..Table::default()
    }];
    status.consumers = vec![consumer(one, State::Runs), consumer(two, State::Runs)];
    status.session_timeout = 45.0;
    status
}

fn shown(before: &Status, now: &Status) -> Vec<String> {
    let line = |event: Happened| {
        let level = serde_json::to_value(event.level).expect("a level");
        format!("{}: {} {}", level.as_str().expect("a text"), event.subject, event.text)
    };
    between(before, now).into_iter().map(line).collect()
}

#[test]
fn nothing_happens_between_equal_looks() {
    assert_eq!(shown(&status(), &status()), Vec::<String>::new());
}

#[test]
fn a_rebalance_is_told_by_who_gave_what_to_whom() {
    let (before, mut now) = (status(), status());
    now.consumers[0].state = State::Stopped;
    assert_eq!(shown(&before, &now), ["bad: consumer_1 has stopped; its partitions wait for it, 45 s at most"]);
    let stopped = now.clone();
    now.consumers.remove(0);
    now.tables[0].partitions[0].holder = Some("consumer_2-aaaaaaaa".to_owned());
    now.tables[0].partitions[1].holder = None;
    assert_eq!(
        shown(&stopped, &now),
        [
            ": consumer_1 has left the group",
            "warning: partition 1 went from consumer_1 to nobody",
            ": partition 0 went from consumer_1 to consumer_2",
        ]
    );
    let mut back = now.clone();
    back.consumers.push(consumer("consumer_1-aaaaaaaa", State::Joins));
    assert_eq!(shown(&now, &back), ["good: consumer_1 has started"]);
}

#[test]
fn a_fault_is_told_once_and_its_end_too() {
    let fault = |part: &str| Fault::new(part, &model::error::Error::transient("no answer"));
    let (before, mut now) = (status(), status());
    now.faults = vec![fault("Kafka"), fault("Kafka")];
    now.consumers.clear();
    assert_eq!(shown(&before, &now), ["bad: Kafka gives no answer: no answer"]);
    assert_eq!(shown(&now, &now.clone()), Vec::<String>::new());
    assert_eq!(shown(&now, &before), ["good: Kafka answers again"]);
    let refused = model::error::Error::new(model::error::Code::RightMissing, "no right");
    now.faults = vec![Fault::new("Kafka", &refused)];
    assert_eq!(shown(&before, &now), ["bad: Kafka refuses: no right"]);
}

#[test]
fn a_consumer_that_gives_no_answer_is_told_once() {
    let (before, mut now) = (status(), status());
    now.consumers[0].is_silent = true;
    assert_eq!(shown(&before, &now), ["bad: consumer_1 gives no answer at /metrics: it may have stopped, or hang"]);
    assert_eq!(shown(&now, &now.clone()), Vec::<String>::new());
    let mut again = before.clone();
    again.consumers[0].metrics = Some(Answer { is_ready: true, ..Answer::default() });
    assert_eq!(shown(&now, &again), ["good: consumer_1 answers again"]);
}

#[test]
fn stops_replays_and_dead_letters_are_told() {
    let (before, mut now) = (status(), status());
    now.producer.holder = None;
    now.tables[0].dead_letters = 1;
    assert_eq!(shown(&before, &now), ["bad: cdc-producer has stopped", "warning: orders 1 new dead letter"]);
    let answer = |is_ready: bool, aborts: u64| {
        let reason = (!is_ready).then(|| "Kafka has not answered for 11 s".to_owned());
        let mut answer = Answer::default();
        (answer.is_ready, answer.reason, answer.aborts) = (is_ready, reason, aborts);
        Some(answer)
    };
    let (mut then, mut now) = (status(), status());
    (then.producer.metrics, now.producer.metrics) = (answer(true, 1), answer(false, 3));
    assert_eq!(
        shown(&then, &now),
        [
            "warning: cdc-producer is not ready: Kafka has not answered for 11 s",
            "warning: cdc-producer aborted 2 Kafka transactions; the records are processed again",
        ]
    );
}
