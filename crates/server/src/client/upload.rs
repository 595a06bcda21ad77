//! An object that is put in parts, each of which is put again if the connection is lost.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use object_store::path::Path;
use object_store::{MultipartUpload, PutPayload, PutResult, Result, UploadPart};

use super::{Remote, put_result};
use crate::protocol;

/// An upload of one object. Losing the connection loses nothing of it; restarting the server does.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) remote: Arc<Remote>,
    pub(super) path: Path,
    pub(super) name: String,
    pub(super) parts: usize,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (remote, path) = (Arc::clone(&self.remote), self.path.clone());
        let (name, part) = (self.name.clone(), self.parts);
        self.parts += 1;
        Box::pin(async move {
            let request = remote.request(Method::PUT, protocol::UPLOADS, &path)?;
            let request = request
                .header(protocol::UPLOAD, &name)
                .header(protocol::PART, part);
            remote
                .send_again(&path, request, data.into())
                .await
                .map(drop)
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let request = self
            .remote
            .request(Method::POST, protocol::UPLOADS, &self.path)?;
        let request = request
            .header(protocol::UPLOAD, &self.name)
            .header(protocol::PART, self.parts);
        let answer = self
            .remote
            .send_again(&self.path, request, Bytes::new())
            .await?;
        Ok(put_result(answer.headers()))
    }

    async fn abort(&mut self) -> Result<()> {
        let request = self
            .remote
            .request(Method::DELETE, protocol::UPLOADS, &self.path)?;
        let request = request.header(protocol::UPLOAD, &self.name);
        self.remote
            .send_again(&self.path, request, Bytes::new())
            .await
            .map(drop)
    }
}
