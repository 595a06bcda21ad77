//! Bodies: received into counted memory, and sent as they are read, both in limited time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http::{HeaderMap, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use object_store::{GetResult, PutPayload, PutPayloadMut};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

use super::answer::{Answered, Body, Refusal};
use super::grants::Client;
use super::limits::Limits;
use crate::pace::Pace;
use crate::protocol::{self, Code};

/// Memory is counted in units of this many bytes.
const UNIT: u64 = 1 << 10;
/// What is sent of an object is read at once if it is no longer than this.
const READ_AT_ONCE_MAX: u64 = 2 << 20;

/// What is handed to a connection at once.
const SLICE: usize = 64 << 10;

/// What bodies share.
#[derive(Debug)]
pub(crate) struct Bodies {
    memory: Arc<Semaphore>,
    pace: Arc<Pace>,
    limits: Limits,
}

/// A body that was received, in the memory that is counted for it.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) payload: PutPayload,
    pub(crate) memory: OwnedSemaphorePermit,
}

/// How long a request's body is; it must say so.
pub(crate) fn length(headers: &HeaderMap, max: u64) -> Answered<u64> {
    let length = protocol::number(headers, header::CONTENT_LENGTH);
    let length = length.ok_or_else(|| Refusal::new(Code::NoLength, "say how long the body is"))?;
    if length > max {
        return Err(Refusal::new(Code::TooLong, "the body is too long"));
    }
    Ok(length)
}

impl Bodies {
    pub(crate) fn new(limits: Limits) -> Self {
        let units = usize::try_from(limits.memory.max(limits.object) / UNIT + 1);
        let units = units.unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self {
            memory: Arc::new(Semaphore::new(units)),
            pace: Arc::new(Pace::new(limits.bandwidth)),
            limits,
        }
    }

    /// All of a body of `length` bytes.
    pub(crate) async fn receive(
        &self,
        body: Incoming,
        length: u64,
        client: &Client,
    ) -> Answered<Received> {
        let patience = self.limits.patience;
        let memory = tokio::time::timeout(patience, self.reserve(length)).await;
        let memory = memory.map_err(|_| Refusal::new(Code::Busy, "too much is being received"))?;
        let receiving = self.receive_all(body, length, client);
        let payload = tokio::time::timeout(self.time_for(length, client), receiving).await;
        let payload =
            payload.map_err(|_| Refusal::new(Code::Timeout, "the body came too slowly"))?;
        let payload = payload?;
        Ok(Received { payload, memory })
    }

    async fn reserve(&self, length: u64) -> OwnedSemaphorePermit {
        let units = u32::try_from(length.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let memory = Arc::clone(&self.memory);
        let reserved = memory.acquire_many_owned(units).await;
        reserved.unwrap_or_else(|_| unreachable!("the semaphore is never closed"))
    }

    fn time_for(&self, length: u64, client: &Client) -> Duration {
        let rates = [client.pace.rate(), self.limits.bandwidth];
        self.limits
            .time_for(length, rates.into_iter().flatten().min())
    }

    async fn receive_all(
        &self,
        mut body: Incoming,
        length: u64,
        client: &Client,
    ) -> Answered<PutPayload> {
        let cut = || Refusal::new(Code::Malformed, "the body is not as long as it says");
        let mut payload = PutPayloadMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| cut())?.into_data() else {
                continue;
            };
            self.pace.take(data.len()).await;
            client.pace.take(data.len()).await;
            if (payload.content_length() + data.len()) as u64 > length {
                return Err(cut());
            }
            payload.push(data);
        }
        if payload.content_length() as u64 != length {
            return Err(cut());
        }
        Ok(payload.freeze())
    }

    /// The content of an object, as it is read. A client that does not take it in time has its connection
    /// ended: there is nothing else that it would notice.
    pub(crate) async fn send(
        &self,
        found: GetResult,
        client: &Arc<Client>,
        end: &Arc<Notify>,
    ) -> Answered<Body> {
        let length = found.range.end.saturating_sub(found.range.start);
        let deadline = Deadline::new(self.time_for(length, client), Arc::clone(end));
        let (pace, client) = (Arc::clone(&self.pace), Arc::clone(client));
        let parts = if length <= READ_AT_ONCE_MAX {
            let memory = self.reserve(length).await;
            let parts = slices(found.bytes().await?).map(Ok);
            futures::stream::iter(parts)
                .inspect(move |_| {
                    let _held = &memory;
                })
                .boxed()
        } else {
            found.into_stream()
        };
        let paced = parts.and_then(move |part: Bytes| {
            let (pace, client) = (Arc::clone(&pace), Arc::clone(&client));
            async move {
                pace.take(part.len()).await;
                client.pace.take(part.len()).await;
                Ok(part)
            }
        });
        let frames = paced.map(move |part| {
            let _running = &deadline;
            part.map(Frame::data).map_err(|error| {
                tracing::warn!(%error, "an object cannot be read to its end");
                io::Error::other("the server's store failed")
            })
        });
        Ok(StreamBody::new(frames).boxed_unsync())
    }
}

/// `bytes` in pieces of [`SLICE`]: the next one is taken once there is room for it on the connection.
fn slices(mut bytes: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let length = bytes.len().min(SLICE);
        (length > 0).then(|| bytes.split_to(length))
    })
}

/// Ends a connection, unless it is dropped in time.
struct Deadline(AbortHandle);

impl Deadline {
    fn new(after: Duration, end: Arc<Notify>) -> Self {
        let waiting = tokio::spawn(async move {
            tokio::time::sleep(after).await;
            end.notify_one();
        });
        Self(waiting.abort_handle())
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.0.abort();
    }
}
