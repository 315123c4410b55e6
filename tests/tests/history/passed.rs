//! Transactions that stand behind the position and are in its set: read before, and passed over.

use model::position::{Position, Progress, SnapshotProgress, TableProgress};
use testbed::{eventually, read_topic};

use super::{PATIENCE, commit, publish, run, scene, start, wait_for_price};

/// On an idle server only a heartbeat tells that the last one of them has ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_ends_what_is_passed_over() {
    for in_snapshot in [false, true] {
        let (mut world, _mysql, mut conn) = scene("passed", &[]).await;
        world.set("PRODUCER_HEARTBEAT", "500ms");
        publish(&world);
        let before = world.progress();
        run(&mut conn, &["UPDATE product SET price = 60 WHERE id = 1"]).await;
        let producer = start(&world);
        wait_for_price(&world, 1, "60.00");
        assert_eq!(producer.stop().code, 0);
        let after = world.progress();
        assert!(before.position.offset < after.position.offset);
        let position = Position { gtid_set: after.position.gtid_set.clone(), ..before.position };
        let snapshot = SnapshotProgress { after: None, first: 0, rows: 0, begin: None, sweep: None };
        let main = TableProgress { snapshot: in_snapshot.then_some(snapshot), ..after.main.clone() };
        commit(&world, &Progress { position, main, ..after.clone() });
        let mut producer = start(&world);
        eventually("the position is behind it", PATIENCE, || {
            let position = world.progress().position;
            ((position.offset, position.anchor) == (after.position.offset, after.position.anchor.clone())).then_some(())
        });
        if in_snapshot {
            producer.wait_for("snapshot complete");
        }
        assert_eq!(read_topic(&world.kafka()).len(), if in_snapshot { 41 } else { 21 });
        world.assert_whole(producer);
    }
}
