//! Digests of blocks, chunks, pages and disks.

use afterimage_block::{ContentDigest, Epoch, Extent, Length, Offset, Sequence};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::Result;
use crate::layout::{BLOCK, Birth, CHUNK, Node, PAGE};
use crate::objects::DiskObjects;

const DIGEST: usize = 32;
/// The encoded birth of an object.
const BIRTH: usize = 16;
/// Blocks of a chunk.
const CHUNK_BLOCKS: usize = 16;
/// A chunk's entry in its page.
const CHUNK_ENTRY: usize = BIRTH + CHUNK_BLOCKS * DIGEST;
/// A page's entry in the root.
const PAGE_ENTRY: usize = BIRTH + DIGEST;

impl Birth {
    fn encode(self) -> [u8; BIRTH] {
        let mut bytes = [0; BIRTH];
        let (sequence, epoch) = bytes.split_at_mut(BIRTH / 2);
        sequence.copy_from_slice(&self.sequence.get().to_le_bytes());
        epoch.copy_from_slice(&self.epoch.get().to_le_bytes());
        bytes
    }

    /// Of an entry's first bytes.
    fn decode(entry: &[u8]) -> Self {
        let mut numbers = entry.chunks_exact(BIRTH / 2);
        let mut number = || {
            let bytes = numbers.next().and_then(|bytes| bytes.try_into().ok());
            u64::from_le_bytes(bytes.unwrap_or_default())
        };
        Self {
            sequence: Sequence::new(number()),
            epoch: Epoch::new(number()),
        }
    }
}

/// The SHA-256 of `bytes`, or [`ContentDigest::NONE`] if they are all zero.
fn digest_or_none(bytes: &[u8]) -> ContentDigest {
    if is_zero(bytes) {
        return ContentDigest::NONE;
    }
    ContentDigest::new(Sha256::digest(bytes).into())
}

fn is_zero(bytes: &[u8]) -> bool {
    let zero = |part: &[u8]| part.iter().fold(0, |or, byte| or | byte) == 0;
    let parts = bytes.chunks_exact(64);
    zero(parts.remainder()) && parts.into_iter().all(zero)
}

/// The digest of one block of a disk: 64 KiB, the last one shorter. 32 zero bytes if it is all zeros.
pub fn block_digest(block: &[u8]) -> ContentDigest {
    digest_or_none(block)
}

/// The chunks of one page of a disk: 64 MiB, the last one shorter. Of each, when its object was
/// written, and the digests of its blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// The concatenated entries.
    entries: Vec<u8>,
}

impl Page {
    /// The page of `extent`, all zeros.
    pub(crate) fn zero(extent: Extent) -> Self {
        let count = |unit: Length| {
            let count = extent.length().get().div_ceil(unit.get());
            usize::try_from(count).unwrap_or(usize::MAX)
        };
        Self {
            entries: vec![0; count(CHUNK) * BIRTH + count(BLOCK) * DIGEST],
        }
    }

    /// The same of `extent`, which begins where it does and is no shorter: what there is more is zeros.
    pub(crate) fn extended_to(&self, extent: Extent) -> Self {
        let mut extended = Self::zero(extent);
        for (place, byte) in extended.entries.iter_mut().zip(&self.entries) {
            *place = *byte;
        }
        extended
    }

    pub(crate) fn digest(&self) -> ContentDigest {
        digest_or_none(&self.entries)
    }

    /// The length of its object.
    pub(crate) fn length(&self) -> Length {
        Length::of(&self.entries)
    }

    fn entry(&self, number: usize) -> &[u8] {
        let entry = self.entries.chunks(CHUNK_ENTRY).nth(number);
        entry.unwrap_or_default()
    }

    fn chunk_digests(&self, number: usize) -> &[u8] {
        self.entry(number).get(BIRTH..).unwrap_or_default()
    }

    /// The digest of the block that `at` bytes into the page lie in.
    pub(crate) fn block(&self, at: Length) -> ContentDigest {
        let number = |at: u64, unit: Length| usize::try_from(at / unit.get()).unwrap_or(usize::MAX);
        let chunk = self.chunk_digests(number(at.get(), CHUNK));
        let block = number(at.get() % CHUNK.get(), BLOCK);
        let digest = chunk.chunks_exact(DIGEST).nth(block);
        let digest = digest.and_then(|digest| digest.try_into().ok());
        ContentDigest::new(digest.unwrap_or_default())
    }

    /// The `number`th chunk of the page.
    pub(crate) fn chunk(&self, number: usize) -> Node {
        let digest = digest_or_none(self.chunk_digests(number));
        Node::new(Birth::decode(self.entry(number)), digest)
    }

    /// All chunks, in order.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = Node> {
        let count = self.entries.len().div_ceil(CHUNK_ENTRY);
        (0..count).map(|number| self.chunk(number))
    }

    /// Puts the digests of the `number`th chunk's blocks, and when its object was written; what there
    /// is more of them than the page has room for is left out.
    pub(crate) fn set_chunk(&mut self, number: usize, birth: Birth, digests: &[u8]) {
        let birth = Node::new(birth, chunk_digest(digests)).birth.encode();
        let entry = self.entries.chunks_mut(CHUNK_ENTRY).nth(number);
        let bytes = birth.iter().chain(digests);
        for (place, byte) in entry.unwrap_or_default().iter_mut().zip(bytes) {
            *place = *byte;
        }
    }

    /// Whether `content` is what the digests of the `number`th chunk say.
    pub(crate) fn verifies(&self, number: usize, content: &[u8]) -> bool {
        let digests = self.chunk_digests(number).chunks_exact(DIGEST);
        let blocks = content.chunks(block_bytes());
        digests.len() == blocks.len()
            && digests
                .zip(blocks)
                .all(|(digest, block)| digest == block_digest(block).as_bytes())
    }
}

/// The concatenated digests of the blocks of a chunk's content.
pub(crate) fn block_digests(content: &[u8]) -> Vec<u8> {
    let blocks = content.chunks(block_bytes());
    blocks
        .flat_map(|block| *block_digest(block).as_bytes())
        .collect()
}

/// The digest of a chunk, from its blocks' digests.
pub(crate) fn chunk_digest(block_digests: &[u8]) -> ContentDigest {
    digest_or_none(block_digests)
}

fn block_bytes() -> usize {
    BLOCK.to_usize().unwrap_or(usize::MAX)
}

/// All pages of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Root {
    pub(crate) pages: Vec<Node>,
}

impl Root {
    /// The root of a disk of `size`, all zeros.
    pub(crate) fn zero(size: Length) -> Self {
        Self {
            pages: pages(size).map(|_| Node::ZERO).collect(),
        }
    }

    /// The same of a disk of `size`, which is no smaller: what there is more is zeros.
    pub(crate) fn extended_to(mut self, size: Length) -> Self {
        self.pages.resize(pages(size).count(), Node::ZERO);
        self
    }

    /// The length of its object.
    pub(crate) fn length(&self) -> Length {
        Length::new((self.pages.len() * PAGE_ENTRY) as u64)
    }

    fn encode(&self) -> Vec<u8> {
        let entry = |page: &Node| {
            let birth = page.birth.encode().into_iter();
            birth.chain(*page.digest.as_bytes()).collect::<Vec<_>>()
        };
        self.pages.iter().flat_map(entry).collect()
    }

    fn decode(bytes: &[u8]) -> Self {
        let page = |entry: &[u8]| {
            let digest = entry.get(BIRTH..).and_then(|bytes| bytes.try_into().ok());
            let digest = ContentDigest::new(digest.unwrap_or_default());
            Node::new(Birth::decode(entry), digest)
        };
        Self {
            pages: bytes.chunks_exact(PAGE_ENTRY).map(page).collect(),
        }
    }
}

/// The digest of a root, which is none of nothing: that of a disk of zeros is one, too.
fn root_digest(encoded: &[u8]) -> ContentDigest {
    ContentDigest::new(Sha256::digest(encoded).into())
}

/// The extents of the pages of a disk of `size`, in order.
pub(crate) fn pages(size: Length) -> impl Iterator<Item = Extent> {
    Extent::whole(size)
        .into_iter()
        .flat_map(|whole| whole.pieces(PAGE))
}

/// The number of the page, chunk (by `unit`) that holds `at`.
pub(crate) fn number(at: Offset, unit: Length) -> u64 {
    at.get() / unit.get()
}

/// The number of a chunk within its page.
pub(crate) fn chunk_in_page(chunk: Extent) -> usize {
    let within = chunk.start().get() % PAGE.get() / CHUNK.get();
    usize::try_from(within).unwrap_or(usize::MAX)
}

impl DiskObjects {
    pub(crate) async fn read_root(&self, node: Node) -> Result<Root> {
        let path = self.layout.root(&node);
        let length = self.size.get().div_ceil(PAGE.get()) * PAGE_ENTRY as u64;
        let is_root = |bytes: &Bytes| root_digest(bytes) == node.digest;
        let bytes = self.get_proved(&path, length, is_root).await?;
        Ok(Root::decode(&bytes))
    }

    pub(crate) async fn write_root(&self, birth: Birth, root: &Root) -> Result<ContentDigest> {
        let encoded = root.encode();
        let digest = root_digest(&encoded);
        let path = self.layout.root(&Node { birth, digest });
        self.put(&path, encoded.into()).await?;
        Ok(digest)
    }

    /// The page of `extent`.
    pub(crate) async fn read_page(&self, extent: Extent, node: Node) -> Result<Page> {
        let zero = Page::zero(extent);
        if node == Node::ZERO {
            return Ok(zero);
        }
        let path = self.layout.page(number(extent.start(), PAGE), &node);
        let length = zero.length().get();
        let is_page = |bytes: &Bytes| digest_or_none(bytes) == node.digest;
        let bytes = self.get_proved(&path, length, is_page).await?;
        Ok(Page {
            entries: bytes.into(),
        })
    }

    /// Stores a page; nothing for zeros.
    pub(crate) async fn write_page(
        &self,
        extent: Extent,
        birth: Birth,
        page: &Page,
    ) -> Result<Node> {
        let node = Node::new(birth, page.digest());
        if node != Node::ZERO {
            let path = self.layout.page(number(extent.start(), PAGE), &node);
            self.put(&path, page.entries.clone().into()).await?;
        }
        Ok(node)
    }

    /// The content of a chunk, verified block by block; `None` if it is all zeros.
    pub(crate) async fn read_chunk(&self, chunk: Extent, page: &Page) -> Result<Option<Bytes>> {
        let in_page = chunk_in_page(chunk);
        let node = page.chunk(in_page);
        if node == Node::ZERO {
            return Ok(None);
        }
        let path = self.layout.chunk(number(chunk.start(), CHUNK), &node);
        let is_chunk = |content: &Bytes| page.verifies(in_page, content);
        let length = chunk.length().get();
        self.get_proved(&path, length, is_chunk).await.map(Some)
    }

    /// Stores the content of a chunk; nothing for zeros. Returns what was sent.
    pub(crate) async fn write_chunk(
        &self,
        chunk: Extent,
        node: Node,
        content: Bytes,
    ) -> Result<Length> {
        if node == Node::ZERO {
            return Ok(Length::ZERO);
        }
        let sent = Length::of(&content);
        let path = self.layout.chunk(number(chunk.start(), CHUNK), &node);
        self.put(&path, content).await?;
        Ok(sent)
    }
}
