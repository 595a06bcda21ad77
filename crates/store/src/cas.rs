//! Replacing an object only if it is what one thinks it is.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion};

use crate::{Error, Result};

/// An object as it was read, to be replaced only while it is still that.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    pub(crate) bytes: Bytes,
    version: UpdateVersion,
}

/// Whether a replacement was made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Swap {
    Done,
    /// The object is no longer what was expected.
    Conflict,
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
        if found.meta.size > length_max {
            return Err(Error::damaged(path, "it is too long"));
        }
        let version = UpdateVersion {
            e_tag: found.meta.e_tag.clone(),
            version: found.meta.version.clone(),
        };
        let bytes = found.bytes().await.map_err(failed)?;
        Ok(Some(Current { bytes, version }))
    }

    /// Replaces the object at `path`, which must be `expected` (`None`: must not be there).
    pub(crate) async fn replace(
        &self,
        path: &Path,
        expected: Option<&Current>,
        bytes: Bytes,
    ) -> Result<Swap> {
        match self {
            Self::Conditional(_) => {
                let mode = match expected {
                    None => PutMode::Create,
                    Some(current) => PutMode::Update(current.version.clone()),
                };
                self.put(path, bytes, mode).await
            }
            Self::Locked(_, lock) => {
                let _lock = lock_file(lock.clone()).await?;
                let present = self.read(path, u64::MAX).await?;
                if present.map(|current| current.bytes) != expected.map(|e| e.bytes.clone()) {
                    return Ok(Swap::Conflict);
                }
                self.put(path, bytes, PutMode::Overwrite).await
            }
        }
    }

    async fn put(&self, path: &Path, bytes: Bytes, mode: PutMode) -> Result<Swap> {
        use object_store::Error as Store;
        let options = PutOptions::from(mode);
        match self
            .store()
            .put_opts(path, PutPayload::from(bytes), options)
            .await
        {
            Ok(_) => Ok(Swap::Done),
            Err(
                Store::AlreadyExists { .. } | Store::Precondition { .. } | Store::NotFound { .. },
            ) => Ok(Swap::Conflict),
            Err(source) => Err(Error::store("write", path, source)),
        }
    }

    /// Tries on the object `path` whether conditions hold; a store that ignores them is refused.
    pub(crate) async fn probe(&self, path: &Path) -> Result<()> {
        if matches!(self, Self::Locked(..)) {
            return Ok(());
        }
        let bytes = Bytes::from_static;
        self.put(path, bytes(b"1"), PutMode::Overwrite).await?;
        if self.replace(path, None, bytes(b"2")).await? == Swap::Done {
            return Err(Error::NoConditions("an object was created over another"));
        }
        let stale = self.read(path, 1024).await?;
        if self.replace(path, stale.as_ref(), bytes(b"3")).await? == Swap::Conflict {
            return Err(Error::NoConditions(
                "an object with the right tag was not replaced",
            ));
        }
        if self.replace(path, stale.as_ref(), bytes(b"4")).await? == Swap::Done {
            return Err(Error::NoConditions(
                "an object with a stale tag was replaced",
            ));
        }
        let deleted = self.store().delete(path).await;
        deleted.map_err(|source| Error::store("delete", path, source))
    }
}

/// Locks the file, waiting for whoever has it; unlocked when the handle is dropped.
async fn lock_file(path: PathBuf) -> Result<File> {
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
