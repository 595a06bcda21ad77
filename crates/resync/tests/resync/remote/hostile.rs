//! Ends that lie.

use afterimage_block::{BlockRead, Epoch, Length, SessionId};
use afterimage_resync::protocol::{Farewell, Hello, Message, Place, Reason, Role, Versions};
use afterimage_resync::remote::{Cursor, Outcome, Source, Target, Terms, Work};
use afterimage_resync::tree::Node;
use afterimage_resync::{BlockIndex, BlockSize, Error, Grid, Result};
use bytes::Bytes;
use proptest::prelude::*;

use super::pair::{ALL, Dice, End, Machine, Pair, terms};
use crate::disk::TestDisk;
use crate::world::{cases, worlds};

pub(super) const BLOCK: BlockSize = BlockSize::MIN;

pub(super) fn hello(role: Role, terms: &Terms) -> Hello {
    Hello {
        versions: Versions::SPOKEN,
        role,
        algorithm: terms.algorithm,
        session: terms.session,
        grid: terms.grid,
        epoch: terms.epoch,
        afresh: false,
        dry: false,
        reread: None,
    }
}

fn ask(level: u8, index: u64, settled: u64) -> Message {
    let of = Place { level, index };
    let settled = BlockIndex::new(settled);
    Message::Ask { of, settled }
}

fn data(first: u64, length: usize) -> Message {
    let first = BlockIndex::new(first);
    let bytes = Bytes::from(vec![9; length]);
    Message::Data { first, bytes }
}

pub(super) fn zeroes(first: u64, count: u64) -> Message {
    let first = BlockIndex::new(first);
    Message::Zeroes { first, count }
}

fn nodes(level: u8, index: u64, children: usize) -> Message {
    let of = Place { level, index };
    let children = vec![Node::new([5; 32]); children];
    Message::Nodes { of, children }
}

/// Three units and a bit, the last block short, the second unit zeros.
fn disk() -> TestDisk {
    let bytes: Vec<u8> = (0..3 * 64 * 4096 + 5 * 4096 + 512)
        .map(|at| {
            if (64..128).contains(&(at / 4096)) {
                0
            } else {
                3
            }
        })
        .collect();
    TestDisk::dense(&bytes)
}

/// Does all work and sends all messages to nobody.
pub(super) fn settle<M: Machine>(end: &mut End<M>) -> Result<Vec<Message>> {
    let mut dice = Dice::new(3);
    let mut idle = 0;
    let mut sent = Vec::new();
    while idle < 30 {
        idle = if end.work(&mut dice)? { 0 } else { idle + 1 };
        sent.extend(end.machine.transmit());
    }
    Ok(sent)
}

/// A target that answered the root and the first unit.
fn target() -> End<Target> {
    let disk = disk();
    let terms = terms(disk.size(), BLOCK);
    let mut end = End::new(Target::new(terms, None).unwrap(), disk, None, BLOCK);
    end.machine
        .message(Message::Hello(hello(Role::Source, &terms)))
        .unwrap();
    end.machine.message(ask(3, 0, 0)).unwrap();
    end.machine.message(ask(1, 0, 0)).unwrap();
    let sent = settle(&mut end).unwrap();
    let answers = sent
        .iter()
        .filter(|sent| matches!(sent, Message::Nodes { .. }));
    assert_eq!(answers.count(), 2);
    end
}

/// A source that asked for the root.
fn source() -> End<Source> {
    let disk = disk();
    let terms = terms(disk.size(), BLOCK);
    let mut end = End::new(Source::new(terms, None).unwrap(), disk, None, BLOCK);
    end.machine
        .message(Message::Hello(hello(Role::Target, &terms)))
        .unwrap();
    let sent = settle(&mut end).unwrap();
    assert_eq!(sent.last(), Some(&ask(3, 0, 0)));
    end
}

#[test]
fn a_target_takes_only_blocks_that_it_named_in_order_and_on_the_disk() {
    let refused = [
        vec![ask(0, 0, 0)],
        vec![ask(1, 4, 0)],
        vec![ask(4, 0, 0)],
        vec![ask(255, u64::MAX, 0)],
        vec![ask(1, 0, 0)],
        vec![ask(1, 2, 129)],
        vec![ask(2, 0, 5)],
        vec![ask(1, 2, 128), ask(1, 1, 64)],
        vec![data(0, 4095)],
        vec![data(0, 0)],
        vec![data(0, 65 * 4096)],
        vec![data(60, 8 * 4096)],
        vec![data(130, 4096)],
        vec![data(197, 4096)],
        vec![data(198, 4096)],
        vec![data(u64::MAX, 4096)],
        vec![data(7, 4096), data(7, 4096)],
        vec![data(7, 4096), data(3, 4096)],
        vec![data(7, 4096), ask(2, 0, 0)],
        vec![zeroes(0, 0)],
        vec![zeroes(0, 199)],
        vec![zeroes(0, u64::MAX)],
        vec![zeroes(u64::MAX, 2)],
        vec![zeroes(130, 2)],
        vec![zeroes(128, 1)],
        vec![zeroes(128, 70)],
        vec![zeroes(0, 128)],
        vec![zeroes(0, 198)],
        vec![Message::Written { count: 1 }],
        vec![nodes(1, 0, 64)],
        vec![Message::Hello(hello(
            Role::Source,
            &terms(disk().size(), BLOCK),
        ))],
        vec![Message::Done { root: Node::ZERO }, data(0, 4096)],
    ];
    for messages in refused {
        let mut target = target();
        let (last, first) = messages.split_last().unwrap();
        for message in first {
            target.machine.message(message.clone()).unwrap();
        }
        let error = target.machine.message(last.clone()).unwrap_err();
        assert!(
            matches!(error, Error::Violation { .. }),
            "{messages:?}: {error}"
        );
        assert_eq!(error.farewell().unwrap().reason, Reason::Protocol);
        assert!(!error.is_recoverable());
        assert!(target.disk.writes().is_empty());
    }
}

#[test]
fn a_target_takes_what_is_allowed() {
    let taken = [
        vec![data(0, 4096), data(1, 2 * 4096), zeroes(3, 61)],
        vec![data(64, 4096), zeroes(65, 63)],
        vec![zeroes(128, 64)],
        vec![zeroes(192, 6)],
        vec![ask(1, 3, 0), ask(1, 2, 128)],
    ];
    for messages in taken {
        let mut target = target();
        for message in &messages {
            let taken = target.machine.message(message.clone());
            assert!(taken.is_ok(), "{messages:?}: {taken:?}");
        }
        settle(&mut target).unwrap();
    }
    let mut target = target();
    target.machine.message(ask(1, 3, 0)).unwrap();
    settle(&mut target).unwrap();
    target.machine.message(data(197, 512)).unwrap();
    settle(&mut target).unwrap();
    assert_eq!(target.disk.bytes()[197 * 4096..], [9; 512]);
    // What it holds is not what the source says.
    target
        .machine
        .message(Message::Done { root: Node::ZERO })
        .unwrap();
    let error = settle(&mut target).unwrap_err();
    assert!(matches!(error, Error::RootsDiffer), "{error}");
}

#[test]
fn a_source_takes_only_answers_to_its_questions() {
    let refused = [
        nodes(3, 0, 2),
        nodes(2, 0, 4),
        nodes(1, 0, 64),
        nodes(9, 0, 1),
        nodes(0, 0, 1),
        Message::Written { count: 1 },
        Message::Written { count: 0 },
        Message::Done { root: Node::ZERO },
        ask(3, 0, 0),
        data(0, 4096),
        zeroes(0, 1),
        Message::Hello(hello(Role::Target, &terms(disk().size(), BLOCK))),
    ];
    for message in refused {
        let error = source().machine.message(message.clone()).unwrap_err();
        assert!(
            matches!(error, Error::Violation { .. }),
            "{message:?}: {error}"
        );
    }
    let mut source = source();
    source.machine.message(nodes(3, 0, 1)).unwrap();
    // Children that do not amount to the root that was told.
    let error = source.machine.message(nodes(2, 0, 4)).unwrap_err();
    assert!(error.to_string().contains("amount"), "{error}");
}

#[test]
fn ends_of_other_resyncs_part_at_once_and_nothing_comes_before_hello() {
    let mine = terms(Length::mib(1), BLOCK);
    let right = hello(Role::Source, &mine);
    let grid = |size, block| Grid::new(size, block);
    let others = [
        Hello {
            versions: Versions::new(2, 9).unwrap(),
            ..right
        },
        Hello {
            role: Role::Target,
            ..right
        },
        Hello {
            session: SessionId::from_bytes([8; 16]),
            ..right
        },
        Hello {
            epoch: Epoch::new(2),
            ..right
        },
        Hello {
            grid: grid(Length::mib(2), BLOCK),
            ..right
        },
        Hello {
            grid: grid(Length::new(u64::MAX), BLOCK),
            ..right
        },
        Hello {
            grid: grid(Length::mib(1), BlockSize::MAX),
            ..right
        },
    ];
    for other in others {
        let mut target = Target::new(mine, None).unwrap();
        let error = target.handle_message(Message::Hello(other)).unwrap_err();
        assert!(matches!(error, Error::OtherTerms { .. }), "{error}");
        assert_eq!(error.farewell().unwrap().reason, Reason::OtherTerms);
        assert_eq!(target.poll_work(), None);
    }
    let early = [
        ask(1, 0, 0),
        data(0, 4096),
        zeroes(0, 1),
        Message::Done { root: Node::ZERO },
    ];
    for message in early {
        let mut target = Target::new(mine, None).unwrap();
        assert!(matches!(
            target.handle_message(message),
            Err(Error::Violation { .. })
        ));
    }
}

#[test]
fn a_target_that_only_compares_is_sent_nothing_and_told_what_can_be() {
    let found = |sent: u64, zeroed: u64| Message::Found {
        sent: Length::new(sent),
        zeroed: Length::new(zeroed),
    };
    let dry = || {
        let disk = disk();
        let terms = terms(disk.size(), BLOCK);
        let machine = Target::dry_run(terms, None).unwrap();
        let mut end = End::new(machine, disk, None, BLOCK);
        end.machine
            .message(Message::Hello(hello(Role::Source, &terms)))
            .unwrap();
        end.machine.message(ask(1, 0, 0)).unwrap();
        settle(&mut end).unwrap();
        end
    };
    let size = disk().size().get();
    for message in [
        data(0, 4096),
        zeroes(0, 1),
        found(size, 1),
        found(u64::MAX, 1),
    ] {
        let error = dry().machine.message(message).unwrap_err();
        assert!(matches!(error, Error::Violation { .. }), "{error}");
    }
    let error = target().machine.message(found(0, 0)).unwrap_err();
    assert!(matches!(error, Error::Violation { .. }), "{error}");
    let parting = |reason| {
        let text = String::new();
        Message::Error(Farewell { reason, text })
    };
    let mut end = dry();
    assert!(end.machine.message(parting(Reason::Stopped)).is_err());
    let mut end = dry();
    end.machine.message(found(size - 4096, 4096)).unwrap();
    assert!(end.machine.message(parting(Reason::Disk)).is_err());
    assert!(!end.machine.is_finished());
    let mut end = dry();
    end.machine.message(found(size - 4096, 4096)).unwrap();
    end.machine.message(parting(Reason::Stopped)).unwrap();
    assert!(end.machine.is_finished());
    assert_eq!(end.machine.progress().sent.get(), size - 4096);
}

#[test]
fn what_is_unanswered_is_bounded() {
    let size = Length::mib(1024);
    let terms = terms(size, BLOCK);
    let begin = || {
        let mut target = Target::new(terms, None).unwrap();
        target
            .handle_message(Message::Hello(hello(Role::Source, &terms)))
            .unwrap();
        target
    };
    // While it is still hashing, and before any answer is taken.
    let mut hashing = begin();
    let taken = (0..5000).take_while(|_| hashing.handle_message(ask(2, 0, 0)).is_ok());
    assert_eq!(taken.count(), 1024);

    let mut target = begin();
    while let Some(work) = target.poll_work() {
        if let Work::Hash { unit, .. } = work {
            let blocks = vec![Node::ZERO; 64];
            target
                .handle_outcome(Outcome::Hashed { unit, blocks })
                .unwrap();
        }
    }
    let mut asked = 0;
    let answered = |target: &mut Target| {
        while let Some(work) = target.poll_work() {
            if let Work::Hash { unit, .. } = work {
                let blocks = vec![Node::ZERO; 64];
                target
                    .handle_outcome(Outcome::Hashed { unit, blocks })
                    .unwrap();
            }
        }
        while target.poll_transmit().is_some() {}
    };
    while target.handle_message(ask(1, asked, 0)).is_ok() {
        answered(&mut target);
        asked += 1;
        assert!(asked < 5000);
    }
    assert_eq!(asked, 1024);

    // Nobody writes what comes.
    let mut target = begin();
    while let Some(work) = target.poll_work() {
        if let Work::Hash { unit, .. } = work {
            let blocks = vec![Node::ZERO; 64];
            target
                .handle_outcome(Outcome::Hashed { unit, blocks })
                .unwrap();
        }
    }
    let mut sent = 0;
    while target.handle_message(data(sent * 64, 64 * 4096)).is_ok() {
        sent += 1;
        assert!(sent < 5000);
    }
    assert_eq!(sent * 64 * 4096, 64 << 20);
}

#[test]
fn outcomes_that_nobody_asked_for_and_disks_that_change_are_refused() {
    let blocks = vec![Node::ZERO; 64];
    let mut target = target();
    for outcome in [
        Outcome::Hashed {
            unit: 2,
            blocks: blocks.clone(),
        },
        Outcome::Hashed {
            unit: u64::MAX,
            blocks: vec![],
        },
        Outcome::Written {
            ticket: 0,
            blocks: vec![],
        },
        Outcome::Zeroed { ticket: 9 },
        Outcome::Flushed,
        Outcome::Read {
            ticket: 0,
            bytes: Bytes::new(),
            blocks: vec![],
        },
    ] {
        let refused = target.machine.outcome(outcome.clone());
        // A unit that nobody opened is not what it was hashed as, or not wanted.
        let named = matches!(
            refused,
            Err(Error::WrongOutcome | Error::TargetChanged { .. })
        );
        assert!(named, "{outcome:?}");
    }
    // One that did not hash its blocks itself finds out when it does.
    let known = self::target().machine.digests().unwrap();
    let disk = disk();
    disk.put(crate::disk::extent(140 * 4096, 1), |_| 99);
    let terms = terms(disk.size(), BLOCK);
    let cursor = Cursor::knowing(terms, Role::Target, &known).unwrap();
    let machine = Target::new(terms, Some(cursor)).unwrap();
    let mut changed = End::new(machine, disk, None, BLOCK);
    let hello = Message::Hello(hello(Role::Source, &terms));
    changed.machine.message(hello).unwrap();
    changed.machine.message(ask(1, 2, 0)).unwrap();
    let error = settle(&mut changed).unwrap_err();
    assert!(matches!(error, Error::TargetChanged { .. }), "{error}");
}

#[test]
fn what_was_hashed_in_this_session_is_answered_without_hashing_it_again() {
    let mut target = target();
    let hashed = target.hashed;
    assert_eq!(hashed, target.disk.size());
    target.machine.message(ask(1, 2, 0)).unwrap();
    let answers = settle(&mut target).unwrap();
    assert!(matches!(&answers[..], [Message::Nodes { children, .. }] if children.len() == 64));
    assert_eq!(target.hashed, hashed);
}

fn any_message() -> impl Strategy<Value = Message> {
    let place = (0..5_u8, 0..6_u64).prop_map(|(level, index)| Place { level, index });
    let block = || (0..300_u64).prop_map(BlockIndex::new);
    let node = prop_oneof![Just(Node::ZERO), Just(Node::new([4; 32]))];
    prop_oneof![
        (place.clone(), block()).prop_map(|(of, settled)| Message::Ask { of, settled }),
        (place, prop::collection::vec(node.clone(), 1..65))
            .prop_map(|(of, children)| Message::Nodes { of, children }),
        (block(), 1..40_usize, 0..2_usize).prop_map(|(first, blocks, odd)| {
            let bytes = Bytes::from(vec![7; blocks * 4096 - odd * 512]);
            Message::Data { first, bytes }
        }),
        (block(), 1..130_u64).prop_map(|(first, count)| Message::Zeroes { first, count }),
        (0..9_u64).prop_map(|count| Message::Written { count }),
        (0..9_u64).prop_map(|count| Message::Found {
            sent: Length::new(count),
            zeroed: Length::new(count),
        }),
        node.prop_map(|root| Message::Done { root }),
        Just(Message::Error(Farewell {
            reason: Reason::Stopped,
            text: "\u{1b}[2J".into()
        })),
    ]
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn whatever_is_put_in_between_the_end_is_an_error_or_equal_disks(
        world in worlds(), seed in any::<u64>(),
        injected in prop::collection::vec((1..400_usize, any::<bool>(), any_message()), 1..6),
    ) {
        let mut pair = Pair::new(&world.source, &world.target, world.block, seed);
        let mut run = || -> Result<bool> {
            for (steps, to_source, message) in &injected {
                pair.run(*steps)?;
                if *to_source {
                    pair.source.machine.handle_message(message.clone())?;
                } else {
                    pair.target.machine.handle_message(message.clone())?;
                }
            }
            // An answer that was forged may leave the source waiting for ever.
            pair.run(ALL)
        };
        let ended = run();
        prop_assert!(pair.source.disk.writes().is_empty());
        if matches!(ended, Ok(true)) {
            prop_assert!(pair.target.disk.bytes() == world.source.bytes());
        }
        if let Err(error) = ended {
            prop_assert!(!error.to_string().contains(char::is_control));
        }
    }
}
