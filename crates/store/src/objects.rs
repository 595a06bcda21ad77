//! The objects of one disk, plain or sealed.

use std::ops::Range;
use std::sync::Arc;

use afterimage_block::{DiskId, Length};
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use object_store::path::Path;
use object_store::{GetOptions, ObjectStoreExt, PutPayload};

use crate::base::blocking;
use crate::cas::proved;
use crate::cipher::{SealedObject, beginning_of, sealed_length};
use crate::layout::DiskLayout;
use crate::pack::{LogBytes, Packs};
use crate::{Error, Result, Store};

/// The objects of one disk's index and content.
#[derive(Clone, Debug)]
pub(crate) struct DiskObjects {
    pub(crate) store: Store,
    pub(crate) layout: DiskLayout,
    pub(crate) id: DiskId,
    /// The size of the disk at the barrier whose tree they are of.
    pub(crate) size: Length,
    pub(crate) packs: Packs,
}

/// An object that is read in parts. If it is sealed, all of them are of one object, whatever is put
/// in its place meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct OpenObject {
    pub(crate) path: Path,
    content: Content,
}

/// What an open object's parts are of.
#[derive(Clone, Debug)]
enum Content {
    Plain,
    Sealed(Arc<SealedObject>),
    /// It is here already.
    Held(LogBytes),
}

impl OpenObject {
    /// What is called `path` and is here already.
    pub(crate) fn held(path: Path, bytes: Bytes) -> Self {
        let content = Content::Held(LogBytes(bytes));
        Self { path, content }
    }

    /// Whether its parts are those of the object in the store.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.content, Content::Plain)
    }
}

impl DiskObjects {
    /// The same, with the packs that were read for other disks.
    pub(crate) fn sharing(self, packs: &Packs) -> Self {
        let packs = packs.clone();
        Self { packs, ..self }
    }

    /// A whole object of `length` that `proves` knows.
    pub(crate) async fn get_proved(
        &self,
        path: &Path,
        length: u64,
        proves: impl Fn(&Bytes) -> bool + Sync,
    ) -> Result<Bytes> {
        let proves = &proves;
        let read = || async move {
            let bytes = self.get(path, length).await?;
            if proves(&bytes) {
                return Ok(bytes);
            }
            Err(Error::damaged(path, "its digest does not match"))
        };
        proved(read).await
    }

    async fn get(&self, path: &Path, length: u64) -> Result<Bytes> {
        let stored = self.stored_length(length);
        let failed = |source| Error::store("read", path, source);
        let found = self.store.objects.get(path).await.map_err(failed)?;
        if found.meta.size != stored {
            return Err(wrong_length(path, found.meta.size, stored));
        }
        let bytes = found.bytes().await.map_err(failed)?;
        if bytes.len() as u64 != stored {
            return Err(Error::cut(path, stored, bytes.len()));
        }
        let Some(cipher) = self.layout.cipher.clone() else {
            return Ok(bytes);
        };
        let place = path.clone();
        let open = move || {
            let content = cipher.open(place.as_ref(), &bytes);
            content.map(Bytes::from).ok_or_else(|| not_ours(&place))
        };
        blocking(open).await
    }

    /// How long the object is that holds `length` bytes.
    fn stored_length(&self, length: u64) -> u64 {
        match self.layout.cipher {
            Some(_) => sealed_length(length),
            None => length,
        }
    }

    /// Refuses an object that is missing or cannot hold `length`.
    pub(crate) async fn check_length(&self, path: &Path, length: Length) -> Result<()> {
        let head = self.store.objects.head(path).await;
        let size = head
            .map_err(|source| Error::store("read", path, source))?
            .size;
        let stored = self.stored_length(length.get());
        if size != stored {
            return Err(wrong_length(path, size, stored));
        }
        Ok(())
    }

    /// The object at `path`, which holds `length` bytes, to be read in parts; its first `head` bytes.
    pub(crate) async fn open(
        &self,
        path: &Path,
        length: u64,
        head: u64,
    ) -> Result<(OpenObject, Bytes)> {
        let path = path.clone();
        let Some(cipher) = &self.layout.cipher else {
            let head = self.stored_range(&path, 0..head).await?;
            let content = Content::Plain;
            return Ok((OpenObject { path, content }, head));
        };
        let stored = self.stored_range(&path, beginning_of(head, length)).await?;
        let opened = cipher.open_beginning(path.as_ref(), &stored, head, length);
        let (object, content) = opened.ok_or_else(|| not_ours(&path))?;
        let object = OpenObject {
            path,
            content: Content::Sealed(Arc::new(object)),
        };
        Ok((object, content.into()))
    }

    /// `length` bytes of an object, from `at`.
    pub(crate) async fn range(&self, object: &OpenObject, at: u64, length: u64) -> Result<Bytes> {
        let range = at..at.saturating_add(length);
        let sealed = match &object.content {
            Content::Plain => return self.stored_range(&object.path, range).await,
            Content::Held(LogBytes(bytes)) => return part(&object.path, bytes, range),
            Content::Sealed(sealed) => Arc::clone(sealed),
        };
        let stored = self
            .stored_range(&object.path, sealed.stored(&range))
            .await?;
        let path = object.path.clone();
        let open = move || {
            let content = sealed.part(&range, &stored);
            content.map(Bytes::from).ok_or_else(|| not_ours(&path))
        };
        blocking(open).await
    }

    async fn stored_range(&self, path: &Path, range: Range<u64>) -> Result<Bytes> {
        let failed = |source| Error::store("read", path, source);
        let options = GetOptions::new().with_range(Some(range.clone()));
        let objects = &self.store.objects;
        let cut_short = || Error::damaged(path, "it is cut short");
        let found = match objects.get_opts(path, options).await {
            Ok(found) => found,
            Err(source) => {
                // Of a range that begins behind the end stores say what they like.
                let size = objects.head(path).await.map(|meta| meta.size);
                let is_cut = size.is_ok_and(|size| size < range.end);
                return Err(if is_cut { cut_short() } else { failed(source) });
            }
        };
        if found.meta.size < range.end {
            return Err(cut_short());
        }
        let bytes = found.bytes().await.map_err(failed)?;
        let length = range.end.saturating_sub(range.start);
        if bytes.len() as u64 != length {
            return Err(Error::cut(path, length, bytes.len()));
        }
        Ok(bytes)
    }

    pub(crate) async fn put(&self, path: &Path, mut bytes: Bytes) -> Result<()> {
        if let Some(cipher) = self.layout.cipher.clone() {
            let place = path.clone();
            let seal = move || cipher.seal(place.as_ref(), &bytes).map(Bytes::from);
            bytes = blocking(seal).await?;
        }
        let put = self.store.objects.put(path, PutPayload::from(bytes)).await;
        put.map(drop)
            .map_err(|source| Error::store("write", path, source))
    }

    /// Deletes objects that no manifest names any more. What cannot be deleted is left behind.
    pub(crate) async fn delete(&self, paths: Vec<Path>) {
        let paths = stream::iter(paths.into_iter().map(Ok)).boxed();
        let mut deleted = self.store.objects.delete_stream(paths);
        while let Some(result) = deleted.next().await {
            match result {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => tracing::warn!(%error, "an unused object is left behind"),
            }
        }
    }
}

/// The bytes of `range` of what is called `path`.
pub(crate) fn part(path: &Path, bytes: &Bytes, range: Range<u64>) -> Result<Bytes> {
    let place = |at: u64| usize::try_from(at).ok().filter(|at| *at <= bytes.len());
    let found = place(range.start).zip(place(range.end));
    let (start, end) = found
        .filter(|(start, end)| start <= end)
        .ok_or_else(|| Error::damaged(path, "it is cut short"))?;
    Ok(bytes.slice(start..end))
}

fn wrong_length(path: &Path, found: u64, expected: u64) -> Error {
    Error::damaged(
        path,
        format!("it has {found} bytes and should have {expected}"),
    )
}

fn not_ours(path: &Path) -> Error {
    let reason = "it was not sealed for this place by its machine's key";
    Error::damaged(path, reason)
}
