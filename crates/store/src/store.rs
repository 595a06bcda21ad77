//! Stores by URL.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use afterimage_block::{Length, free_space};
use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::{ObjectStore, path::Path};
use serde_json::json;

use crate::cas::{Cas, Swap, proved};
use crate::folder::ConditionalFolder;
use crate::{Error, Inlining, Key, MachineName, Replica, Result, layout};

/// The stores in memory of this process, by name.
static MEMORY: LazyLock<Mutex<HashMap<String, Arc<InMemory>>>> = LazyLock::new(Mutex::default);

fn memory(name: &str) -> Arc<InMemory> {
    let mut stores = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(stores.entry(name.into()).or_default())
}

/// Names and values of settings, as in the environment.
pub(crate) type Settings = Vec<(String, String)>;

/// The settings of the environment.
fn environment() -> Settings {
    let texts = std::env::vars_os().map(|(name, value)| (name.into_string(), value.into_string()));
    texts
        .filter_map(|(name, value)| Some((name.ok()?, value.ok()?)))
        .collect()
}

#[cfg(feature = "_http")]
fn in_cloud(
    url: &str,
    feature: &'static str,
    settings: &dyn Fn() -> Settings,
) -> Result<Arc<dyn ObjectStore>> {
    crate::cloud::open(url, feature, &settings())
}

#[cfg(not(feature = "_http"))]
fn in_cloud(
    url: &str,
    feature: &'static str,
    _: &dyn Fn() -> Settings,
) -> Result<Arc<dyn ObjectStore>> {
    let url = url.into();
    Err(Error::NotBuiltIn { url, feature })
}

#[cfg(feature = "server")]
fn on_server(url: &str, settings: &dyn Fn() -> Settings) -> Result<Arc<dyn ObjectStore>> {
    crate::remote::open(url, &settings())
}

#[cfg(not(feature = "server"))]
fn on_server(url: &str, _: &dyn Fn() -> Settings) -> Result<Arc<dyn ObjectStore>> {
    Err(Error::NotBuiltIn {
        url: url.into(),
        feature: SERVER,
    })
}

/// A place for replicas: a local folder, or any object store.
#[derive(Clone)]
pub struct Store {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) cas: Cas,
    url: String,
    pub(crate) key: Option<Key>,
    pub(crate) inlining: Inlining,
}

/// The format of stores, to which their marker bears witness.
pub(crate) const FORMAT: u64 = 3;
/// No marker is longer.
const MARKER_MAX: u64 = 4096;

/// The folder that `url` names, if it names one.
fn folder_of(url: &str) -> Option<&str> {
    let folder = url
        .strip_prefix("file://")
        .or((!url.contains("://")).then_some(url));
    folder.filter(|folder| !folder.is_empty())
}

/// The feature for stores that are served by another host.
const SERVER: &str = "server";

/// The feature of this crate that the URLs of a cloud or server need; `None` if `url` is not one of them.
fn feature_of(url: &str) -> Option<&'static str> {
    match url.split_once("://")?.0 {
        "az" | "azure" | "adl" | "abfs" | "abfss" => Some("azure"),
        "s3" | "s3a" => Some("aws"),
        "gs" => Some("gcp"),
        "afterimage" => Some(SERVER),
        _ => None,
    }
}

/// How far `url` can be shown, if a query or a password follows.
fn before_secret(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    let name = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let password = name.rsplit_once('@').and_then(|(user, _)| user.find(':'));
    let at = password.or_else(|| rest.find(['?', '#']))?;
    url.get(..scheme.len() + 3 + at)
}

impl fmt::Debug for Store {
    /// Only where it is: `object_store` shows credentials when it is debugged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.url).finish()
    }
}

impl Store {
    /// Opens the store that `url` names, and begins one if there is none: a path, `file:///PATH`,
    /// a cloud's or a replica server's URL (see the crate's features), or `memory://NAME`, which lives
    /// as long as the process and is the same for all who open it. A cloud's settings are those of the
    /// environment whose names begin with `AZURE_`, `AWS_` or `GOOGLE_`, as `object_store` documents
    /// them; a replica server's are files named by `AFTERIMAGE_SERVER_AUTHORITY`, `_CERTIFICATE` and
    /// `_KEY`, and perhaps `AFTERIMAGE_SERVER_BANDWIDTH`, bytes a second that are sent at most.
    ///
    /// # Errors
    /// [`Error::Url`], [`Error::SecretInUrl`], [`Error::NotBuiltIn`], [`Error::Settings`],
    /// [`Error::Folder`], [`Error::OtherFormat`], [`Error::NoConditions`], [`Error::Store`].
    pub async fn open(url: &str) -> Result<Self> {
        Self::at(url, &environment)?.begin().await
    }

    /// As [`open`](Self::open), with these settings instead of the environment's.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_with(
        url: &str,
        settings: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self> {
        let settings: Settings = settings.into_iter().collect();
        Self::at(url, &|| settings.clone())?.begin().await
    }

    /// Opens the store that `url` names, which must be there: a folder that is not mounted at the
    /// moment is not taken for an empty store.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`Error::Unreachable`].
    pub async fn open_existing(url: &str) -> Result<Self> {
        if let Some(folder) = folder_of(url) {
            let marker = FilePath::new(folder).join(layout::marker().as_ref());
            if !marker.exists() {
                return Err(Error::Unreachable(url.into()));
            }
        }
        let store = Self::at(url, &environment)?;
        store.check_reachable().await?;
        store.begin().await
    }

    /// Whether [`open`](Self::open) would take `url`, as far as it tells without opening anything.
    ///
    /// # Errors
    /// [`Error::Url`], [`Error::SecretInUrl`], [`Error::NotBuiltIn`], [`Error::Settings`].
    pub fn check_url(url: &str) -> Result<()> {
        if folder_of(url).is_some() {
            return Ok(());
        }
        Self::at(url, &environment).map(drop)
    }

    /// Whether the store is still there.
    pub(crate) async fn check_reachable(&self) -> Result<()> {
        match self.cas.read(&layout::marker(), MARKER_MAX).await? {
            Some(_) => Ok(()),
            None => Err(Error::Unreachable(self.url.clone())),
        }
    }

    fn at(url: &str, settings: &dyn Fn() -> Settings) -> Result<Self> {
        if let Some(name) = url.strip_prefix("memory://") {
            return Ok(Self::conditional(memory(name), url));
        }
        if let Some(folder) = folder_of(url) {
            return Self::in_folder(FilePath::new(folder), url);
        }
        if let Some(shown) = before_secret(url) {
            return Err(Error::SecretInUrl { url: shown.into() });
        }
        match feature_of(url) {
            Some(SERVER) => Ok(Self::conditional(on_server(url, settings)?, url)),
            Some(feature) => {
                let objects = in_cloud(url, feature, settings)?;
                Ok(Self::conditional(objects, url))
            }
            None => Err(Error::Url { url: url.into() }),
        }
    }

    fn in_folder(path: &FilePath, url: &str) -> Result<Self> {
        let opened = (|| {
            std::fs::create_dir_all(path)?;
            path.canonicalize()
        })();
        let root = opened.map_err(|source| Error::Folder {
            operation: "create",
            path: path.display().to_string(),
            source,
        })?;
        let objects = LocalFileSystem::new_with_prefix(&root)
            .map_err(|source| Error::store("open", &Path::default(), source))?;
        let objects: Arc<dyn ObjectStore> = Arc::new(objects.with_fsync(true));
        let lock: PathBuf = root.join("manifest.lock");
        let cas = Cas::Locked(Arc::clone(&objects), lock);
        Ok(Self {
            objects,
            cas,
            url: url.into(),
            key: None,
            inlining: Inlining::default(),
        })
    }

    fn conditional(objects: Arc<dyn ObjectStore>, url: &str) -> Self {
        let cas = Cas::Conditional(Arc::clone(&objects));
        Self {
            objects,
            cas,
            url: url.into(),
            key: None,
            inlining: Inlining::default(),
        }
    }

    /// A store on any object store that honours conditional puts.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn with_objects(objects: Arc<dyn ObjectStore>) -> Result<Self> {
        Self::conditional(objects, "object store").begin().await
    }

    /// The objects, conditions honoured: what a server needs that lets other hosts have the store, too.
    pub fn objects(&self) -> Arc<dyn ObjectStore> {
        match &self.cas {
            Cas::Conditional(objects) => Arc::clone(objects),
            Cas::Locked(objects, lock) => Arc::new(ConditionalFolder {
                objects: Arc::clone(objects),
                lock: lock.clone(),
            }),
        }
    }

    /// Opens and begins encrypted machines with `key`, and refuses others; with `None`, which is
    /// the default, it is the other way round.
    pub fn with_key(self, key: impl Into<Option<Key>>) -> Self {
        let key = key.into();
        Self { key, ..self }
    }

    /// Has manifests hold as much of the logs as `inlining` says, in what is written from now on.
    pub fn with_inlining(self, inlining: Inlining) -> Self {
        Self { inlining, ..self }
    }

    /// Checks the store's format, or marks a new one, and that conditions are honoured.
    async fn begin(self) -> Result<Self> {
        proved(|| self.check_marker()).await?;
        let session = afterimage_block::SessionId::random();
        self.cas
            .probe(&Path::from(format!("probe-{session}")))
            .await?;
        Ok(self)
    }

    async fn check_marker(&self) -> Result<()> {
        let marker = layout::marker();
        let bytes = Bytes::from(json!({ "format": FORMAT }).to_string());
        let found = match self.cas.read(&marker, MARKER_MAX).await? {
            Some(found) => found.bytes,
            None => match self.cas.replace(&marker, None, bytes.clone()).await? {
                Swap::Done(_) => bytes,
                Swap::Conflict(found) => found.map_or(bytes, |found| found.bytes),
            },
        };
        let format: Option<serde_json::Value> = serde_json::from_slice(&found).ok();
        let format = format.and_then(|value| value.get("format")?.as_u64());
        match format {
            Some(FORMAT) => Ok(()),
            Some(found) => Err(Error::OtherFormat { found }),
            None => {
                let reason = "it does not tell the store's format";
                Err(Error::damaged(&marker, reason))
            }
        }
    }

    /// Whether it is in a local folder.
    pub(crate) fn is_folder(&self) -> bool {
        matches!(self.cas, Cas::Locked(..))
    }

    /// The free space of a store in a local folder; `None` elsewhere, where nobody tells.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn available(&self) -> Result<Option<Length>> {
        let Cas::Locked(_, lock) = &self.cas else {
            return Ok(None);
        };
        let folder = lock.parent().unwrap_or(lock);
        Ok(Some(free_space(folder)?))
    }

    /// The replica called `name`, which may not exist yet.
    pub fn replica(&self, name: MachineName) -> Replica {
        Replica::new(self.clone(), name)
    }

    /// The names of all replicas, in order. Lists the store: not for a path that is often taken.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn machines(&self) -> Result<Vec<MachineName>> {
        let folder = layout::machines();
        let found = self.objects.list_with_delimiter(Some(&folder)).await;
        let found = found.map_err(|source| Error::store("list", &folder, source))?;
        let names = found.common_prefixes.iter().filter_map(Path::filename);
        let mut names: Vec<MachineName> = names.filter_map(|name| name.parse().ok()).collect();
        names.sort();
        Ok(names)
    }
}
