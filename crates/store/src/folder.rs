//! A local folder as an object store that honours conditions.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use afterimage_block::ContentDigest;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};
use sha2::{Digest, Sha256};

use crate::cas::lock_file;
use crate::layout::is_mutable;
use crate::manifest::LENGTH_MAX;

/// A folder whose mutable objects have the digest of their content as their tag, and are replaced under the
/// lock that everybody takes who replaces one in this folder.
#[derive(Debug)]
pub(crate) struct ConditionalFolder {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) lock: PathBuf,
}

fn tag(content: &[u8]) -> String {
    format!("\"{}\"", ContentDigest::new(Sha256::digest(content).into()))
}

fn changed(path: &Path) -> Error {
    Error::Precondition {
        path: path.to_string(),
        source: "its tag is another".into(),
    }
}

impl ConditionalFolder {
    /// The content of a mutable object.
    async fn content(&self, path: &Path) -> Result<(ObjectMeta, Bytes)> {
        let found = self.objects.get(path).await?;
        if found.meta.size > LENGTH_MAX {
            return Err(Error::Generic {
                store: "folder",
                source: format!("`{path}` is too long").into(),
            });
        }
        let mut meta = found.meta.clone();
        let content = found.bytes().await?;
        meta.e_tag = Some(tag(&content));
        Ok((meta, content))
    }

    async fn replace(&self, path: &Path, payload: PutPayload, mode: PutMode) -> Result<PutResult> {
        let lock = lock_file(self.lock.clone()).await;
        let _lock = lock.map_err(|error| Error::Generic {
            store: "folder",
            source: error.into(),
        })?;
        if let PutMode::Update(expected) = mode {
            let present = match self.content(path).await {
                Err(Error::NotFound { .. }) => return Err(changed(path)),
                present => present?.0.e_tag,
            };
            if present != expected.e_tag {
                return Err(changed(path));
            }
            return self.put(path, payload, PutMode::Overwrite).await;
        }
        self.put(path, payload, mode).await
    }

    async fn put(&self, path: &Path, payload: PutPayload, mode: PutMode) -> Result<PutResult> {
        let content = Bytes::from(payload.clone());
        let put = self.objects.put_opts(path, payload, mode.into()).await?;
        let e_tag = Some(tag(&content));
        Ok(PutResult { e_tag, ..put })
    }
}

impl fmt::Display for ConditionalFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.objects.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for ConditionalFolder {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        if !is_mutable(location) {
            return self.objects.put_opts(location, payload, options).await;
        }
        self.replace(location, payload, options.mode).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        if is_mutable(location) {
            return Err(Error::NotSupported {
                source: format!("`{location}` is not put in parts").into(),
            });
        }
        self.objects.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if !is_mutable(location) {
            return self.objects.get_opts(location, options).await;
        }
        let (meta, content) = self.content(location).await?;
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(range) => range.as_range(meta.size).map_err(|error| Error::Generic {
                store: "folder",
                source: Box::new(error),
            })?,
            None => 0..meta.size,
        };
        let at = |byte: u64| {
            usize::try_from(byte)
                .unwrap_or(usize::MAX)
                .min(content.len())
        };
        let part = content.slice(at(range.start)..at(range.end));
        let payload = futures::stream::iter([Ok(part)]).boxed();
        Ok(GetResult {
            payload: GetResultPayload::Stream(payload),
            meta,
            range,
            attributes: object_store::Attributes::default(),
            extensions: object_store::Extensions::default(),
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.objects.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}
