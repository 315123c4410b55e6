use super::*;

fn slots(count: u32) -> (tempfile::TempDir, Slots) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let slots = Slots::open(&dir.path().join("logs"), count).expect("slots");
    (dir, slots)
}

#[test]
fn the_slots_are_there_from_the_start_with_empty_logs() {
    let (_dir, slots) = slots(5);
    assert_eq!(slots.ids().expect("ids"), (1..=5).map(SlotId).collect::<Vec<_>>());
    for id in slots.ids().expect("ids") {
        let log = slots.folder(id).join(LOG_NAME);
        assert_eq!(fs::metadata(&log).expect("a log").len(), 0, "{}", log.display());
    }
}

#[test]
fn each_claim_takes_the_first_free_one_and_goes_past_the_configured_count() {
    let (_dir, slots) = slots(2);
    let claim = || slots.claim().expect("a slot");
    let (a, b, c) = (claim(), claim(), claim());
    assert_eq!([a.id(), b.id(), c.id()], [SlotId(1), SlotId(2), SlotId(3)]);
    assert!(slots.take(SlotId(2)).expect("no error").is_none());
    drop(b);
    assert_eq!(claim().id(), SlotId(2));
    assert!(slots.folder(SlotId(3)).join(LOG_NAME).exists());
}

#[test]
fn only_what_a_gone_consumer_left_is_settled_and_only_once() {
    let (_dir, slots) = slots(4);
    let (held, gone) = (slots.claim().expect("a slot"), slots.claim().expect("a slot"));
    drop(gone);
    let recover = |outcome: fn() -> Result<()>| {
        let mut seen = Vec::new();
        let result = slots.recover_abandoned(&mut |slot| {
            seen.push(slot.id().0);
            outcome()
        });
        (seen, result.is_ok())
    };
    assert_eq!(recover(|| Err(Error::transient("down"))), (vec![2], false));
    assert_eq!(recover(|| Ok(())), (vec![2], true));
    assert_eq!(recover(|| Ok(())), (vec![], true));
    drop(held);
    assert_eq!(recover(|| Ok(())), (vec![1], true));
}

#[test]
fn a_newcomer_waits_for_a_neighbour_that_settles() {
    let (_dir, slots) = slots(1);
    drop(slots.claim().expect("a slot"));
    let recovering = slots.take_abandoned(SlotId(1)).expect("no error").expect("it is free");
    std::thread::scope(|s| {
        let newcomer = s.spawn(|| slots.claim().expect("a slot").id());
        // Long enough that it would have claimed the next slot if it did not wait.
        std::thread::sleep(Duration::from_millis(150));
        assert!(!newcomer.is_finished());
        drop(recovering);
        assert_eq!(newcomer.join().expect("no panic"), SlotId(1));
    });
}

#[test]
fn a_look_makes_no_file_and_keeps_nobody_from_a_slot() {
    let (_dir, slots) = slots(2);
    let files = || fs::read_dir(slots.folder(SlotId(1))).expect("a folder").count();
    assert!(slots.look(SlotId(1)).expect("no error").is_some());
    assert_eq!(files(), 1, "the log alone");
    drop(slots.claim().expect("a slot"));
    std::thread::scope(|s| {
        let claims = s.spawn(|| (0..300).map(|_| slots.claim().expect("a slot").id()).collect::<Vec<_>>());
        while !claims.is_finished() {
            slots.look(SlotId(1)).expect("no error");
        }
        assert_eq!(claims.join().expect("no panic"), [SlotId(1); 300]);
    });
    let held = slots.claim().expect("a slot");
    assert!(slots.look(held.id()).expect("no error").is_none());
}
