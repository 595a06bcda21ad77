//! The signatures of a disk, one block after the other.

use std::marker::PhantomData;

use afterimage_block::{BlockRead, Extent, Length, Offset, Run, RunKind};
use digest::Digest;
use sha2::Sha256;

use crate::buffer::Buffer;
use crate::spans::{Spans, read_blocks};
use crate::verdict::bytes_of;
use crate::{BlockIndex, Error, Result, Scope, Side, Signature, sign};

/// An iterator over the signatures of a disk's blocks, in order.
///
/// Holes are told by the disk and not read. Memory is one buffer of 256 KiB, or of one block if that
/// is larger. After an error it ends; a new one can go on at [`cursor`](Self::cursor).
pub struct Signer<'d, D: Digest = Sha256> {
    disk: &'d dyn BlockRead,
    scope: Scope,
    cursor: Offset,
    spans: Spans<'d>,
    ahead: Ahead,
    buffer: Buffer,
    read: Length,
    digest: PhantomData<fn() -> D>,
}

/// What is known from the cursor on.
enum Ahead {
    /// Nothing.
    Unknown,
    /// A hole that ends here.
    Hole { end: Offset },
    /// The buffer holds what lies from `start` to `end`; behind it comes `error`, if any.
    Data {
        start: Offset,
        end: Offset,
        error: Option<Error>,
    },
    /// The end, or an error was given.
    End,
}

impl<'d, D: Digest> Signer<'d, D> {
    /// The signatures of the blocks in `scope` from `start` on, which is rounded down to a block.
    ///
    /// # Errors
    /// [`Error::OtherDisk`] if `disk` is not of the scope's size.
    pub fn new(disk: &'d dyn BlockRead, scope: Scope, start: Offset) -> Result<Self> {
        let grid = scope.grid();
        let (expected, found) = (grid.size(), disk.size());
        let side = Side::Source;
        if expected != found {
            return Err(Error::OtherDisk {
                side,
                expected,
                found,
            });
        }
        Ok(Self {
            disk,
            scope,
            cursor: grid.floor(start),
            spans: Spans::new(disk, side, grid),
            ahead: Ahead::Unknown,
            buffer: Buffer::default(),
            read: Length::ZERO,
            digest: PhantomData,
        })
    }

    /// With what the disk said before of a run of data.
    pub(crate) fn knowing(self, data: Option<Extent>) -> Self {
        let spans = self.spans.knowing(data);
        Self { spans, ..self }
    }

    /// With a buffer that was read into before.
    pub(crate) fn with_buffer(self, buffer: Buffer) -> Self {
        Self { buffer, ..self }
    }

    /// The buffer, for the next one.
    pub(crate) fn into_buffer(self) -> Buffer {
        self.buffer
    }

    /// The run of data that the disk told last, if it did.
    pub(crate) fn known_data(&self) -> Option<Extent> {
        self.spans.known_data()
    }

    /// The end of the last block that was signed.
    pub const fn cursor(&self) -> Offset {
        self.cursor
    }

    /// The bytes read of the disk so far.
    pub const fn read(&self) -> Length {
        self.read
    }
}

impl<D: Digest> Signer<'_, D> {
    /// Finds what comes next in the scope, and reads it if it is data.
    fn look_ahead(&mut self) -> Result<Ahead> {
        let Some(doubt) = self.scope.next_from(self.cursor) else {
            return Ok(Ahead::End);
        };
        let start = doubt.start();
        self.cursor = start;
        let Run { extent, kind } = self.spans.next(doubt)?;
        if kind == RunKind::Hole {
            let end = extent.end();
            return Ok(Ahead::Hole { end });
        }
        let (side, grid) = (Side::Source, self.scope.grid());
        let (bytes, error) = read_blocks(self.disk, side, grid, extent, &mut self.buffer);
        let length = Length::of(bytes);
        self.read = self.read.saturating_add(length);
        let end = start.checked_add(length).unwrap_or(start);
        Ok(Ahead::Data { start, end, error })
    }

    /// Signs the block at the cursor and moves past it.
    fn sign_next(&mut self) -> Option<(BlockIndex, Signature<D>)> {
        let grid = self.scope.grid();
        let index = grid.index_at(self.cursor);
        let block = grid.block(index)?;
        let signature = match self.ahead {
            Ahead::Data { start, end, .. } => {
                let held = Extent::between(start, end)?;
                sign(bytes_of(&self.buffer, held, block))
            }
            _ => Signature::Zero,
        };
        self.cursor = block.end();
        Some((index, signature))
    }
}

impl<D: Digest> Iterator for Signer<'_, D> {
    type Item = Result<(BlockIndex, Signature<D>)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match &mut self.ahead {
                Ahead::End => return None,
                Ahead::Hole { end } | Ahead::Data { end, .. } if self.cursor < *end => {
                    return self.sign_next().map(Ok);
                }
                Ahead::Data { error, .. } if error.is_some() => {
                    let error = error.take();
                    self.ahead = Ahead::End;
                    return error.map(Err);
                }
                _ => {
                    let ahead = self.look_ahead();
                    match ahead {
                        Ok(ahead) => self.ahead = ahead,
                        Err(error) => {
                            self.ahead = Ahead::End;
                            return Some(Err(error));
                        }
                    }
                }
            }
        }
    }
}
