//! The head of a footer: what a sealed log holds, and how its index is laid out.

use afterimage_block::{ContentDigest, Length};

use crate::cipher::Cipher;
use crate::fields::{all_zero, bytes_at, put, u32_at, u64_at};
use crate::pages::{PAGE, PIECE, fence_length, page_count};
use crate::{DiskStates, Error, Result, StateDigest, Trailer};

const MAGIC: [u8; 4] = *b"AIFT";
const HEAD: usize = 128;
/// The pieces of the index are in pages, behind a fence table.
const PAGED: u32 = 1;
/// The state of the disk before the log stands behind the head.
const BEFORE: u32 = 2;
/// That after the log stands there, too.
const AFTER: u32 = 4;
/// The footer has a tag, and so has each of its pages.
const TAGGED: u32 = 8;
/// Where the tag stands in the head.
const TAG_AT: usize = 104;

/// What proves, to those who have the key, that a part of a footer is what was sealed.
pub(crate) type Tag = [u8; Cipher::TAG];

/// A part of a footer that has a tag of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    /// The footer that starts at this position in the file, up to its pages.
    Proved(u64),
    /// The page with this number, from 0.
    Page(u64),
}

impl Part {
    /// The nonce of its tag: no record's, since the last four bytes of those are zero.
    pub(crate) fn nonce(self) -> [u8; 12] {
        let (number, domain) = match self {
            Self::Proved(at) => (at, 1_u32),
            Self::Page(number) => (number, 2),
        };
        let mut nonce = [0; 12];
        put(&mut nonce, 0, &number.to_le_bytes());
        put(&mut nonce, 8, &domain.to_le_bytes());
        nonce
    }
}

/// What a sealed log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The number of records.
    pub records: u64,
    /// The sum of their payloads.
    pub payload: Length,
    /// The SHA-256 of header and records: the log's identity in the chain.
    pub content: ContentDigest,
    /// The content digest of the disk's log before this one; [`ContentDigest::NONE`] if there is none.
    pub predecessor: ContentDigest,
    /// The states of the disk before and after, where they are known.
    pub states: DiskStates,
    /// The disk's size after the log, if it got another one.
    pub resized: Option<Length>,
    /// The length of the whole file.
    pub file_length: Length,
}

/// The head of a footer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) summary: Summary,
    /// How many pieces the index has.
    pub(crate) pieces: usize,
    /// Whether they are in pages.
    pub(crate) paged: bool,
    /// The tag, in a log that has one.
    tag: Option<Tag>,
}

impl Head {
    /// The most bytes that it has in a file.
    pub(crate) const LEN_MAX: usize = HEAD + 2 * StateDigest::LEN;

    /// The head of the footer of a log of `pieces` that this release writes. A tag is to be put into
    /// it.
    pub(crate) fn of(summary: Summary, pieces: usize, tagged: bool) -> Self {
        Self {
            summary,
            pieces,
            paged: pieces > PAGE,
            tag: tagged.then_some([0; Cipher::TAG]),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let summary = &self.summary;
        let DiskStates { before, after } = summary.states;
        let flag = |set, flag| if set { flag } else { 0 };
        let states = flag(before.is_some(), BEFORE) | flag(after.is_some(), AFTER);
        let flags = flag(self.paged, PAGED) | states | flag(self.is_tagged(), TAGGED);
        let mut bytes = vec![0; HEAD];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 4, &flags.to_le_bytes());
        put(&mut bytes, 8, &summary.records.to_le_bytes());
        put(&mut bytes, 16, &summary.payload.get().to_le_bytes());
        put(&mut bytes, 24, &(self.pieces as u64).to_le_bytes());
        put(&mut bytes, 32, summary.content.as_bytes());
        put(&mut bytes, 64, summary.predecessor.as_bytes());
        let resized = summary.resized.map_or(0, Length::get);
        put(&mut bytes, 96, &resized.to_le_bytes());
        for state in [before, after].iter().flatten() {
            bytes.extend_from_slice(state.as_bytes());
        }
        bytes
    }

    /// The head in the first bytes of the footer that `trailer` announces: [`LEN_MAX`](Self::LEN_MAX)
    /// of them, if it has as many. Nothing is proved but that its counts fit the footer.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub(crate) fn parse(bytes: &[u8], trailer: &Trailer) -> Result<Self> {
        let damaged = |reason| Err(Error::damaged(trailer.footer_at, reason));
        let Some((head, mut behind)) = bytes.split_at_checked(HEAD) else {
            return damaged("the footer is too short");
        };
        let flags = u32_at(head, 4);
        let tag = (flags & TAGGED != 0).then(|| bytes_at(head, TAG_AT));
        let reserved = &head[TAG_AT + tag.map_or(0, |tag: Tag| tag.len())..];
        if bytes_at::<4>(head, 0) != MAGIC || !all_zero(reserved) {
            return damaged("the footer contradicts itself");
        }
        if flags & !(PAGED | BEFORE | AFTER | TAGGED) != 0 {
            return damaged("the footer has flags that this release does not know");
        }
        let mut states = DiskStates::default();
        for (flag, state) in [(BEFORE, &mut states.before), (AFTER, &mut states.after)] {
            if flags & flag == 0 {
                continue;
            }
            let Some((digest, rest)) = behind.split_first_chunk() else {
                return damaged("the footer is too short");
            };
            (*state, behind) = (Some(StateDigest::new(*digest)), rest);
        }
        let resized = Some(Length::new(u64_at(head, 96))).filter(|size| !size.is_zero());
        let parsed = Self {
            summary: Summary {
                records: u64_at(head, 8),
                payload: Length::new(u64_at(head, 16)),
                content: ContentDigest::new(bytes_at(head, 32)),
                predecessor: ContentDigest::new(bytes_at(head, 64)),
                states,
                resized,
                file_length: trailer.file_length(),
            },
            pieces: usize::try_from(u64_at(head, 24)).unwrap_or(usize::MAX),
            paged: flags & PAGED != 0,
            tag,
        };
        let needless = parsed.paged && parsed.pieces <= PAGE;
        if needless || parsed.footer_length() != trailer.footer_length.to_usize() {
            return damaged("the footer contradicts itself");
        }
        Ok(parsed)
    }

    /// Puts the tag that `cipher` makes into the bytes of the footer at `at`.
    pub(crate) fn put_tag(&self, footer: &mut [u8], at: u64, cipher: &Cipher) {
        let proved = footer.get(..self.proved_length()).unwrap_or_default();
        let tag = cipher.tag(Part::Proved(at).nonce(), proved);
        put(footer, TAG_AT, &tag);
    }

    /// Refuses the footer that begins with `bytes` unless it is what was sealed, up to its pages: by
    /// the trailer's checksum and, in a log that has a tag, by `cipher`.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub(crate) fn prove(
        &self,
        bytes: &[u8],
        trailer: &Trailer,
        cipher: Option<&Cipher>,
    ) -> Result<()> {
        let at = trailer.footer_at;
        let proved = bytes.get(..self.proved_length());
        let whole = |proved: &&[u8]| crc32fast::hash(proved) == trailer.checksum;
        let Some(proved) = proved.filter(whole) else {
            return Err(Error::damaged(at, "the footer's checksum does not match"));
        };
        let authentic = match (self.tag, cipher) {
            (None, None) => true,
            (Some(tag), Some(cipher)) => {
                let mut untagged = proved.to_vec();
                put(&mut untagged, TAG_AT, &[0; Cipher::TAG]);
                cipher.proves(Part::Proved(at).nonce(), &untagged, &tag)
            }
            // Else the tag could be taken off, with the flag that says that it is there.
            _ => false,
        };
        if authentic {
            return Ok(());
        }
        Err(Error::damaged(at, "the footer is not what was sealed"))
    }

    /// Whether the footer and its pages have tags.
    pub(crate) fn is_tagged(&self) -> bool {
        self.tag.is_some()
    }

    /// Where the fence table or, without one, the index starts in the footer.
    pub(crate) fn length(&self) -> usize {
        let DiskStates { before, after } = self.summary.states;
        let known = usize::from(before.is_some()) + usize::from(after.is_some());
        HEAD + known * StateDigest::LEN
    }

    /// Where the pieces start in the footer.
    pub(crate) fn pieces_at(&self) -> usize {
        let fences = if self.paged {
            page_count(self.pieces)
        } else {
            0
        };
        let fence = fence_length(self.is_tagged());
        // As many as there are bytes in a file, a sixteenth of them twice.
        self.length().saturating_add(fences.saturating_mul(fence))
    }

    /// How many bytes of the footer the trailer's checksum covers.
    pub(crate) fn proved_length(&self) -> usize {
        if self.paged {
            self.pieces_at()
        } else {
            self.footer_length().unwrap_or(usize::MAX)
        }
    }

    fn footer_length(&self) -> Option<usize> {
        self.pieces
            .checked_mul(PIECE)?
            .checked_add(self.pieces_at())
    }
}
