//! Objects that are put in parts, over as many connections as it takes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use afterimage_block::SessionId;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use object_store::path::Path;
use object_store::{MultipartUpload, PutResult};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::answer::{Answered, Refusal};
use super::body::Received;
use super::grants::Client;
use super::limits::Limits;
use super::quota::Room;
use crate::protocol::Code;

/// No upload has more parts.
const PARTS_MAX: usize = 10_000;
/// For so long after its end an upload says how it ended, to who did not hear it.
const REMEMBERED: Duration = Duration::from_mins(10);

/// An outcome that everybody who asks is told.
type Outcome<T> = Shared<BoxFuture<'static, Answered<T>>>;

/// Runs `work` to its end, whoever waits for it.
fn outcome<T: Clone + Send + Sync + 'static>(
    work: impl Future<Output = Answered<T>> + Send + 'static,
) -> Outcome<T> {
    let outcome = work.boxed().shared();
    tokio::spawn(outcome.clone());
    outcome
}

/// The uploads that are under way, by their names.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    uploads: Mutex<HashMap<String, Arc<Upload>>>,
}

/// One upload.
pub(crate) struct Upload {
    client: Arc<Client>,
    path: Path,
    state: Mutex<State>,
    /// A part has come, or the end.
    moved: Notify,
}

struct State {
    /// `None` once it is ended.
    inner: Option<Box<dyn MultipartUpload>>,
    parts: Vec<Outcome<()>>,
    end: Option<Outcome<PutResult>>,
    room: Room,
    touched: Instant,
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Upload").field(&self.path).finish()
    }
}

fn unknown() -> Refusal {
    Refusal::new(
        Code::NoUpload,
        "there is no such upload any more: begin again",
    )
}

impl Uploads {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Arc<Upload>>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up what nobody has gone on with, and refuses one more of a client that has too many.
    pub(crate) fn check(&self, client: &Arc<Client>, limits: &Limits) -> Answered<()> {
        let (mut stale, mut own) = (Vec::new(), 0);
        self.all().retain(|_, upload| {
            let state = upload.state();
            let idle = state.touched.elapsed();
            let is_under_way = state.inner.is_some();
            drop(state);
            let limit = if is_under_way {
                limits.upload_idle
            } else {
                REMEMBERED
            };
            if idle > limit {
                stale.push(Arc::clone(upload));
                return false;
            }
            own += usize::from(is_under_way && Arc::ptr_eq(&upload.client, client));
            true
        });
        for upload in stale {
            tokio::spawn(async move { upload.abort().await });
        }
        if own >= limits.uploads {
            return Err(Refusal::new(
                Code::TooMany,
                "end the uploads that were begun",
            ));
        }
        Ok(())
    }

    /// The name of a new upload to `path`.
    pub(crate) fn begin(
        &self,
        client: &Arc<Client>,
        path: &Path,
        inner: Box<dyn MultipartUpload>,
    ) -> String {
        let name = SessionId::random().to_string();
        let state = State {
            inner: Some(inner),
            parts: Vec::new(),
            end: None,
            room: Room::default(),
            touched: Instant::now(),
        };
        let upload = Upload {
            client: Arc::clone(client),
            path: path.clone(),
            state: Mutex::new(state),
            moved: Notify::new(),
        };
        self.all().insert(name.clone(), Arc::new(upload));
        name
    }

    /// The upload of that name, which must be the client's own, and to `path`.
    pub(crate) fn find(
        &self,
        name: &str,
        client: &Arc<Client>,
        path: &Path,
    ) -> Answered<Arc<Upload>> {
        let found = self.all().get(name).cloned();
        let own =
            found.filter(|upload| Arc::ptr_eq(&upload.client, client) && upload.path == *path);
        own.ok_or_else(unknown)
    }
}

impl Upload {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many parts have come.
    pub(crate) fn parts(&self) -> usize {
        self.state().parts.len()
    }

    /// Puts part `number`, from 0, once those before it have come. Putting it again is answered as the
    /// first time.
    pub(crate) async fn put(
        &self,
        number: usize,
        received: Received,
        room: Room,
        patience: Duration,
    ) -> Answered<()> {
        let mut given = Some((received, room));
        let putting = async {
            loop {
                let moved = self.moved.notified();
                tokio::pin!(moved);
                moved.as_mut().enable();
                if let Some(outcome) = self.take(number, &mut given)? {
                    return outcome.await;
                }
                moved.await;
            }
        };
        let late = Refusal::new(Code::Timeout, "the parts before it have not come");
        tokio::time::timeout(patience, putting)
            .await
            .map_err(|_| late)?
    }

    /// What becomes of a part; `None` while others are to come before it.
    fn take(
        &self,
        number: usize,
        given: &mut Option<(Received, Room)>,
    ) -> Answered<Option<Outcome<()>>> {
        let mut state = self.state();
        state.touched = Instant::now();
        if let Some(outcome) = state.parts.get(number) {
            return Ok(Some(outcome.clone()));
        }
        if state.inner.is_none() || number >= PARTS_MAX {
            return Err(unknown());
        }
        if number > state.parts.len() {
            return Ok(None);
        }
        let State { inner, room, .. } = &mut *state;
        let (Some(inner), Some((received, more))) = (inner, given.take()) else {
            return Err(unknown());
        };
        room.merge(more);
        let Received { payload, memory } = received;
        let put = inner.put_part(payload);
        let outcome = outcome(async move {
            let put = put.await;
            drop(memory);
            Ok(put?)
        });
        state.parts.push(outcome.clone());
        drop(state);
        self.moved.notify_waiters();
        Ok(Some(outcome))
    }

    /// Makes the object of its `parts` parts. Asking again is answered as the first time.
    pub(crate) async fn complete(&self, parts: usize) -> Answered<PutResult> {
        let end = self.end(parts)?;
        self.moved.notify_waiters();
        end.await
    }

    fn end(&self, parts: usize) -> Answered<Outcome<PutResult>> {
        let mut state = self.state();
        state.touched = Instant::now();
        if let Some(end) = &state.end {
            return Ok(end.clone());
        }
        if state.parts.len() != parts {
            return Err(Refusal::new(Code::Malformed, "not all parts have come"));
        }
        let mut inner = state.inner.take().ok_or_else(unknown)?;
        let (parts, room) = (state.parts.clone(), std::mem::take(&mut state.room));
        let end = outcome(async move {
            let put = async {
                futures::future::try_join_all(parts).await?;
                Ok(inner.complete().await?)
            };
            let put = put.await;
            match &put {
                Ok(_) => room.used().await,
                Err(_) => abort(inner.as_mut()).await,
            }
            put
        });
        state.end = Some(end.clone());
        Ok(end)
    }

    /// Gives it up; what was put of it is taken away.
    pub(crate) async fn abort(&self) {
        let taken = {
            let mut state = self.state();
            state.room = Room::default();
            state.inner.take()
        };
        self.moved.notify_waiters();
        if let Some(mut inner) = taken {
            abort(inner.as_mut()).await;
        }
    }
}

async fn abort(inner: &mut dyn MultipartUpload) {
    if let Err(error) = inner.abort().await {
        tracing::warn!(%error, "parts of an upload are left behind");
    }
}
