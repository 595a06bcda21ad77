//! The parts of `resync` together: files, a loopback connection, breaks.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod staged;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use afterimage_block::Length;
use afterimage_resync::protocol::Role;
use afterimage_resync::{Algorithm, BlockSize, Reread};
use clap::{CommandFactory, Parser};
use examples::resync::{
    Arguments, Cache, Display, Local, Peer, Place, Remote, Report, Server, Speeds, State, Stop,
};
use tempfile::TempDir;

const SIZE: usize = 12 << 20;
const BLOCK: usize = 4096;

/// Two images of 12 MiB, the source with a hole, of which some blocks differ.
struct Disks {
    folder: TempDir,
}

impl Disks {
    fn new(differing: impl Fn(usize) -> bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disks = Self { folder };
        for name in ["source", "target"] {
            let file = File::create(disks.path(name)).unwrap();
            file.set_len(SIZE as u64).unwrap();
            for block in (0..SIZE / BLOCK).filter(|block| !(100..300).contains(block)) {
                let other = u8::from(name == "target" && differing(block)) * 128;
                let byte = u8::try_from(block % 100).unwrap() + 1 + other;
                file.write_all_at(&[byte; BLOCK], (block * BLOCK) as u64)
                    .unwrap();
            }
        }
        disks
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn place(&self, name: &str) -> Place {
        Place::Path(self.path(name))
    }

    fn state(&self, name: &str) -> State {
        State::at(self.path(name))
    }

    fn cache(&self, name: &str) -> Cache {
        Cache::at(self.path(name))
    }

    fn are_equal(&self) -> bool {
        fs::read(self.path("source")).unwrap() == fs::read(self.path("target")).unwrap()
    }

    fn local(&self) -> Local {
        Local {
            source: self.place("source"),
            target: self.place("target"),
            block_size: BlockSize::MIN,
            limit: Speeds::default(),
            read_limit: Speeds::default(),
            state: None,
            cache: None,
            dry_run: false,
            verify: false,
            reread: None,
            create: false,
            stage: None,
            stop: Stop::default(),
        }
    }

    fn push(&self, address: String) -> Remote {
        Remote {
            disk: self.place("source"),
            role: Role::Source,
            peer: Peer::Tcp(address),
            block_size: BlockSize::MIN,
            algorithm: Algorithm::Blake3,
            limit: Speeds::default(),
            read_limit: Speeds::default(),
            state: None,
            cache: None,
            create: false,
            dry_run: false,
            verify: false,
            reread: None,
            stage: None,
            stop: Stop::default(),
        }
    }

    fn server(&self) -> Server {
        Server {
            disk: self.place("target"),
            is_source: false,
            read_limit: Speeds::default(),
            state: None,
            cache: None,
            create: false,
            stage: None,
            stop: Stop::default(),
            json: false,
        }
    }
}

fn run_local(local: &Local) -> anyhow::Result<Report> {
    local.run(&mut Display::new(true))
}

/// Pushes while `server` answers so many connections, each cut after so many bytes that it receives.
fn push_to(
    server: &Server,
    push: impl FnOnce(String) -> Remote,
    connections: usize,
    cut: usize,
) -> anyhow::Result<Report> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let push = push(listener.local_addr().unwrap().to_string());
    let server = server.clone();
    let served = thread::spawn(move || {
        for _ in 0..connections {
            let stream = listener.accept().unwrap().0;
            let reader = Cut(stream.try_clone().unwrap(), cut);
            let served = server.serve(reader, stream);
            assert!(cut != usize::MAX || served.is_ok(), "{served:?}");
        }
    });
    let pushed = push.run(&mut Display::new(true));
    served.join().unwrap();
    pushed
}

/// Receives so many bytes and then no more.
struct Cut(TcpStream, usize);

impl Read for Cut {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let most = bytes.len().min(self.1);
        let count = self.0.read(&mut bytes[..most])?;
        self.1 -= count;
        if count == 0 {
            self.0.shutdown(Shutdown::Both)?;
        }
        Ok(count)
    }
}

fn every(count: usize) -> impl Fn(usize) -> bool {
    move |block| block.is_multiple_of(count)
}

#[test]
fn two_files_become_equal_and_only_what_differs_is_written() {
    let disks = Disks::new(every(100));
    let local = Local {
        verify: true,
        ..disks.local()
    };
    let report = run_local(&local).unwrap();
    assert!(disks.are_equal());
    let differing = (0..SIZE / BLOCK).step_by(100).count() - 2; // two are in the hole
    assert_eq!(report.sent, Length::new((differing * BLOCK) as u64));
    assert!(report.verified);
    let again = run_local(&disks.local()).unwrap();
    assert_eq!(again.equal, Length::new(SIZE as u64));
}

#[test]
fn a_dry_run_tells_the_same_and_changes_nothing() {
    let disks = Disks::new(every(7));
    let before = fs::metadata(disks.path("target")).unwrap();
    let dry_run = true;
    let local = Local {
        dry_run,
        ..disks.local()
    };
    let report = run_local(&local).unwrap();
    let push = |address| Remote {
        dry_run,
        ..disks.push(address)
    };
    let pushed = push_to(&disks.server(), push, 1, usize::MAX).unwrap();
    assert_eq!(pushed.sent, report.sent);
    let after = fs::metadata(disks.path("target")).unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
    assert_eq!(run_local(&disks.local()).unwrap().sent, report.sent);
}

#[test]
fn another_size_is_refused_and_extended_only_if_asked_for() {
    let disks = Disks::new(|_| false);
    let target = OpenOptions::new()
        .write(true)
        .open(disks.path("target"))
        .unwrap();
    let create = true;
    let creating = Local {
        create,
        ..disks.local()
    };
    let creating_server = Server {
        create,
        ..disks.server()
    };
    let larger = (SIZE + BLOCK) as u64;
    for (size, is_mended) in [(larger, false), ((SIZE / 2) as u64, true), (0, true)] {
        target.set_len(size).unwrap();
        assert!(run_local(&disks.local()).is_err());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let push = disks.push(listener.local_addr().unwrap().to_string());
        let server = disks.server();
        let served = thread::spawn(move || {
            let stream = listener.accept().unwrap().0;
            server.serve(stream.try_clone().unwrap(), stream)
        });
        assert!(push.run(&mut Display::new(true)).is_err());
        assert!(served.join().unwrap().is_err());
        assert_eq!(fs::metadata(disks.path("target")).unwrap().len(), size);
        if is_mended && size == 0 {
            push_to(
                &creating_server,
                |address| disks.push(address),
                1,
                usize::MAX,
            )
            .unwrap();
        } else {
            assert_eq!(run_local(&creating).is_ok(), is_mended);
        }
        assert_eq!(disks.are_equal(), is_mended);
    }
    fs::remove_file(disks.path("target")).unwrap();
    assert!(run_local(&disks.local()).is_err());
    run_local(&creating).unwrap();
    assert!(disks.are_equal());
}

#[test]
fn a_disk_that_is_not_there_is_named() {
    let disks = Disks::new(|_| false);
    fs::remove_file(disks.path("source")).unwrap();
    let error = run_local(&disks.local()).unwrap_err().to_string();
    assert!(error.contains("source"), "{error}");
}

#[test]
fn a_disk_is_not_made_equal_to_itself() {
    let disks = Disks::new(|_| false);
    std::os::unix::fs::symlink(disks.path("source"), disks.path("link")).unwrap();
    let target = disks.place("link");
    let local = Local {
        target,
        ..disks.local()
    };
    let error = run_local(&local).unwrap_err().to_string();
    assert!(error.contains("one disk"), "{error}");
}

#[test]
fn the_other_end_of_a_connection_becomes_equal_and_both_prove_it() {
    let disks = Disks::new(every(50));
    let push = |address| Remote {
        verify: true,
        ..disks.push(address)
    };
    let report = push_to(&disks.server(), push, 2, usize::MAX).unwrap();
    assert!(disks.are_equal() && report.verified);
    assert!(report.sent > Length::ZERO && report.digests > 0);
}

#[test]
fn what_became_equal_is_read_again_in_part_or_whole() {
    for reread in [Reread::Sample, Reread::Full].map(Some) {
        let disks = Disks::new(every(50));
        let push = |address| Remote {
            reread,
            ..disks.push(address)
        };
        let report = push_to(&disks.server(), push, 1, usize::MAX).unwrap();
        assert!(disks.are_equal() && report.reread && !report.verified);
        assert!(report.to_string().ends_with("; read again"), "{report}");
        let disks = Disks::new(every(50));
        let local = Local {
            reread,
            ..disks.local()
        };
        let report = run_local(&local).unwrap();
        assert!(disks.are_equal() && report.reread && !report.verified);
    }
}

#[test]
fn a_disk_here_becomes_equal_to_one_at_the_other_end() {
    let disks = Disks::new(every(50));
    let server = Server {
        disk: disks.place("source"),
        is_source: true,
        cache: Some(disks.cache("source.cache")),
        ..disks.server()
    };
    let run = |connections: usize, cut, verify| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pull = Remote {
            disk: disks.place("target"),
            role: Role::Target,
            state: Some(disks.state("pull.state")),
            cache: Some(disks.cache("target.cache")),
            verify,
            ..disks.push(listener.local_addr().unwrap().to_string())
        };
        let server = &server;
        thread::scope(|scope| {
            scope.spawn(move || {
                for _ in 0..connections {
                    let stream = listener.accept().unwrap().0;
                    let reader = Cut(stream.try_clone().unwrap(), cut);
                    let served = server.serve(reader, stream);
                    assert!(cut != usize::MAX || served.is_ok(), "{served:?}");
                }
            });
            pull.run(&mut Display::new(true))
        })
    };
    let before = fs::read(disks.path("source")).unwrap();
    // So much that it asks for is not answered any more.
    assert!(run(1, 300, false).is_err() && !disks.are_equal());
    let report = run(1, usize::MAX, false).unwrap();
    assert!(disks.are_equal() && report.sent > Length::ZERO);
    let again = run(1, usize::MAX, false).unwrap();
    let all = Length::new(SIZE as u64);
    assert_eq!(
        (again.skipped, again.sent, again.digests),
        (all, Length::ZERO, 1)
    );
    let verified = run(2, usize::MAX, true).unwrap();
    assert!(verified.verified && verified.skipped.is_zero());
    assert!(fs::read(disks.path("source")).unwrap() == before);
}

#[test]
fn a_disk_here_is_made_as_large_as_the_one_at_the_other_end() {
    let disks = Disks::new(every(50));
    let server = Server {
        disk: disks.place("source"),
        is_source: true,
        ..disks.server()
    };
    let pull = |name: &'static str, create, dry_run| {
        let pull = |address| Remote {
            disk: disks.place(name),
            role: Role::Target,
            create,
            dry_run,
            ..disks.push(address)
        };
        push_to(&server, pull, 1, usize::MAX)
    };
    let before = fs::read(disks.path("target")).unwrap();
    let dry = pull("target", false, true).unwrap();
    assert!(dry.dry_run && dry.sent > Length::ZERO);
    assert!(fs::read(disks.path("target")).unwrap() == before);
    assert_eq!(pull("target", true, false).unwrap().sent, dry.sent);
    assert!(disks.are_equal());

    let source = fs::read(disks.path("source")).unwrap();
    pull("new", true, false).unwrap();
    assert!(fs::read(disks.path("new")).unwrap() == source);
    let file = OpenOptions::new().write(true).open(disks.path("new"));
    file.unwrap().set_len(SIZE as u64 / 2).unwrap();
    pull("new", true, false).unwrap();
    assert!(fs::read(disks.path("new")).unwrap() == source);

    // A target has no size of its own to tell.
    let server = disks.server();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let pull = Remote {
        disk: disks.place("another"),
        role: Role::Target,
        create: true,
        ..disks.push(listener.local_addr().unwrap().to_string())
    };
    let served = thread::spawn(move || {
        let stream = listener.accept().unwrap().0;
        server.serve(stream.try_clone().unwrap(), stream)
    });
    assert!(pull.run(&mut Display::new(true)).is_err());
    assert!(served.join().unwrap().is_err());
    assert!(!disks.path("another").exists());
}

#[test]
fn a_disk_that_is_served_to_be_read_is_not_written() {
    let disks = Disks::new(every(50));
    let server = Server {
        is_source: true,
        ..disks.server()
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let push = disks.push(listener.local_addr().unwrap().to_string());
    let before = fs::read(disks.path("target")).unwrap();
    let served = thread::spawn(move || {
        let stream = listener.accept().unwrap().0;
        server.serve(stream.try_clone().unwrap(), stream)
    });
    assert!(push.run(&mut Display::new(true)).is_err());
    assert!(served.join().unwrap().is_err());
    assert!(fs::read(disks.path("target")).unwrap() == before);
}

#[test]
fn a_connection_that_broke_is_gone_on_with() {
    let disks = Disks::new(|_| true);
    let server = Server {
        state: Some(disks.state("server.state")),
        ..disks.server()
    };
    let push = |address| Remote {
        state: Some(disks.state("push.state")),
        ..disks.push(address)
    };
    push_to(&server, push, 1, 5 << 20).unwrap_err();
    assert!(disks.path("push.state").exists() && disks.path("server.state").exists());
    assert!(!disks.are_equal());
    let report = push_to(&server, push, 1, usize::MAX).unwrap();
    assert!(disks.are_equal());
    assert_eq!(report.saved, Length::new(SIZE as u64), "hashed before");
    // How much the target had kept when the connection broke is a matter of moments.
    assert!(report.sent <= Length::new(SIZE as u64), "{report}");
    assert!(!disks.path("push.state").exists() && !disks.path("server.state").exists());
}

#[test]
fn what_is_kept_of_a_source_that_was_written_since_is_not_believed() {
    let disks = Disks::new(|_| true);
    let push = |address| Remote {
        state: Some(disks.state("push.state")),
        ..disks.push(address)
    };
    push_to(&disks.server(), push, 1, 5 << 20).unwrap_err();
    let kept = fs::read(disks.path("push.state")).unwrap();
    write_at_the_end(&disks.path("source"));
    let report = push_to(&disks.server(), push, 1, usize::MAX).unwrap();
    assert!(disks.are_equal());
    assert_eq!(report.saved, Length::ZERO);

    // Nor is what is of another kind of resync, or damaged.
    fs::write(disks.path("push.state"), &kept).unwrap();
    let state = Some(disks.state("push.state"));
    let local = Local {
        state,
        ..disks.local()
    };
    assert_eq!(run_local(&local).unwrap().saved, Length::ZERO);
    fs::write(disks.path("push.state"), &kept[..kept.len() / 2]).unwrap();
    assert!(run_local(&local).is_err());
}

#[test]
fn a_disk_that_was_not_written_is_not_read_again() {
    let disks = Disks::new(every(30));
    let all = Length::new(SIZE as u64);
    let server = Server {
        cache: Some(disks.cache("target.cache")),
        ..disks.server()
    };
    let run = |verify| {
        let push = |address| Remote {
            cache: Some(disks.cache("source.cache")),
            verify,
            ..disks.push(address)
        };
        let report = push_to(&server, push, 1 + usize::from(verify), usize::MAX).unwrap();
        assert!(disks.are_equal());
        report
    };
    let first = run(false);
    assert!(first.skipped == Length::ZERO && first.sent > Length::ZERO);
    let again = run(false);
    assert_eq!(
        (again.skipped, again.sent, again.digests),
        (all, Length::ZERO, 1)
    );
    assert_eq!(run(true).skipped, Length::ZERO);

    // Who was written is read, on either side, and the others are not.
    write_at_the_end(&disks.path("source"));
    let report = run(false);
    assert_eq!(
        (report.skipped, report.sent),
        (Length::ZERO, Length::kib(4))
    );
    assert_eq!(run(false).skipped, all);
    let file = OpenOptions::new().write(true).open(disks.path("target"));
    file.unwrap().write_all_at(&[77; 512], 0).unwrap();
    let report = run(false);
    assert_eq!((report.skipped, report.sent), (all, Length::kib(4)));

    // What is damaged, or of other blocks, is not believed, and replaced.
    let cache = disks.path("source.cache");
    let kept = fs::read(&cache).unwrap();
    let mut flipped = kept.clone();
    flipped[70] ^= 1;
    let longer = [&kept[..], &[0]].concat();
    for damaged in [&flipped[..], &longer, &kept[..90], b""] {
        fs::write(&cache, damaged).unwrap();
        assert_eq!(run(false).skipped, Length::ZERO);
        assert!(fs::read(&cache).unwrap() == kept);
    }
    let push = |address| Remote {
        cache: Some(disks.cache("source.cache")),
        block_size: BlockSize::default(),
        ..disks.push(address)
    };
    let report = push_to(&server, push, 1, usize::MAX).unwrap();
    assert_eq!((report.skipped, report.sent), (Length::ZERO, Length::ZERO));
}

#[test]
fn two_files_that_were_equal_and_not_written_are_not_read_again() {
    let disks = Disks::new(every(30));
    let run = |verify| {
        let local = Local {
            cache: Some(disks.state("cache")),
            verify,
            ..disks.local()
        };
        let report = run_local(&local).unwrap();
        assert!(disks.are_equal());
        report.skipped
    };
    let all = Length::new(SIZE as u64);
    assert_eq!(
        (run(false), run(false), run(true)),
        (Length::ZERO, all, Length::ZERO)
    );
    for name in ["source", "target"] {
        write_at_the_end(&disks.path(name));
        assert_eq!((run(false), run(false)), (Length::ZERO, all), "{name}");
    }
    fs::write(disks.path("cache"), "{").unwrap();
    assert_eq!((run(false), run(false)), (Length::ZERO, all));
}

fn write_at_the_end(path: &Path) {
    // Clocks of files tick slowly.
    thread::sleep(Duration::from_millis(20));
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[255; BLOCK], (SIZE - BLOCK) as u64)
        .unwrap();
}

#[test]
fn past_the_page_cache_the_outcome_is_the_same_or_it_is_said_to_be_impossible() {
    let disks = Disks::new(every(50));
    let local = Local {
        source: disks.place("source").past_cache(true),
        target: disks.place("target").past_cache(true),
        verify: true,
        ..disks.local()
    };
    match run_local(&local) {
        Ok(report) => assert!(disks.are_equal() && report.sent > Length::ZERO),
        Err(error) => assert!(format!("{error:#}").contains("page cache"), "{error:#}"),
    }
}

#[test]
fn a_limit_holds_for_disks() {
    let disks = Disks::new(every(10));
    let begun = Instant::now();
    let local = Local {
        limit: "4MiB/s".parse().unwrap(),
        read_limit: "60MiB/s".parse().unwrap(),
        ..disks.local()
    };
    let report = run_local(&local).unwrap();
    // The last write need not be waited for.
    let least = Duration::from_millis((report.sent.get() >> 12) - 32);
    assert!(begun.elapsed() >= least && disks.are_equal());
}

#[test]
fn a_limit_follows_the_hours_of_the_week() {
    let speeds: Speeds = "mon-fri/08:00-18:00=10MiB/s,sat-mon/12:00-13:00=none,else=1GiB/s"
        .parse()
        .unwrap();
    let speeds = speeds.in_zone("UTC".parse().unwrap());
    // 1970 began on a Thursday.
    let at = |day: u64, hour: u64| {
        let speed = speeds.at(Duration::from_hours(24 * day + hour));
        speed.map(|speed| speed.get() >> 20)
    };
    assert_eq!(at(0, 7), Some(1024));
    assert_eq!([at(0, 8), at(0, 12), at(0, 17)], [Some(10); 3]);
    assert_eq!(at(0, 18), Some(1024));
    assert_eq!([at(2, 9), at(2, 12), at(3, 12)], [Some(1024), None, None]);
    assert_eq!(at(4, 12), Some(10), "the first that holds");
    let speeds: Speeds = "22:00-06:00=none,1MiB/s".parse().unwrap();
    let speeds = speeds.in_zone("CET-1".parse().unwrap());
    let hours = [0, 4, 5, 20, 21].map(|hour| speeds.at(Duration::from_hours(hour)).is_some());
    assert_eq!(hours, [false, false, true, true, false]);
    for text in [
        "",
        "0",
        "else=1MiB,2MiB",
        "8-18=1MiB/s",
        "mon-fun/08:00-18:00=1MiB/s",
        "08:00=1MiB/s",
        "08:00-18:00=",
    ] {
        assert!(text.parse::<Speeds>().is_err(), "{text}");
    }
}

#[test]
fn the_command_line_is_told_when_it_makes_no_sense() {
    Arguments::command().debug_assert();
    let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
    for line in [
        "resync a b --cache f",
        "resync nbd://127.0.0.1/x tcp:[::1]:7 --digest blake3 --verify --limit 100MiB/s",
        "resync a b --limit mon-fri/08:00-18:00=10MiB/s,else=100MiB/s --read-limit 1GiB/s",
        "resync --serve stdio b --state f --create",
        "resync --serve stdio a --read-only --cache f",
        "resync cmd:x b --verify --direct",
        "resync a b --reread sample",
        "resync a cmd:x --verify --reread full",
    ] {
        assert!(parse(line).is_ok(), "{line}");
    }
    for line in [
        "resync a",
        "resync --serve stdio a b",
        "resync --serve udp:1 a",
        "resync --read-only a b",
        "resync --serve stdio a --read-only --create",
        "resync a b --limit 0",
        "resync a b --block-size 5000",
        "resync a b --dry-run --verify",
        "resync a b --reread some",
        "resync --serve stdio b --reread full",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
    let peer = parse("resync a cmd:x").unwrap().target;
    assert_eq!(peer, Some(Peer::Command("x".into())));
}
