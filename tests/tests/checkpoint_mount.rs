//! The checkpoint file as a separate mount, as `volumes: [./last_read_timestamp.json:/app/time_track/…]` makes it.

use std::fs;
use std::path::Path;
use std::process::Command;

use model::error::Code;
use mysql_async::prelude::Queryable;
use nix::unistd::geteuid;
use testbed::{TestBed, run};

const REASON: &str = "last_read_timestamp.json is mounted as a single file, so it cannot be replaced by a rename";
const REMEDY: &str = "mount the folder (producer.time_track), not the file";

/// The program in a new mount namespace, where `source` is mounted at `target`.
fn mounted(world: &TestBed, arguments: &[&str], source: &Path, target: &Path) -> Command {
    let program = world.command("cdc-producer", arguments);
    let mut command = Command::new("unshare");
    // Who is not root becomes it within a user namespace.
    command.args(if geteuid().is_root() { &["--mount"][..] } else { &["--mount", "--map-root-user"] });
    command.args(["sh", "-c", "mount --bind \"$0\" \"$1\" && shift && exec \"$@\""]).arg(source).arg(target);
    command.arg(program.get_program()).args(program.get_args()).current_dir(&world.folder).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap());
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_file_that_is_a_mount_of_its_own_is_named() {
    let world = TestBed::new("mounted");
    let mut conn = world.table().await;
    conn.query_drop("INSERT INTO product VALUES (1,'a','b',1,NULL)").await.unwrap();
    let folder = world.folder.join("time_track");
    fs::create_dir_all(&folder).unwrap();
    let (source, target) = (world.folder.join("host.json"), folder.join("last_read_timestamp.json"));
    fs::write(&target, "").unwrap();
    // Empty, as a person makes it for the mount; what a program wrote; what a person asks for.
    for text in ["", r#"{"last_read_timestamp": null}"#] {
        fs::write(&source, text).unwrap();
        for arguments in [&[][..], &["checkpoint", "reset"], &["checkpoint", "set", "2026-11-21T04:00:00Z"]] {
            let ended = run(mounted(&world, arguments, &source, &target));
            ended.assert_error(Code::CheckpointFileMounted, &[REASON, REMEDY]);
            assert!(!ended.err.contains("checkpoint reset"), "{arguments:?} {}", ended.err);
        }
        let doctor = run(mounted(&world, &["doctor"], &source, &target));
        assert_eq!(doctor.code, 1, "{}", doctor.out);
        assert!(doctor.out.contains(REASON) && doctor.out.contains(REMEDY), "{}", doctor.out);
        assert_eq!(fs::read_to_string(&source).unwrap(), text);
        assert!(!folder.join("last_read_timestamp.json.tmp").exists());
    }

    // The remedy: the folder is the mount.
    fs::remove_file(&target).unwrap();
    let host = world.folder.join("host");
    fs::create_dir_all(&host).unwrap();
    fs::write(host.join("last_read_timestamp.json"), r#"{"last_read_timestamp": null}"#).unwrap();
    let log = world.folder.join("cdc-producer.log");
    let producer = testbed::Running::start(mounted(&world, &[], &host, &folder), "cdc-producer", log);
    let _consumer = world.start("consumer", &[]);
    world.verify();
    assert_eq!(producer.stop().code, 0);
    let written = fs::read_to_string(host.join("last_read_timestamp.json")).unwrap();
    assert!(written.contains("\"epoch\": 1"), "{written}");
}
