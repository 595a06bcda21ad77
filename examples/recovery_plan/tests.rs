//! A plan of ten machines in three groups, whose process is killed in the middle. This program is the
//! test and, when it is told so, the example, so that there is a process to kill.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};

use afterimage::block::{BlockWrite, Length, Offset, RawDisk};
use afterimage::{Notice, Protection};

const AS_EXAMPLE: &str = "as-example";
const MACHINES: usize = 10;

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
    protect(folder.path()).await;
    a_test_is_cleaned_up(folder.path());
    a_plan_survives_a_kill(folder.path());
    what_is_wrong_is_refused(folder.path());
    ExitCode::SUCCESS
}

/// What the disk of machine `number` holds.
fn content(number: usize) -> Vec<u8> {
    let byte = u8::try_from(number).unwrap();
    vec![byte + 1; 64 << 10]
}

/// Ten machines with one disk each, replicated up to the last write.
async fn protect(folder: &Path) {
    let url = folder.join("replicas").display().to_string();
    for number in 0..MACHINES {
        let home = folder.join(format!("home-{number}"));
        fs::create_dir(&home).unwrap();
        let disk = home.join("root.raw");
        drop(RawDisk::create(&disk, Length::mib(1)).unwrap());
        let name = format!("m{number}").parse().unwrap();
        let protection = Protection::new(name, vec![disk], &url);
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
    // Of those that the kill did not cut short: a planned failover loses nothing.
    assert!(report.matches(", RPO 0s").count() >= 7, "{report}");
}

fn a_test_is_cleaned_up(folder: &Path) {
    let plan = "name = \"test\"\n[[group]]\nname = \"all\"\nmachines = [\"m3\", \"m4\"]\n";
    fs::write(folder.join("test.toml"), plan).unwrap();
    let test = "test test.toml --replica replicas --out test";
    ends_with(folder, test, 0);
    let image = folder.join("test/m3/root.raw");
    assert!(image.exists());
    let second = ends_with(folder, "test test.toml --replica replicas --out other", 1);
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
