//! The bodies of messages.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use afterimage_block::Length;
use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{FAN_OUT, Farewell, Hello, Message, Place, Reason, TEXT, data_max};
use crate::tree::Node;
use crate::{BlockIndex, BlockSize};

const NODE: usize = 32;

/// The longest bodies of nodes and of errors.
const NODES: u64 = 24 + (FAN_OUT * NODE) as u64;
const ERROR: u64 = 2 + TEXT as u64;

/// The most bytes that the body of a message of this kind may have; `None` of an unknown kind.
pub(super) fn length_max(kind: u8, block_size: BlockSize) -> Option<u32> {
    let most = match kind {
        1 => 256,
        2 => 24,
        3 => NODES,
        4 => data_max(block_size).saturating_add(8),
        5 | 9 => 16,
        6 => 8,
        7 => NODE as u64,
        8 => ERROR,
        _ => return None,
    };
    u32::try_from(most).ok()
}

impl Message {
    pub(super) const fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::Ask { .. } => 2,
            Self::Nodes { .. } => 3,
            Self::Data { .. } => 4,
            Self::Zeroes { .. } => 5,
            Self::Written { .. } => 6,
            Self::Done { .. } => 7,
            Self::Error(_) => 8,
            Self::Found { .. } => 9,
        }
    }

    /// What it is called.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "Hello",
            Self::Ask { .. } => "Ask",
            Self::Nodes { .. } => "Nodes",
            Self::Data { .. } => "Data",
            Self::Zeroes { .. } => "Zeroes",
            Self::Written { .. } => "Written",
            Self::Done { .. } => "Done",
            Self::Error(_) => "Error",
            Self::Found { .. } => "Found",
        }
    }

    /// Appends what of the body is not data, and gives the data.
    pub(super) fn put_body(&self, body: &mut BytesMut) -> Bytes {
        match self {
            Self::Hello(hello) => hello.put(body),
            Self::Ask { of, settled } => {
                body.put_u8(of.level);
                body.put_bytes(0, 7);
                body.put_u64_le(of.index);
                body.put_u64_le(settled.get());
            }
            Self::Nodes { of, children } => put_nodes(*of, children, body),
            Self::Data { first, bytes } => {
                body.put_u64_le(first.get());
                return bytes.clone();
            }
            Self::Zeroes { first, count } => {
                body.put_u64_le(first.get());
                body.put_u64_le(*count);
            }
            Self::Written { count } => body.put_u64_le(*count),
            Self::Found { sent, zeroed } => {
                body.put_u64_le(sent.get());
                body.put_u64_le(zeroed.get());
            }
            Self::Done { root } => body.put_slice(root.as_bytes()),
            Self::Error(farewell) => {
                body.put_u16_le(farewell.reason.code());
                let end = farewell.text.floor_char_boundary(TEXT);
                body.put_slice(farewell.text.get(..end).unwrap_or_default().as_bytes());
            }
        }
        Bytes::new()
    }

    /// The message with this body, which is not too long.
    pub(super) fn parse(kind: u8, mut body: Bytes) -> Result<Self, &'static str> {
        let exactly = |length: usize| {
            let right = body.len() == length;
            right.then_some(()).ok_or("its length is wrong")
        };
        match kind {
            1 => return Hello::parse(body).map(Self::Hello),
            2 => exactly(24)?,
            3 => return parse_nodes(body),
            4 if body.len() < 9 => return Err("it holds no data"),
            5 | 9 => exactly(16)?,
            6 => exactly(8)?,
            7 => exactly(NODE)?,
            8 if body.len() < 2 => return Err("it has no code"),
            _ => {}
        }
        Ok(match kind {
            2 => {
                let of = parse_place(body.get_u64_le(), body.get_u64_le())?;
                let settled = BlockIndex::new(body.get_u64_le());
                Self::Ask { of, settled }
            }
            4 => {
                let first = BlockIndex::new(body.get_u64_le());
                Self::Data { first, bytes: body }
            }
            5 => {
                let first = BlockIndex::new(body.get_u64_le());
                let count = body.get_u64_le();
                if count == 0 {
                    return Err("it names no blocks");
                }
                Self::Zeroes { first, count }
            }
            6 => {
                let count = body.get_u64_le();
                Self::Written { count }
            }
            9 => {
                let sent = Length::new(body.get_u64_le());
                let zeroed = Length::new(body.get_u64_le());
                Self::Found { sent, zeroed }
            }
            7 => {
                let root = take_node(&mut body);
                Self::Done { root }
            }
            _ => {
                let reason = Reason::of(body.get_u16_le());
                let text = std::str::from_utf8(&body).map_err(|_| "its text is not UTF-8")?;
                let text = text.to_owned();
                Self::Error(Farewell { reason, text })
            }
        })
    }
}

fn put_nodes(of: Place, children: &[Node], body: &mut BytesMut) {
    let bits = children.iter().take(FAN_OUT).enumerate();
    let mask = bits.fold(0_u64, |mask, (bit, node)| {
        mask | u64::from(!node.is_zero()) << bit
    });
    body.put_u8(of.level);
    body.put_u8(u8::try_from(children.len()).unwrap_or(u8::MAX));
    body.put_bytes(0, 6);
    body.put_u64_le(of.index);
    body.put_u64_le(mask);
    for node in children.iter().filter(|node| !node.is_zero()) {
        body.put_slice(node.as_bytes());
    }
}

fn parse_nodes(mut body: Bytes) -> Result<Message, &'static str> {
    if body.len() < 24 {
        return Err("it is too short");
    }
    let level = body.get_u8();
    let count = body.get_u8();
    if body.get_uint_le(6) != 0 {
        return Err("its reserved bytes are not zero");
    }
    let index = body.get_u64_le();
    let mask = body.get_u64_le();
    if count == 0 || usize::from(count) > FAN_OUT {
        return Err("a node has 1 to 64 children");
    }
    if mask.checked_shr(count.into()).unwrap_or_default() != 0 {
        return Err("its mask names children that it does not have");
    }
    if body.len() != NODE.saturating_mul(mask.count_ones() as usize) {
        return Err("its length is not that of its nodes");
    }
    let mut children = Vec::with_capacity(count.into());
    for bit in 0..count {
        if mask.checked_shr(bit.into()).unwrap_or_default() & 1 == 0 {
            children.push(Node::ZERO);
            continue;
        }
        let node = take_node(&mut body);
        if node.is_zero() {
            return Err("its mask denies that a node is zero");
        }
        children.push(node);
    }
    let of = Place { level, index };
    Ok(Message::Nodes { of, children })
}

fn parse_place(level: u64, index: u64) -> Result<Place, &'static str> {
    let level = u8::try_from(level).map_err(|_| "its reserved bytes are not zero")?;
    Ok(Place { level, index })
}

/// The node at the front of `body`, which holds one.
fn take_node(body: &mut Bytes) -> Node {
    let mut bytes = [0; NODE];
    body.copy_to_slice(&mut bytes);
    Node::new(bytes)
}
