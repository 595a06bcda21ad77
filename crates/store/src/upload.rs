//! Sealed logs on their way to a store, proved as they are sent.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use afterimage_block::{ContentDigest, Length};
use afterimage_changelog::{Index, SealedLog, Trailer};
use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload, WriteMultipart};
use sha2::{Digest, Sha256};

use crate::base::blocking;
use crate::cipher::Sealing;
use crate::objects::DiskObjects;
use crate::{Error, Result};

/// Logs up to this length are put in one request, longer ones in parts of it. S3 refuses parts of less
/// than 5 MiB, all but the last.
pub(crate) const PART: u64 = 8 << 20;
/// Parts that are on their way at the same time.
const PARTS_IN_FLIGHT_MAX: usize = 2;

/// The bytes of `log`, which is short, if every one is of the log that was proved.
pub(crate) async fn content_of(log: &SealedLog) -> Result<Bytes> {
    let mut parts = Parts::of(log, None).await?;
    let content = parts.next().await?.unwrap_or_default();
    parts.check(log)?;
    Ok(content)
}

impl DiskObjects {
    /// Puts `log` at `path`, if every byte that is sent is one of the log that was proved. Where it is
    /// not, there is no object.
    pub(crate) async fn upload_log(&self, log: &SealedLog, path: &Path) -> Result<()> {
        let failed = |source| Error::store("write", path, source);
        let length = log.summary().file_length.get();
        let objects = &self.store.objects;
        let sealing = self.layout.cipher.as_ref();
        let sealing = sealing.map(|cipher| cipher.begin(path.as_ref(), length));
        let mut parts = Parts::of(log, sealing).await?;
        if length <= PART {
            let content = parts.next().await?.unwrap_or_default();
            parts.check(log)?;
            let put = objects.put(path, PutPayload::from(content)).await;
            return put.map(drop).map_err(failed);
        }
        let upload = objects.put_multipart(path).await.map_err(failed)?;
        let part = usize::try_from(PART).unwrap_or(usize::MAX);
        let mut upload = WriteMultipart::new_with_chunk_size(upload, part);
        match put_parts(parts, log, &mut upload).await {
            Ok(()) => upload.finish().await.map(drop).map_err(failed),
            Err(error) => {
                // What was put would be kept, and paid for, without a name.
                let _ = upload.abort().await;
                match error {
                    PartError::Log(error) => Err(error),
                    PartError::Store(source) => Err(failed(source)),
                }
            }
        }
    }
}

/// Why a part of a log was not put.
enum PartError {
    Log(Error),
    Store(object_store::Error),
}

async fn put_parts(
    mut parts: Parts,
    log: &SealedLog,
    upload: &mut WriteMultipart,
) -> Result<(), PartError> {
    while let Some(content) = parts.next().await.map_err(PartError::Log)? {
        let capacity = upload.wait_for_capacity(PARTS_IN_FLIGHT_MAX).await;
        capacity.map_err(PartError::Store)?;
        upload.put(content);
    }
    parts.check(log).map_err(PartError::Log)
}

/// What a log's object consists of, part by part.
struct Parts {
    file: Arc<File>,
    shown: String,
    at: u64,
    length: u64,
    proof: Proof,
    /// What comes before the next part, and what seals it.
    sealed: Option<(Vec<u8>, Sealing)>,
}

impl Parts {
    async fn of(log: &SealedLog, sealed: Option<(Vec<u8>, Sealing)>) -> Result<Self> {
        let length = log.summary().file_length.get();
        let local = log.path().to_owned();
        let (file, tail) = blocking(move || {
            let file = File::open(&local);
            let file = file.map_err(|source| unreadable(local.display().to_string(), source))?;
            let at = length.saturating_sub(Trailer::LEN as u64);
            let tail = read(&file, at, Trailer::LEN as u64);
            let tail = tail.map_err(|source| unreadable(local.display().to_string(), source))?;
            Ok((file, tail))
        })
        .await?;
        let trailer = Trailer::parse(&tail, log.summary().file_length);
        let trailer = trailer.map_err(|_| changed(log))?;
        Ok(Self {
            file: Arc::new(file),
            shown: log.path().display().to_string(),
            at: 0,
            length,
            proof: Proof::new(trailer.footer_at),
            sealed,
        })
    }

    /// The next part; `None` after the last.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.at >= self.length {
            return Ok(None);
        }
        let (file, shown, at) = (Arc::clone(&self.file), self.shown.clone(), self.at);
        let length = PART.min(self.length - at);
        let (mut proof, sealed) = (std::mem::take(&mut self.proof), self.sealed.take());
        let (content, sealing, proof) = blocking(move || {
            let content = read(&file, at, length).map_err(|source| unreadable(shown, source))?;
            proof.add(&content);
            let Some((mut out, mut sealing)) = sealed else {
                return Ok((content, None, proof));
            };
            sealing.seal(&content, &mut out)?;
            Ok((out, Some(sealing), proof))
        })
        .await?;
        self.at += length;
        self.proof = proof;
        self.sealed = sealing.map(|sealing| (Vec::new(), sealing));
        Ok(Some(content.into()))
    }

    /// Refuses parts that are not those of `log`, once all were taken.
    fn check(self, log: &SealedLog) -> Result<()> {
        if self.proof.proves(log) {
            return Ok(());
        }
        Err(changed(log))
    }
}

/// The digest of a log's header and records, and what follows them.
#[derive(Default)]
struct Proof {
    body: Sha256,
    body_left: u64,
    footer: Vec<u8>,
}

impl Proof {
    fn new(footer_at: u64) -> Self {
        Self {
            body_left: footer_at,
            ..Self::default()
        }
    }

    fn add(&mut self, content: &[u8]) {
        let left = usize::try_from(self.body_left).unwrap_or(usize::MAX);
        let (body, footer) = content.split_at(left.min(content.len()));
        self.body_left -= body.len() as u64;
        self.body.update(body);
        self.footer.extend_from_slice(footer);
    }

    /// Whether it is that of `log`, to the last byte: the footer proves itself, and names what the log
    /// was proved to hold.
    fn proves(self, log: &SealedLog) -> bool {
        let summary = log.summary();
        let body = ContentDigest::new(self.body.finalize().into());
        let Ok(trailer) = Trailer::parse(&self.footer, summary.file_length) else {
            return false;
        };
        let footer_end = self.footer.len().saturating_sub(Trailer::LEN);
        let footer = self.footer.get(..footer_end).unwrap_or_default();
        let parsed = Index::parse(footer, &trailer, log.header().disk_size);
        body == summary.content && parsed.is_ok_and(|(_, found)| found == *summary)
    }
}

fn read(file: &File, at: u64, length: u64) -> std::io::Result<Vec<u8>> {
    let mut content = vec![0; Length::new(length).to_usize().unwrap_or_default()];
    file.read_exact_at(&mut content, at)?;
    Ok(content)
}

fn unreadable(path: String, source: std::io::Error) -> Error {
    Error::Folder {
        operation: "read",
        path,
        source,
    }
}

fn changed(log: &SealedLog) -> Error {
    Error::LogChanged {
        path: log.path().display().to_string(),
    }
}
