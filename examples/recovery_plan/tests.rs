//! A plan of ten machines in three groups, whose process is killed in the middle. This program is the
//! test and, when it is told so, the example, so that there is a process to kill.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};

use afterimage::block::{BlockWrite, Length, Offset, RawDisk};
use afterimage::{Key, MachineName, Notice, Protection, Role, Store, status};

const AS_EXAMPLE: &str = "as-example";
const MACHINES: usize = 10;
/// The options for encrypted replicas.
const KEY: &str = " --key-file key";

const PLAN: &str = r#"
name = "shop"

[[group]]
name = "databases"
machines = ["m0", "m1", "m2"]
after = [{ pause = { message = "look at the databases" } }]

[[group]]
name = "services"
before = [{ command = { argv = ["sh", "-c", "echo up >> COMMANDS"], limit_secs = 60 } }]
machines = ["m3", "m4", "m5", "m6"]

[[group]]
name = "web"
machines = ["m7", "m8", "m9"]
after = [{ command = { argv = ["sh", "-c", "echo over >> COMMANDS"], limit_secs = 60 } }]
"#;

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next();
    if std::env::args().nth(1).as_deref() == Some(AS_EXAMPLE) {
        return examples::recovery_plan::run(name.into_iter().chain(arguments.skip(1))).await;
    }
    let folder = tempfile::tempdir().unwrap();
    protect(folder.path(), 0..MACHINES, None).await;
    a_test_is_cleaned_up(folder.path(), "");
    a_plan_survives_a_kill(folder.path());
    a_plan_is_committed_and_reversed(folder.path()).await;
    encrypted_replicas_need_their_key().await;
    what_is_lost_unplanned_is_told().await;
    what_is_wrong_is_refused(folder.path());
    ExitCode::SUCCESS
}

/// What the disk of machine `number` holds.
fn content(number: usize) -> Vec<u8> {
    let byte = u8::try_from(number).unwrap();
    vec![byte + 1; 64 << 10]
}

fn name(number: usize) -> MachineName {
    format!("m{number}").parse().unwrap()
}

/// Machines with one disk each, replicated up to the last write.
async fn protect(folder: &Path, machines: std::ops::Range<usize>, key: Option<Key>) {
    let url = folder.join("replicas").display().to_string();
    for number in machines {
        let home = folder.join(format!("home-{number}"));
        fs::create_dir(&home).unwrap();
        let disk = home.join("root.raw");
        drop(RawDisk::create(&disk, Length::mib(1)).unwrap());
        let protection = Protection::new(name(number), vec![disk], &url).key(key.clone());
        let (machine, mut notices) = protection.start().await.unwrap();
        machine.disks()[0]
            .write_at(Offset::new(4096), &content(number))
            .unwrap();
        while !matches!(notices.recv().await.unwrap(), Notice::RecoveryPoint { .. }) {}
        assert!(machine.stop().await.unwrap());
    }
}

/// The example with these arguments, in `folder`.
fn example(folder: &Path, arguments: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.current_dir(folder).arg(AS_EXAMPLE);
    for word in arguments.split(' ') {
        command.arg(word);
    }
    command
}

fn ends_with(folder: &Path, arguments: &str, code: i32) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = example(folder, arguments).output().unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), Some(code), "{arguments}: {text}");
    text
}

fn assert_whole(folder: &Path, machines: std::ops::Range<usize>) {
    for number in machines {
        let image = fs::read(folder.join(format!("out/m{number}/root.raw"))).unwrap();
        assert_eq!(image.len(), 1 << 20);
        assert!(image[4096..].starts_with(&content(number)), "another disk");
        assert!(
            image[..4096]
                .iter()
                .chain(&image[4096 + (64 << 10)..])
                .all(|byte| *byte == 0)
        );
    }
}

fn a_plan_survives_a_kill(folder: &Path) {
    fs::write(folder.join("shop.toml"), PLAN).unwrap();
    ends_with(folder, "validate shop.toml --replica replicas", 0);

    // Killed when the first machine is over; where the others are then is left to chance.
    let run = "run shop.toml --replica replicas --out out --kind planned";
    let mut process = example(folder, run).stdout(Stdio::piped()).spawn().unwrap();
    let first = BufReader::new(process.stdout.take().unwrap())
        .lines()
        .next();
    assert!(first.unwrap().unwrap().contains("done in"));
    process.kill().unwrap();
    process.wait().unwrap();

    assert!(ends_with(folder, run, 1).contains("is there already"));
    let waits = ends_with(folder, "resume shop.toml", 3);
    assert!(
        waits.contains("look at the databases: `resume --done 3`"),
        "{waits}"
    );
    assert_whole(folder, 0..3);
    assert!(!folder.join("out/m3").exists() && !folder.join("COMMANDS").exists());
    // A pause is not taken for done because a process ended.
    ends_with(folder, "resume shop.toml", 3);
    assert!(ends_with(folder, "resume shop.toml --done 0", 1).contains("not under way"));
    assert!(ends_with(folder, "report shop.toml", 0).contains("not over"));

    ends_with(folder, "resume shop.toml --done 3", 0);
    assert_whole(folder, 0..MACHINES);
    assert_eq!(
        fs::read_to_string(folder.join("COMMANDS")).unwrap(),
        "up\nover\n"
    );
    let report = ends_with(folder, "report shop.toml", 0);
    assert_eq!(report.matches("done in").count(), 13, "{report}");
    assert!(report.contains("the run is over"));
    // A planned failover loses nothing, also one that the kill cut short.
    assert_eq!(report.matches(", RPO 0s").count(), MACHINES, "{report}");
}

/// What the plan above failed over.
async fn a_plan_is_committed_and_reversed(folder: &Path) {
    let reverse = "run shop.toml --replica replicas --out out --kind reverse";
    let refused = ends_with(folder, reverse, 1);
    assert!(
        refused.contains("m0: its failover is not committed"),
        "{refused}"
    );
    ends_with(folder, "commit shop.toml", 0);
    ends_with(folder, "commit shop.toml", 0);
    assert!(ends_with(folder, "cancel shop.toml", 1).contains("is committed"));

    fs::remove_file(folder.join("COMMANDS")).unwrap();
    ends_with(folder, reverse, 3);
    ends_with(folder, "resume shop.toml --done 3", 0);
    assert!(ends_with(folder, "commit shop.toml", 1).contains("no failover, but reverse"));
    let url = folder.join("replicas").display().to_string();
    let disk = folder.join("out/m9/root.raw");
    let protection = Protection::new(name(9), vec![disk], &url).reverse();
    let (machine, mut notices) = protection.start().await.unwrap();
    machine.disks()[0]
        .write_at(Offset::ZERO, b"over there")
        .unwrap();
    while !matches!(notices.recv().await.unwrap(), Notice::RecoveryPoint { .. }) {}
    assert!(machine.stop().await.unwrap());
    let store = Store::open_existing(&url).await.unwrap();
    let shown = |number| {
        let replica = store.replica(name(number));
        async move {
            status(&replica, afterimage::Clock::timestamp())
                .await
                .unwrap()
                .role
        }
    };
    assert!(matches!(shown(9).await, Role::PreparedForFailover { .. }));
    for number in 0..9 {
        assert!(matches!(shown(number).await, Role::Reversed { .. }));
    }
}

async fn encrypted_replicas_need_their_key() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("key"), "07".repeat(32)).unwrap();
    let key = Key::from_file(&folder.join("key")).unwrap();
    protect(folder, 3..5, Some(key)).await;
    a_test_is_cleaned_up(folder, KEY);
    let without = ends_with(folder, "validate test.toml --replica replicas", 1);
    assert!(
        without.contains("m3") && without.contains("encrypted"),
        "{without}"
    );
    let run = format!("run test.toml --replica replicas --out out --kind planned{KEY}");
    ends_with(folder, &run, 0);
    ends_with(folder, "cancel test.toml", 0);
    ends_with(folder, "cancel test.toml", 0);
    fs::remove_dir_all(folder.join("out")).unwrap();
    // The claim that followed is taken back with the failover: the primary's last delta is not known as such.
    let forced = format!("run test.toml --replica replicas --out out --force{KEY}");
    ends_with(folder, &forced, 0);
    ends_with(folder, "commit test.toml", 0);
    assert_whole(folder, 3..5);
    let reverse = format!("run test.toml --replica replicas --out out --kind reverse{KEY}");
    ends_with(folder, &reverse, 0);
}

/// Of a primary that is lost nobody knows what it wrote after its last report, and nobody has the disks that
/// were not replicated.
async fn what_is_lost_unplanned_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let url = folder.join("replicas").display().to_string();
    let disk = folder.join("root.raw");
    drop(RawDisk::create(&disk, Length::mib(1)).unwrap());
    let swap = folder.join("swap.raw");
    drop(RawDisk::create(&swap, Length::mib(2)).unwrap());
    let (machine, mut notices) = Protection::new(name(0), vec![disk], &url)
        .exclude(vec![swap])
        .start()
        .await
        .unwrap();
    while !matches!(notices.recv().await.unwrap(), Notice::RecoveryPoint { .. }) {}
    drop(machine);
    let plan = "name = \"one\"\n[[group]]\nname = \"all\"\nmachines = [\"m0\"]\n";
    fs::write(folder.join("one.toml"), plan).unwrap();
    let run = "run one.toml --replica replicas --out out";
    let alive = ends_with(folder, run, 1);
    assert!(alive.contains("may be alive"), "{alive}");
    ends_with(folder, &format!("{run} --force"), 0);
    let report = ends_with(folder, "report one.toml", 0);
    assert!(
        report.contains("what it wrote after that is not known"),
        "{report}"
    );
    let missing = "MISSING: disk swap of 2 MiB";
    assert!(report.contains(missing), "{report}");
    let validated = ends_with(folder, "validate one.toml --replica replicas", 0);
    assert!(validated.contains(missing), "{validated}");
}

/// Two machines, with these options of `test`.
fn a_test_is_cleaned_up(folder: &Path, options: &str) {
    let plan = "name = \"test\"\n[[group]]\nname = \"all\"\nmachines = [\"m3\", \"m4\"]\n";
    fs::write(folder.join("test.toml"), plan).unwrap();
    let test = &format!("test test.toml --replica replicas --out test{options}");
    ends_with(folder, test, 0);
    let image = folder.join("test/m3/root.raw");
    assert!(image.exists());
    let second = format!("test test.toml --replica replicas --out other{options}");
    let second = ends_with(folder, &second, 1);
    assert!(second.contains("is not cleaned up"), "{second}");
    ends_with(folder, "clean-up test.toml --failed --notes late", 0);
    assert!(!folder.join("test").exists());
    ends_with(folder, test, 0);
    assert!(image.exists());
    ends_with(folder, "clean-up test.toml", 0);
}

fn what_is_wrong_is_refused(folder: &Path) {
    assert!(ends_with(folder, "report other.toml", 1).contains("was not run"));
    ends_with(folder, "run other.toml", 2);
    fs::write(folder.join("other.toml"), PLAN.replace("m9", "nobody")).unwrap();
    let refused = ends_with(folder, "test other.toml --replica replicas --out test", 1);
    assert!(refused.contains("machine nobody is not in the store"));

    // A damaged run is not gone on with.
    fs::write(folder.join("shop.toml.run"), "{}").unwrap();
    assert!(ends_with(folder, "resume shop.toml", 1).contains("shop.toml.run"));
}
