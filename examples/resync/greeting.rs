//! What is said before a resync begins: who speaks, and how large a disk is.

use std::io::{Read, Write};

use afterimage_block::{Epoch, Length, SessionId};
use afterimage_resync::protocol::{Decoder, Hello, Message, Role, Versions};
use afterimage_resync::{Algorithm, BlockSize, Error, Grid};
use anyhow::{Result, bail};
use bytes::BytesMut;

/// Asks the source at the other end how large its disk is. Nothing was said to it before.
pub(super) fn ask_size(
    block_size: BlockSize,
    algorithm: Algorithm,
    reader: &mut impl Read,
    writer: &mut impl Write,
) -> Result<Length> {
    let asked = Hello {
        versions: Versions::SPOKEN,
        role: Role::Target,
        algorithm,
        session: SessionId::random(),
        grid: Grid::new(Length::ZERO, block_size),
        epoch: Epoch::ZERO,
        afresh: false,
        dry: false,
        reread: None,
    };
    say(asked, writer)?;
    let (told, _) = greet(reader)?;
    Ok(told.grid.size())
}

/// Answers one who asked how large this source's disk is.
pub(super) fn answer_size(asked: &Hello, size: Length, writer: &mut impl Write) -> Result<()> {
    let grid = Grid::new(size, asked.grid.block_size());
    let role = Role::Source;
    say(
        Hello {
            role,
            grid,
            ..*asked
        },
        writer,
    )
}

fn say(hello: Hello, writer: &mut impl Write) -> Result<()> {
    writer.write_all(&Message::Hello(hello).encode().head)?;
    Ok(writer.flush()?)
}

/// What the other end says first, and the bytes that were read for it.
pub(super) fn greet(reader: &mut impl Read) -> Result<(Hello, Vec<u8>)> {
    let mut decoder = Decoder::new(BlockSize::MIN);
    let (mut said, mut unread) = (Vec::new(), BytesMut::new());
    let mut chunk = [0; 512];
    loop {
        match decoder.decode(&mut unread)? {
            Some(Message::Hello(hello)) => return Ok((hello, said)),
            Some(_) => bail!("the other end said something before Hello"),
            None => {}
        }
        let count = reader.read(&mut chunk)?;
        if count == 0 {
            return Err(Error::Closed.into());
        }
        let read = chunk.get(..count).unwrap_or_default();
        said.extend_from_slice(read);
        unread.extend_from_slice(read);
    }
}
