//! The first copy of a disk.

use std::sync::Arc;

use afterimage_block::{BlockRead, ContentDigest, Extent, Length, RunKind};
use futures::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::index::{Page, Root, block_digests, chunk_digest, chunk_in_page, pages};
use crate::layout::{Birth, CHUNK, Node};
use crate::objects::DiskObjects;
use crate::{Error, Result};

/// Chunks of one page that are read and stored at the same time.
const PARALLEL: usize = 4;

/// How far the copy of one disk is. It serializes, so that a copy goes on after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BaseProgress(Vec<ContentDigest>);

/// Copies one disk into a store, page by page.
#[derive(Debug)]
pub struct BaseWriter {
    objects: DiskObjects,
    root: Root,
}

/// What the copy of a page took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCopied {
    /// The length of the page.
    pub copied: Length,
    /// The bytes that were not zeros, and so were sent.
    pub sent: Length,
}

impl BaseWriter {
    pub(crate) fn new(objects: DiskObjects, progress: BaseProgress) -> Self {
        let page = |digest| Node::new(Birth::BASE, digest);
        let root = Root {
            pages: progress.0.into_iter().map(page).collect(),
        };
        Self { objects, root }
    }

    /// The page to be copied next; `None` once all are.
    pub fn next_page(&self) -> Option<Extent> {
        pages(self.objects.size).nth(self.root.pages.len())
    }

    /// How far it is.
    pub fn progress(&self) -> BaseProgress {
        BaseProgress(self.root.pages.iter().map(|page| page.digest).collect())
    }

    /// Copies the next page from `source`. Holes are not read, zeros not sent. Nothing, if all pages
    /// are copied.
    ///
    /// # Errors
    /// [`Error::Disk`], [`Error::Store`]; the page is then to be copied again.
    pub async fn copy_page(&mut self, source: Arc<dyn BlockRead>) -> Result<PageCopied> {
        let Some(extent) = self.next_page() else {
            return Ok(PageCopied::default());
        };
        let objects = &self.objects;
        let chunks: Vec<_> = extent.pieces(CHUNK).collect();
        let mut copies = stream::iter(chunks)
            .map(|chunk| copy_chunk(objects, chunk, Arc::clone(&source)))
            .buffered(PARALLEL);
        let mut page = Page::zero(extent);
        let mut sent = Length::ZERO;
        while let Some(copy) = copies.try_next().await? {
            page.set_chunk(chunk_in_page(copy.chunk), Birth::BASE, &copy.digests);
            sent = sent.saturating_add(copy.sent);
        }
        drop(copies);
        let page = self.objects.write_page(extent, Birth::BASE, &page).await?;
        self.root.pages.push(page);
        Ok(PageCopied {
            copied: extent.length(),
            sent,
        })
    }

    /// Ends the copy; the root to be published.
    ///
    /// # Errors
    /// [`Error::Store`]. [`Error::Refused`] before all pages are copied.
    pub async fn finish(self) -> Result<ContentDigest> {
        if let Some(page) = self.next_page() {
            return Err(Error::Refused(format!(
                "the base still lacks the page {page}"
            )));
        }
        self.objects.write_root(Birth::BASE, &self.root).await
    }
}

struct ChunkCopied {
    chunk: Extent,
    digests: Vec<u8>,
    sent: Length,
}

async fn copy_chunk(
    objects: &DiskObjects,
    chunk: Extent,
    source: Arc<dyn BlockRead>,
) -> Result<ChunkCopied> {
    let read = move || -> Result<_> {
        let content = read_chunk(source.as_ref(), chunk)?;
        let digests = content.as_deref().map(block_digests).unwrap_or_default();
        Ok((content, digests))
    };
    let (content, digests) = blocking(read).await?;
    let node = Node::new(Birth::BASE, chunk_digest(&digests));
    let content = content.unwrap_or_default().into();
    let sent = objects.write_chunk(chunk, node, content).await?;
    Ok(ChunkCopied {
        chunk,
        digests,
        sent,
    })
}

/// The content of a chunk; `None` if it is one hole.
pub(crate) fn read_chunk(source: &dyn BlockRead, chunk: Extent) -> Result<Option<Vec<u8>>> {
    let mut content: Option<Vec<u8>> = None;
    let length = chunk.length().to_usize().unwrap_or_default();
    let mut at = chunk.start();
    while let Some(run) = source.next_run(at)?
        && let Some(part) = run.extent.intersection(chunk)
    {
        at = part.end();
        if run.kind == RunKind::Hole {
            continue;
        }
        let content = content.get_or_insert_with(|| vec![0; length]);
        let skip = part
            .start()
            .checked_since(chunk.start())
            .and_then(Length::to_usize);
        let (skip, length) = (skip.unwrap_or_default(), part.length().to_usize());
        let place = content.get_mut(skip..skip + length.unwrap_or_default());
        source.read_at(part.start(), place.unwrap_or_default())?;
    }
    Ok(content)
}

/// Runs `work` where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Refused(format!("the work was abandoned: {error}"))),
    }
}
