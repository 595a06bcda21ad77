//! Golden bytes, and what is refused.

use afterimage_block::{Epoch, Length, SessionId};
use proptest::prelude::*;

use super::*;
use crate::{Grid, Reread};

const AT: Place = Place { level: 2, index: 9 };

fn hello() -> Hello {
    Hello {
        versions: Versions::SPOKEN,
        role: Role::Source,
        algorithm: Algorithm::Sha256,
        session: SessionId::from_bytes(*b"0123456789abcdef"),
        grid: Grid::new(Length::new(1 << 40), BlockSize::default()),
        epoch: Epoch::new(7),
        afresh: false,
        dry: false,
        reread: None,
    }
}

fn all() -> Vec<Message> {
    let first = BlockIndex::new(0x0102);
    let bytes = Bytes::from_static(b"after-image");
    let children = vec![Node::ZERO, Node::new([0xAB; 32]), Node::ZERO];
    let farewell = Farewell {
        reason: Reason::Disk,
        text: "cannot read".into(),
    };
    vec![
        Message::Hello(hello()),
        Message::Ask {
            of: AT,
            settled: first,
        },
        Message::Nodes { of: AT, children },
        Message::Data { first, bytes },
        Message::Zeroes { first, count: 3 },
        Message::Written { count: 5 },
        Message::Done {
            root: Node::new([0xCD; 32]),
        },
        Message::Error(farewell),
        Message::Found {
            sent: Length::new(6),
            zeroed: Length::new(0x0304),
        },
    ]
}

fn bytes_of(message: &Message) -> Vec<u8> {
    let frame = message.encode();
    [&frame.head[..], &frame.payload[..]].concat()
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn decode(bytes: &[u8]) -> Result<Option<Message>, ProtocolError> {
    Decoder::new(BlockSize::default()).decode(&mut BytesMut::from(bytes))
}

/// A message with this kind and body and a checksum that is right.
fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend([kind, 0, 0, 0]);
    let crc = checksum(&bytes, body, &[]);
    bytes.extend(crc.to_le_bytes());
    bytes.extend(body);
    bytes
}

#[test]
fn golden() {
    let found: Vec<String> = all()
        .iter()
        .map(|message| hex(&bytes_of(message)))
        .collect();
    // Made by another program, from the specification.
    let expected = [
        "340000000100000044b633e589414952534e430a0100010001010000303132333435363738396162636465660000000000010000070000000000000000000100",
        "1800000002000000323b3e04020000000000000009000000000000000201000000000000",
        "38000000030000002757df39020300000000000009000000000000000200000000000000abababababababababababababababababababababababababababababababab",
        "1300000004000000c7e01dd7020100000000000061667465722d696d616765",
        "10000000050000006a9cf44702010000000000000300000000000000",
        "08000000060000009e7f75380500000000000000",
        "20000000070000007cb20a2ecdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
        "0d00000008000000e4dd4381030063616e6e6f742072656164",
        "10000000090000006a2525c206000000000000000403000000000000",
    ];
    assert_eq!(found, expected);
}

#[test]
fn hello_may_ask_to_hash_afresh_and_hold_what_nobody_knows() {
    let afresh = Message::Hello(Hello {
        afresh: true,
        ..hello()
    });
    let bytes = bytes_of(&afresh);
    // Made by another program, from the specification.
    let expected = "35000000010000001b249ca989414952534e430a010001000101000030313233343536373839616263646566000000000001000007000000000000000000010001";
    assert_eq!(hex(&bytes), expected);
    assert_eq!(decode(&bytes).unwrap(), Some(afresh.clone()));
    let body = [&bytes[HEADER..], &[9; 203]].concat();
    assert_eq!(decode(&framed(1, &body)).unwrap(), Some(afresh));
    let dry = Message::Hello(Hello {
        dry: true,
        ..hello()
    });
    let expected = "3500000001000000a175953089414952534e430a010001000101000030313233343536373839616263646566000000000001000007000000000000000000010002";
    assert_eq!(hex(&bytes_of(&dry)), expected);
    assert_eq!(decode(&bytes_of(&dry)).unwrap(), Some(dry));
    for (reread, expected) in [
        (
            Reread::Sample,
            "350000000100000094d0f6d989414952534e430a010001000101000030313233343536373839616263646566000000000001000007000000000000000000010004",
        ),
        (
            Reread::Full,
            "3500000001000000bf9c40d089414952534e430a010001000101000030313233343536373839616263646566000000000001000007000000000000000000010008",
        ),
    ] {
        let reread = Message::Hello(Hello {
            reread: Some(reread),
            ..hello()
        });
        assert_eq!(hex(&bytes_of(&reread)), expected);
        assert_eq!(decode(&bytes_of(&reread)).unwrap(), Some(reread));
    }
    let others = [&bytes[HEADER..HEADER + 52], &[0xF0]].concat();
    let plain = Some(Message::Hello(hello()));
    assert_eq!(decode(&framed(1, &others)).unwrap(), plain);
}

#[test]
fn a_stream_comes_out_as_it_went_in_however_it_is_cut() {
    let stream: Vec<u8> = all().iter().flat_map(bytes_of).collect();
    for step in [1, 7, 13, stream.len()] {
        let mut decoder = Decoder::new(BlockSize::default());
        let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
        for part in stream.chunks(step) {
            buffer.extend_from_slice(part);
            while let Some(message) = decoder.decode(&mut buffer).unwrap() {
                found.push(message);
            }
        }
        assert_eq!(found, all());
        assert!(buffer.is_empty());
    }
}

#[test]
fn what_is_missing_of_a_message_is_what_makes_it_whole() {
    let decoder = || Decoder::new(BlockSize::default());
    for message in all() {
        let bytes = bytes_of(&message);
        let mut buffer = BytesMut::new();
        let mut rounds = 0;
        while buffer.len() < bytes.len() {
            assert_eq!(decoder().decode(&mut buffer).unwrap(), None);
            let missing = decoder().missing(&buffer);
            buffer.extend_from_slice(&bytes[buffer.len()..][..missing]);
            rounds += 1;
        }
        assert_eq!(rounds, 2, "the header, and the rest");
        assert_eq!(decoder().missing(&buffer), 0);
        assert_eq!(decoder().decode(&mut buffer).unwrap(), Some(message));
    }
    // What is refused is not waited for, nor is room made for what it claims.
    let refused = [255, 255, 255, 255, 10, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(decoder().missing(&refused), 0);
    let long = [255, 255, 255, 255, 4, 0, 0, 0, 0, 0, 0, 0];
    assert!(decoder().missing(&long) as u64 <= decoder().most());
}

#[test]
fn a_flipped_bit_is_never_taken_for_the_message() {
    for message in all() {
        let good = bytes_of(&message);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(
                !matches!(decode(&bad), Ok(Some(_))),
                "{message:?} bit {bit}"
            );
        }
    }
}

#[test]
fn a_length_is_refused_before_its_bytes_are_there_and_for_good() {
    for (kind, most) in [
        (1, 256),
        (2, 24),
        (3, 2072),
        (4, (1 << 20) + 8),
        (6, 8),
        (8, 514),
    ] {
        let header = |length: u32| {
            let mut bytes = length.to_le_bytes().to_vec();
            bytes.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
            bytes
        };
        assert_eq!(decode(&header(most)), Ok(None));
        let mut decoder = Decoder::new(BlockSize::default());
        let length = most + 1;
        let refused = Err(ProtocolError::TooLong {
            at: 0,
            length,
            most,
        });
        assert_eq!(
            decoder.decode(&mut BytesMut::from(&header(length)[..])),
            refused
        );
        let good = bytes_of(&Message::Written { count: 1 });
        assert_eq!(decoder.decode(&mut BytesMut::from(&good[..])), refused);
    }
    assert_eq!(
        decode(&framed(10, &[])),
        Err(ProtocolError::UnknownKind { at: 0, kind: 10 })
    );
    let largest = Decoder::new(BlockSize::MAX).most();
    assert_eq!(largest, (16 << 20) + 20);
}

#[test]
fn whole_messages_that_make_no_sense_are_refused() {
    let body = |message: &Message| bytes_of(message)[HEADER..].to_vec();
    let changed = |message: &Message, at: usize, to: &[u8]| {
        let mut body = body(message);
        body[at..at + to.len()].copy_from_slice(to);
        framed(message.kind(), &body)
    };
    let [hello, ask, nodes, _, zeroes, ..] = &all()[..] else {
        unreachable!()
    };
    let refused = [
        changed(hello, 0, b"x"),
        changed(hello, 8, &[0]),
        changed(hello, 8, &[2]),
        changed(hello, 12, &[3]),
        changed(hello, 13, &[77]),
        changed(hello, 14, &[1]),
        changed(hello, 48, &[1]),
        framed(1, &body(hello)[..51]),
        changed(ask, 1, &[1]),
        framed(2, &body(ask)[..23]),
        changed(nodes, 1, &[0]),
        changed(nodes, 1, &[65]),
        changed(nodes, 1, &[1]),
        changed(nodes, 2, &[1]),
        changed(nodes, 16, &[3]),
        changed(nodes, 24, &[0; 32]),
        framed(3, &body(nodes)[..40]),
        framed(4, &[0; 8]),
        changed(zeroes, 8, &[0]),
        framed(6, &[0; 7]),
        framed(7, &[0; 31]),
        framed(8, &[0]),
        framed(8, &[0, 0, 0xFF]),
    ];
    for bytes in refused {
        let found = decode(&bytes);
        assert!(
            matches!(found, Err(ProtocolError::Malformed { at: 0, .. })),
            "{found:?}"
        );
    }
    let mut reserved = bytes_of(ask);
    reserved[5] = 1;
    let crc = checksum(&reserved[..8], &reserved[HEADER..], &[]);
    reserved[8..12].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(
        decode(&reserved),
        Err(ProtocolError::Malformed { .. })
    ));
}

#[test]
fn a_hello_of_a_later_version_is_understood_and_a_long_text_cut() {
    let mut body = bytes_of(&Message::Hello(hello()))[HEADER..].to_vec();
    body[10] = 9;
    body.extend([1; 100]);
    let Ok(Some(Message::Hello(later))) = decode(&framed(1, &body)) else {
        panic!("a longer Hello was refused");
    };
    assert_eq!(later.versions.common(Versions::SPOKEN), Some(1));
    assert_eq!(Versions::new(2, 3).unwrap().common(Versions::SPOKEN), None);

    let text = "ä".repeat(300);
    let reason = Reason::Other(99);
    let long = Message::Error(Farewell { reason, text });
    let Ok(Some(Message::Error(cut))) = decode(&bytes_of(&long)) else {
        panic!("a long text was refused");
    };
    assert_eq!((cut.reason, cut.text), (reason, "ä".repeat(256)));
}

proptest! {
    #[test]
    fn noise_with_a_right_checksum_is_a_message_or_an_error(
        kind in 0..10_u8, body in prop::collection::vec(any::<u8>(), 0..300)
    ) {
        let bytes = framed(kind, &body);
        if let Ok(Some(message)) = decode(&bytes)
            && !matches!(message, Message::Hello(_))
        {
            prop_assert_eq!(bytes_of(&message), bytes);
        }
    }

    #[test]
    fn noise_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut decoder = Decoder::new(BlockSize::MIN);
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(_)) = decoder.decode(&mut buffer) {}
    }
}
