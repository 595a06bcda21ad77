//! Replacing an object only if it is what one thinks it is.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use afterimage_block::ContentDigest;
use bytes::Bytes;
use object_store::path::Path;
use object_store::{
    ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, PutResult, UpdateVersion,
};
use sha2::{Digest, Sha256};

use crate::manifest::LENGTH_MAX;
use crate::{Error, Result};

/// An object that cannot be proved by what names it is read so often before it is called damaged:
/// bits flip on the way, too.
const READS: usize = 3;

/// The result of `read`, which is made again if it says that an object is damaged or of another
/// format.
pub(crate) async fn proved<T, F>(read: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    for _ in 1..READS {
        match read().await {
            Err(
                error @ (Error::Damaged { .. }
                | Error::OtherFormat { .. }
                | Error::RolledBack { .. }),
            ) => {
                tracing::warn!(%error, "it is read again");
            }
            result => return result,
        }
    }
    read().await
}

/// What tells an object from every other that was ever in its place, so that it is replaced only while it
/// is still that: the store's tag where conditions are the store's, and the content's digest.
#[derive(Clone, Debug)]
pub(crate) struct Stamp {
    version: UpdateVersion,
    digest: ContentDigest,
}

impl Stamp {
    fn of(bytes: &[u8], e_tag: Option<String>, version: Option<String>) -> Self {
        Self {
            version: UpdateVersion { e_tag, version },
            digest: ContentDigest::new(Sha256::digest(bytes).into()),
        }
    }

    /// Whether the store's own conditions can be made of it: not every answer to a put tells the tag.
    pub(crate) fn is_tagged(&self) -> bool {
        self.version.e_tag.is_some() || self.version.version.is_some()
    }
}

/// An object as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    pub(crate) bytes: Bytes,
    pub(crate) stamp: Stamp,
}

/// Whether a replacement was made.
#[derive(Debug)]
pub(crate) enum Swap {
    /// It was, and is this.
    Done(Stamp),
    /// The object is no longer what was expected, but this, or not there.
    Conflict(Option<Current>),
}

/// Compare-and-swap on single objects.
#[derive(Clone, Debug)]
pub(crate) enum Cas {
    /// By the store's conditional requests.
    Conditional(Arc<dyn ObjectStore>),
    /// In a local folder: under a lock of this file, by content.
    Locked(Arc<dyn ObjectStore>, PathBuf),
}

impl Cas {
    fn store(&self) -> &Arc<dyn ObjectStore> {
        match self {
            Self::Conditional(store) | Self::Locked(store, _) => store,
        }
    }

    /// The object at `path`, no longer than `length_max`; `None` if there is none.
    pub(crate) async fn read(&self, path: &Path, length_max: u64) -> Result<Option<Current>> {
        let failed = |source| Error::store("read", path, source);
        let found = match self.store().get(path).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            found => found.map_err(failed)?,
        };
        let size = found.meta.size;
        if size > length_max {
            return Err(Error::damaged(path, "it is too long"));
        }
        let (e_tag, version) = (found.meta.e_tag.clone(), found.meta.version.clone());
        let bytes = found.bytes().await.map_err(failed)?;
        if bytes.len() as u64 != size {
            return Err(Error::cut(path, size, bytes.len()));
        }
        let stamp = Stamp::of(&bytes, e_tag, version);
        Ok(Some(Current { bytes, stamp }))
    }

    /// Replaces the object at `path`, which must be `expected` (`None`: must not be there). `bytes`
    /// must be unlike any other that were ever put there: they tell whose replacement was made.
    pub(crate) async fn replace(
        &self,
        path: &Path,
        expected: Option<&Stamp>,
        bytes: Bytes,
    ) -> Result<Swap> {
        let put = match self {
            Self::Conditional(_) => {
                let mode = match expected {
                    None => PutMode::Create,
                    Some(stamp) => PutMode::Update(stamp.version.clone()),
                };
                self.put(path, bytes.clone(), mode).await
            }
            Self::Locked(_, lock) => {
                let _lock = lock_file(lock.clone()).await?;
                let present = self.read(path, u64::MAX).await?;
                if !is_same(present.as_ref(), expected) {
                    return Ok(Swap::Conflict(present));
                }
                self.put(path, bytes.clone(), PutMode::Overwrite).await
            }
        };
        match put {
            Ok(put) => Ok(Swap::Done(Stamp::of(&bytes, put.e_tag, put.version))),
            Err(error) => self.settle(path, expected, &bytes, error).await,
        }
    }

    /// What became of a replacement that was answered by `error`. The answer alone does not tell: it
    /// may be the second one, to a repetition of what was done already (412 to one's own object), and
    /// 409 is both "it exists" and "somebody else is at it".
    async fn settle(
        &self,
        path: &Path,
        expected: Option<&Stamp>,
        bytes: &Bytes,
        error: Error,
    ) -> Result<Swap> {
        match self.read(path, LENGTH_MAX).await {
            Ok(Some(present)) if present.bytes == *bytes => Ok(Swap::Done(present.stamp)),
            Ok(present) if !is_same(present.as_ref(), expected) => Ok(Swap::Conflict(present)),
            _ => Err(error),
        }
    }

    async fn put(&self, path: &Path, bytes: Bytes, mode: PutMode) -> Result<PutResult> {
        let options = PutOptions::from(mode);
        let put = self
            .store()
            .put_opts(path, PutPayload::from(bytes), options);
        put.await
            .map_err(|source| Error::store("write", path, source))
    }

    /// Tries on the object `path` whether conditions hold; a store that ignores them is refused.
    pub(crate) async fn probe(&self, path: &Path) -> Result<()> {
        if matches!(self, Self::Locked(..)) {
            return Ok(());
        }
        let bytes = Bytes::from_static;
        self.put(path, bytes(b"1"), PutMode::Overwrite).await?;
        if self.is_replaced(path, None, bytes(b"2")).await? {
            return Err(Error::NoConditions("an object was created over another"));
        }
        let stale = self.read(path, 1024).await?.map(|current| current.stamp);
        if !self.is_replaced(path, stale.as_ref(), bytes(b"3")).await? {
            return Err(Error::NoConditions(
                "an object with the right tag was not replaced",
            ));
        }
        if self.is_replaced(path, stale.as_ref(), bytes(b"4")).await? {
            return Err(Error::NoConditions(
                "an object with a stale tag was replaced",
            ));
        }
        if let Err(error) = self.store().delete(path).await {
            tracing::warn!(object = %path, %error, "the object that conditions were tried on is left behind");
        }
        Ok(())
    }

    /// Whether the object at `path` was replaced, where nobody else is at it.
    async fn is_replaced(
        &self,
        path: &Path,
        expected: Option<&Stamp>,
        bytes: Bytes,
    ) -> Result<bool> {
        use object_store::Error as Store;
        match self.replace(path, expected, bytes).await {
            Ok(swap) => Ok(matches!(swap, Swap::Done(_))),
            Err(Error::Store {
                source: Store::Precondition { .. } | Store::AlreadyExists { .. },
                ..
            }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn is_same(present: Option<&Current>, expected: Option<&Stamp>) -> bool {
    present.map(|current| current.stamp.digest) == expected.map(|stamp| stamp.digest)
}

/// Locks the file, waiting for whoever has it; unlocked when the handle is dropped.
pub(crate) async fn lock_file(path: PathBuf) -> Result<File> {
    let shown = path.display().to_string();
    let lock = move || {
        let mut options = std::fs::OpenOptions::new();
        let file = options
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)?;
        file.lock().map(|()| file)
    };
    let locked = tokio::task::spawn_blocking(lock).await;
    let locked = locked.map_err(std::io::Error::other).flatten();
    locked.map_err(|source| Error::Folder {
        operation: "lock",
        path: shown,
        source,
    })
}
