//! Digests of blocks, chunks, pages and disks.

use afterimage_block::{ContentDigest, Extent, Length, Offset};
use bytes::Bytes;
use object_store::path::Path;
use object_store::{GetOptions, ObjectStoreExt, PutPayload};
use sha2::{Digest, Sha256};

use crate::layout::{BLOCK, CHUNK, DiskLayout, PAGE};
use crate::{Error, Result, Store};

const DIGEST: usize = 32;
/// Blocks of a chunk.
const CHUNK_BLOCKS: usize = 16;

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

/// The digests of the blocks of one page of a disk: 64 MiB, the last one shorter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// The concatenated digests.
    digests: Vec<u8>,
}

impl Page {
    /// The page of `extent`, all zeros.
    pub(crate) fn zero(extent: Extent) -> Self {
        let blocks = extent.length().get().div_ceil(BLOCK.get());
        Self {
            digests: vec![0; usize::try_from(blocks).unwrap_or(usize::MAX) * DIGEST],
        }
    }

    pub(crate) fn digest(&self) -> ContentDigest {
        digest_or_none(&self.digests)
    }

    /// The digest of the block that `at` bytes into the page lie in.
    pub(crate) fn block(&self, at: Length) -> ContentDigest {
        let number = usize::try_from(at.get() / BLOCK.get()).unwrap_or(usize::MAX);
        let digest = self.digests.chunks_exact(DIGEST).nth(number);
        let digest = digest.and_then(|digest| digest.try_into().ok());
        ContentDigest::new(digest.unwrap_or_default())
    }

    fn chunk_digests(&self, number: usize) -> &[u8] {
        let chunk = CHUNK_BLOCKS * DIGEST;
        self.digests.chunks(chunk).nth(number).unwrap_or_default()
    }

    /// The digest of the `number`th chunk of the page.
    pub(crate) fn chunk(&self, number: usize) -> ContentDigest {
        digest_or_none(self.chunk_digests(number))
    }

    /// Puts the digests of the `number`th chunk's blocks; what there is more of them than the page
    /// has room for is left out.
    pub(crate) fn set_chunk(&mut self, number: usize, digests: &[u8]) {
        let places = self.digests.chunks_mut(CHUNK_BLOCKS * DIGEST).nth(number);
        for (place, digest) in places.unwrap_or_default().iter_mut().zip(digests) {
            *place = *digest;
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

/// The digests of all pages of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Root {
    pub(crate) pages: Vec<ContentDigest>,
}

impl Root {
    pub(crate) fn digest(&self) -> ContentDigest {
        ContentDigest::new(Sha256::digest(self.encode()).into())
    }

    fn encode(&self) -> Vec<u8> {
        self.pages
            .iter()
            .flat_map(|digest| *digest.as_bytes())
            .collect()
    }
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

/// The objects of one disk's index and content.
#[derive(Clone, Debug)]
pub(crate) struct DiskObjects {
    pub(crate) store: Store,
    pub(crate) layout: DiskLayout,
    pub(crate) size: Length,
}

impl DiskObjects {
    async fn get(&self, path: &Path, length: u64) -> Result<Bytes> {
        let failed = |source| Error::store("read", path, source);
        let found = self.store.objects.get(path).await.map_err(failed)?;
        if found.meta.size != length {
            let reason = format!("it has {} bytes and should have {length}", found.meta.size);
            return Err(Error::damaged(path, reason));
        }
        let bytes = found.bytes().await.map_err(failed)?;
        if bytes.len() as u64 != length {
            return Err(Error::cut(path, length, bytes.len()));
        }
        Ok(bytes)
    }

    /// `length` bytes of an object, from `at`.
    pub(crate) async fn range(&self, path: &Path, at: u64, length: u64) -> Result<Bytes> {
        let failed = |source| Error::store("read", path, source);
        let range = at..at.saturating_add(length);
        let options = GetOptions::new().with_range(Some(range.clone()));
        let objects = &self.store.objects;
        let found = objects.get_opts(path, options).await.map_err(failed)?;
        if found.meta.size < range.end {
            return Err(Error::damaged(path, "it is cut short"));
        }
        let bytes = found.bytes().await.map_err(failed)?;
        if bytes.len() as u64 != length {
            return Err(Error::cut(path, length, bytes.len()));
        }
        Ok(bytes)
    }

    async fn put(&self, path: &Path, bytes: Bytes) -> Result<()> {
        let put = self.store.objects.put(path, PutPayload::from(bytes)).await;
        put.map(drop)
            .map_err(|source| Error::store("write", path, source))
    }

    pub(crate) async fn read_root(&self, digest: ContentDigest) -> Result<Root> {
        let path = self.layout.root(&digest);
        let count = self.size.get().div_ceil(PAGE.get());
        let bytes = self.get(&path, count * DIGEST as u64).await?;
        if ContentDigest::new(Sha256::digest(&bytes).into()) != digest {
            return Err(Error::damaged(&path, "its digest does not match"));
        }
        let digest = |bytes: &[u8]| ContentDigest::new(bytes.try_into().unwrap_or_default());
        Ok(Root {
            pages: bytes.chunks_exact(DIGEST).map(digest).collect(),
        })
    }

    pub(crate) async fn write_root(&self, root: &Root) -> Result<ContentDigest> {
        let digest = root.digest();
        self.put(&self.layout.root(&digest), root.encode().into())
            .await?;
        Ok(digest)
    }

    /// The page of `extent`, whose digest is `digest`.
    pub(crate) async fn read_page(&self, extent: Extent, digest: ContentDigest) -> Result<Page> {
        let zero = Page::zero(extent);
        if digest == ContentDigest::NONE {
            return Ok(zero);
        }
        let path = self.layout.page(number(extent.start(), PAGE), &digest);
        let page = Page {
            digests: self.get(&path, zero.digests.len() as u64).await?.into(),
        };
        if page.digest() != digest {
            return Err(Error::damaged(&path, "its digest does not match"));
        }
        Ok(page)
    }

    pub(crate) async fn write_page(&self, extent: Extent, page: &Page) -> Result<ContentDigest> {
        let digest = page.digest();
        if digest != ContentDigest::NONE {
            let path = self.layout.page(number(extent.start(), PAGE), &digest);
            self.put(&path, page.digests.clone().into()).await?;
        }
        Ok(digest)
    }

    /// The content of a chunk, verified block by block; `None` if it is all zeros.
    pub(crate) async fn read_chunk(&self, chunk: Extent, page: &Page) -> Result<Option<Bytes>> {
        let in_page = chunk_in_page(chunk);
        let digest = page.chunk(in_page);
        if digest == ContentDigest::NONE {
            return Ok(None);
        }
        let path = self.layout.chunk(number(chunk.start(), CHUNK), &digest);
        let content = self.get(&path, chunk.length().get()).await?;
        if !page.verifies(in_page, &content) {
            return Err(Error::damaged(
                &path,
                "its content does not match its digests",
            ));
        }
        Ok(Some(content))
    }

    /// Stores the content of a chunk whose digest is `digest`; nothing for zeros. Returns what was
    /// sent.
    pub(crate) async fn write_chunk(
        &self,
        chunk: Extent,
        digest: &ContentDigest,
        content: Bytes,
    ) -> Result<Length> {
        if *digest == ContentDigest::NONE {
            return Ok(Length::ZERO);
        }
        let sent = Length::of(&content);
        let path = self.layout.chunk(number(chunk.start(), CHUNK), digest);
        self.put(&path, content).await?;
        Ok(sent)
    }

    /// Deletes an object that no manifest names any more. What cannot be deleted is left behind.
    pub(crate) async fn delete(&self, path: &Path) {
        if let Err(error) = self.store.objects.delete(path).await {
            tracing::warn!(object = %path, %error, "an unused object is left behind");
        }
    }
}
