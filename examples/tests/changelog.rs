//! The example `changelog`, from its arguments to its exit codes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use examples::changelog::{Exit, run};

const SIZE: usize = 64 << 10;
const TRACE: &str = "
# A guest's morning.
write 512 after-image
fill 4KiB 4KiB 171
zero 6KiB 1KiB
discard 32KiB 4KiB
fill 4KiB 512 5
bookmark before the upgrade
";

/// A folder with a disk, and the log of a trace that was replayed on it.
struct Fixture(tempfile::TempDir);

impl Fixture {
    fn new() -> Self {
        let fixture = Self(tempfile::tempdir().unwrap());
        std::fs::write(fixture.path("disk"), vec![0xEE; SIZE]).unwrap();
        std::fs::write(fixture.path("trace"), TRACE).unwrap();
        fixture.good("record --disk @disk --from @trace --out @log");
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Runs a command in which `@name` is a file of the folder; its exit and all that it printed.
    fn run(&self, command: &str) -> (Exit, String) {
        let words = command
            .split_whitespace()
            .map(|word| match word.strip_prefix('@') {
                Some(name) => self.path(name).into_os_string(),
                None => word.into(),
            });
        let arguments = std::iter::once("changelog".into()).chain(words);
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let exit = run(arguments, &mut out, &mut errors);
        match exit {
            Exit::Good => assert!(errors.is_empty()),
            Exit::Damaged => {}
            Exit::Usage => assert!(!errors.is_empty(), "{command} says nothing"),
        }
        out.extend(errors);
        (exit, String::from_utf8(out).unwrap())
    }

    fn good(&self, command: &str) -> String {
        let (exit, out) = self.run(command);
        assert_eq!(exit, Exit::Good, "{command}: {out}");
        out
    }

    /// Turns a bit of the data of the first write over.
    fn damage(&self, name: &str) {
        let mut bytes = self.bytes(name);
        let at = bytes.windows(5).position(|part| part == b"after").unwrap();
        bytes[at] ^= 1;
        std::fs::write(self.path(name), bytes).unwrap();
    }
}

#[test]
fn a_recorded_log_is_sound_and_does_to_another_disk_what_was_done() {
    let fixture = Fixture::new();
    fixture.good("verify @log");
    std::fs::write(fixture.path("copy"), vec![0xEE; SIZE]).unwrap();
    fixture.good("apply @log --to @copy --undo @undo");
    assert!(fixture.bytes("copy") == fixture.bytes("disk"));
    assert_eq!(&fixture.bytes("copy")[512..523], b"after-image");
    fixture.good("apply @undo --to @copy");
    assert!(fixture.bytes("copy") == vec![0xEE; SIZE]);
}

#[test]
fn either_format_is_inspected_and_converted() {
    let fixture = Fixture::new();
    let text = fixture.good("inspect @log --records");
    for shown in [
        "native, version 1",
        "before the upgrade",
        "overwrite ratio",
        "64 KiB",
        "sound",
    ] {
        assert!(text.contains(shown), "{shown}: {text}");
    }
    fixture.good("convert @log --to hrl --out @hrl");
    let json = fixture.good("inspect @hrl --json");
    let shown: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(shown["header"]["format"], "HRL, version 2");
    assert_eq!(
        (&shown["writes"], &shown["sound"]),
        (&5.into(), &true.into())
    );
    assert_eq!(shown["distinct_bytes"], 11 + 4096 + 4096);
    fixture.good("convert @hrl --to native --out @native --disk-size 64KiB");
    std::fs::write(fixture.path("copy"), vec![0xEE; SIZE]).unwrap();
    fixture.good("apply @native --to @copy");
    assert!(fixture.bytes("copy") == fixture.bytes("disk"));
}

#[test]
fn damage_is_found_and_salvaged_around_in_either_format() {
    let fixture = Fixture::new();
    fixture.good("convert @log --to hrl --out @hrl");
    for (name, unknown) in [("log", "11 B"), ("hrl", "11 B")] {
        fixture.damage(name);
        for command in ["verify", "inspect", "inspect --json"] {
            let (exit, out) = fixture.run(&format!("{command} @{name}"));
            assert_eq!(exit, Exit::Damaged, "{command}: {out}");
            // Which file, where in it, and what is wrong there.
            assert!(out.contains(name) && out.contains("at byte "), "{out}");
            assert_eq!(out.matches("does not match").count(), 1, "{out}");
        }
        let (exit, out) = fixture.run(&format!("salvage @{name} --out @{name}.new"));
        assert_eq!(exit, Exit::Damaged);
        assert!(out.contains(unknown), "{out}");
        fixture.good(&format!("verify @{name}.new"));
        let (exit, _) = fixture.run(&format!("apply @{name} --to @disk"));
        assert_eq!(exit, Exit::Damaged);
    }
}

#[test]
fn logs_are_merged_only_where_they_follow_each_other() {
    let fixture = Fixture::new();
    let out = fixture.good("merge @log --out @merged");
    assert!(out.ends_with(": 6 records\n"), "{out}");
    fixture.good("verify @merged @log");
    assert_eq!(fixture.run("merge @log @log --out @twice").0, Exit::Usage);
    assert!(!fixture.path("twice").exists());
}

/// Two logs of one chain, native and as HRL, and a disk as it was before them.
fn two_generations() -> (Fixture, [&'static str; 2]) {
    use afterimage_changelog::{FileWriter, LogHeader, SealedLog, WriterOptions};
    let fixture = Fixture::new();
    let first = SealedLog::open(&fixture.path("log")).unwrap();
    let header = LogHeader {
        first: first.header().first.next(),
        last: first.header().last.next(),
        ..*first.header()
    };
    let options = WriterOptions::default();
    let mut log = FileWriter::create(&fixture.path("log2"), header, options).unwrap();
    let (offset, data) = (afterimage_block::Offset::new(600), &[3; 6000][..]);
    let change = afterimage_block::Change::Write { offset, data };
    log.append(change, afterimage_block::Timestamp::default())
        .unwrap();
    log.seal(first.summary().content).unwrap();
    std::fs::write(fixture.path("copy"), vec![0xEE; SIZE]).unwrap();
    (fixture, ["apply @log @log2", "merge @log @log2"])
}

#[test]
fn several_logs_are_taken_back_at_once() {
    let (fixture, [apply, merge]) = two_generations();
    fixture.good(&format!("{apply} --to @copy --undo @undo"));
    let applied = fixture.bytes("copy");
    assert_eq!(applied[600..6600], [3; 6000]);
    fixture.good("verify @undo");
    fixture.good("apply @undo --to @copy");
    assert!(fixture.bytes("copy") == vec![0xEE; SIZE]);
    fixture.good(&format!("{merge} --out @merged"));
    fixture.good("apply @merged --to @copy");
    assert!(fixture.bytes("copy") == applied);
}

#[test]
fn logs_that_follow_each_other_do_so_in_the_other_format_and_back() {
    let (fixture, [apply, _]) = two_generations();
    fixture.good(&format!("{apply} --to @copy"));
    for name in ["log", "log2"] {
        fixture.good(&format!("convert @{name} --to hrl --out @{name}.hrl"));
        fixture.good(&format!("convert @{name}.hrl --to hrl --out @{name}.again"));
    }
    for (first, second) in [("log.hrl", "log2.hrl"), ("log.again", "log2.again")] {
        fixture.good(&format!("merge @{first} @{second} --out @{first}.merged"));
        std::fs::write(fixture.path("other"), vec![0xEE; SIZE]).unwrap();
        fixture.good(&format!("apply @{first}.merged --to @other"));
        assert!(fixture.bytes("other") == fixture.bytes("copy"));
    }
    let shown = fixture.good("inspect @log2.hrl");
    assert!(shown.contains("predecessor"), "{shown}");

    fixture.good("convert @log.hrl --to native --out @back --disk-size 64KiB");
    fixture.good("convert @log2.hrl --to native --out @back2 --after @back");
    fixture.good("merge @back @back2 --out @back.merged");
    std::fs::write(fixture.path("other"), vec![0xEE; SIZE]).unwrap();
    fixture.good("apply @back.merged --to @other");
    assert!(fixture.bytes("other") == fixture.bytes("copy"));
    let wrong = "convert @log2.hrl --to native --out @x --after @log.hrl";
    assert_eq!(fixture.run(wrong).0, Exit::Usage);
}

#[test]
fn hrls_of_a_chain_are_merged() {
    use afterimage_changelog::{HrlId, HrlOptions, open_log, to_hrl};
    let (fixture, [apply, _]) = two_generations();
    fixture.good(&format!("{apply} --to @copy"));
    let time = afterimage_block::Timestamp::default();
    for (name, id, previous) in [("log", 1, 0), ("log2", 2, 1)] {
        let options = HrlOptions::new(HrlId::from_bytes([id; 16]), time);
        let options = options.following(HrlId::from_bytes([previous; 16]));
        let log = open_log(&fixture.path(name)).unwrap();
        to_hrl(&log, &fixture.path(&format!("{name}.hrl")), &options, time).unwrap();
    }
    fixture.good("merge @log.hrl @log2.hrl --out @merged");
    fixture.good("verify @merged");
    std::fs::write(fixture.path("other"), vec![0xEE; SIZE]).unwrap();
    fixture.good("apply @merged --to @other");
    assert!(fixture.bytes("other") == fixture.bytes("copy"));
    let wrong = "merge @log2.hrl @log.hrl --out @x";
    assert_eq!(fixture.run(wrong).0, Exit::Usage);
}

#[test]
fn a_disk_in_another_state_is_refused() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("copy"), vec![0xEE; SIZE]).unwrap();
    std::fs::copy(fixture.path("copy"), fixture.path("new")).unwrap();
    fixture.good("record --disk @new --from @trace --out @told --states");
    let shown = fixture.good("inspect @told");
    for name in ["applies to state", "produces state"] {
        assert!(shown.contains(name), "{shown}");
    }
    let before = fixture.bytes("disk");
    let (exit, out) = fixture.run("apply @told --to @disk --check");
    assert_eq!(exit, Exit::Usage);
    assert!(out.contains("in state"), "{out}");
    assert!(fixture.bytes("disk") == before);
    fixture.good("apply @told --to @copy --check --undo @undo");
    assert!(fixture.bytes("copy") == fixture.bytes("new"));
    fixture.good("apply @undo --to @copy --check");
    assert!(fixture.bytes("copy") == vec![0xEE; SIZE]);
}

#[test]
fn what_cannot_be_done_changes_nothing() {
    let fixture = Fixture::new();
    let before = fixture.bytes("disk");
    std::fs::write(fixture.path("small"), [7; 1024]).unwrap();
    std::fs::write(fixture.path("bad"), "write 0 x\nerase everything").unwrap();
    fixture.good("convert @log --to hrl --out @hrl");
    for command in [
        "",
        "verify",
        "verify @nothing",
        "inspect @log --colour",
        "apply @log --to @small",
        "apply @hrl --to @small",
        "apply @log @log --to @disk",
        "apply @log @log --to @disk --undo @undo",
        "merge @log @hrl --out @x",
        "convert @log --to qcow --out @x",
        "convert @log --to native --out @hrl",
        "record --disk @small --from @bad --out @x",
    ] {
        let (exit, out) = fixture.run(command);
        assert_eq!(exit, Exit::Usage, "{command}: {out}");
    }
    assert!(fixture.bytes("disk") == before);
    assert!(fixture.bytes("small")[1..] == [7; 1023]);
    assert!(!Path::new(&fixture.path("undo")).exists());
    assert_eq!(fixture.run("verify @trace").0, Exit::Damaged);
    fixture.good("--help");
}

/// Writes a file that only its owner can read, unless `mode` says otherwise.
fn key_file(fixture: &Fixture, name: &str, content: &[u8], mode: u32) {
    std::fs::write(fixture.path(name), content).unwrap();
    let mode = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(fixture.path(name), mode).unwrap();
}

#[test]
fn a_log_is_compressed_and_encrypted_and_so_is_what_is_made_of_it() {
    let fixture = Fixture::new();
    key_file(&fixture, "key", &[7; 32], 0o600);
    key_file(
        &fixture,
        "digits",
        format!("{}\n", "07".repeat(32)).as_bytes(),
        0o640,
    );
    fixture.good("record --disk @disk --from @trace --out @sealed --compress --key-file @key");
    let id = "6a2d9e3b285dbacf2c71b403f3b98c99";
    let (exit, error) = fixture.run("verify @sealed");
    assert!(exit == Exit::Usage && error.contains(id), "{error}");

    let text = fixture.good("inspect @sealed --key-file @digits");
    assert!(
        text.contains(&format!("compressed, encrypted with key {id}")),
        "{text}"
    );
    assert!(text.contains("compression"), "{text}");
    let json: serde_json::Value =
        serde_json::from_str(&fixture.good("inspect @sealed --json --key-file @key")).unwrap();
    assert!(json["compression_ratio"].as_f64().unwrap() > 2.0, "{json}");

    let copy = || std::fs::write(fixture.path("copy"), vec![0xEE; SIZE]).unwrap();
    copy();
    fixture.good("apply @sealed --to @copy --undo @undo --key-file @key");
    assert!(fixture.bytes("copy") == fixture.bytes("disk"));
    fixture.good("apply @undo --to @copy --key-file @key");
    assert!(fixture.bytes("copy") == vec![0xEE; SIZE]);

    fixture.good("merge @sealed --out @merged --key-file @key");
    fixture.good("salvage @sealed --out @salvaged --key-file @key");
    fixture.good("convert @sealed --to native --out @again --key-file @key");
    for made in ["undo", "merged", "salvaged", "again"] {
        let (exit, error) = fixture.run(&format!("inspect @{made}"));
        assert!(exit == Exit::Usage && error.contains(id), "{made}: {error}");
        fixture.good(&format!("verify @{made} --key-file @key"));
    }
    let (exit, error) = fixture.run("convert @sealed --to hrl --out @hrl --key-file @key");
    assert!(
        exit == Exit::Usage && !fixture.path("hrl").exists(),
        "{error}"
    );
    fixture.good("convert @sealed --to hrl --out @hrl --key-file @key --plaintext");
    fixture.good("convert @sealed --to native --out @plain --key-file @key --plaintext");
    for made in ["hrl", "plain"] {
        copy();
        fixture.good(&format!("apply @{made} --to @copy"));
        assert!(fixture.bytes("copy") == fixture.bytes("disk"), "{made}");
    }
}

#[test]
fn a_key_that_others_can_read_or_that_is_none_is_refused() {
    let fixture = Fixture::new();
    let digits = "07".repeat(32);
    for (content, mode, reason) in [
        (digits.as_bytes(), 0o644, "chmod 600"),
        (&digits.as_bytes()[1..], 0o600, "64 hexadecimal digits"),
        (&[b'x'; 64][..], 0o600, "64 hexadecimal digits"),
        (&[7; 33], 0o600, "64 hexadecimal digits"),
        (&[b'7'; 90], 0o600, "64 hexadecimal digits"),
    ] {
        key_file(&fixture, "key", content, mode);
        let (exit, error) = fixture.run("verify @log --key-file @key");
        assert!(exit == Exit::Usage && error.contains(reason), "{error}");
        assert!(!error.contains("0707"), "{error}");
    }
}
