//! What others than the primary keep with a replica, so that its status shows it.

use afterimage_block::{Epoch, Length, Timestamp};
use afterimage_replication::{Jobs, NotAllowed};
use afterimage_store::{Manifest, NOTES, Replica, Store};
use serde::{Deserialize, Serialize};

use crate::divergence::Divergence;
use crate::error::blocking;
use crate::shared::{Kept, Shared, change_kept};
use crate::test_failover::{TestFailover, Tested};
use crate::{Clock, Result};

/// Former primaries that are noted, at most.
const DIVERGED_MAX: usize = 16;

/// What others than the primary keep with a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Notes {
    #[serde(default)]
    pub(crate) diverged: Vec<Diverged>,
    /// The test failover that is not cleaned up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) test: Option<TestFailover>,
    /// The last one that was.
    #[serde(default)]
    pub(crate) tested: Option<Tested>,
    /// What operators did.
    #[serde(default)]
    pub(crate) operations: Jobs,
}

/// A former primary that came back, and is shut out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diverged {
    /// The epoch in which it was the primary.
    pub epoch: Epoch,
    /// How much it alone may hold, when it came back.
    pub bytes: Length,
    /// When that was, by its clock.
    pub time: Timestamp,
}

impl Notes {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The test failover that is not cleaned up, where `state` is kept with a replica: it is looked for with each
    /// recovery point, so nothing else is read.
    pub(crate) fn test_in(state: &serde_json::Value) -> Option<TestFailover> {
        TestFailover::deserialize(state.get(NOTES)?.get("test")?).ok()
    }

    pub(crate) fn has(&self, epoch: Epoch) -> bool {
        self.diverged.iter().any(|noted| noted.epoch == epoch)
    }

    /// Forgets the former primary of `epoch`, which is shut out no more.
    pub(crate) fn forget(&mut self, epoch: Epoch) {
        self.diverged.retain(|noted| noted.epoch != epoch);
    }

    fn add(&mut self, diverged: Diverged) {
        self.forget(diverged.epoch);
        self.diverged.push(diverged);
        let surplus = self.diverged.len().saturating_sub(DIVERGED_MAX);
        self.diverged.drain(..surplus);
    }
}

/// Changes what is noted at `replica`; what the change returned.
pub(crate) async fn change<T: Send>(
    replica: &Replica,
    change: impl Fn(&mut Notes) -> T + Send + Sync,
) -> Result<T> {
    let change = |_: &Manifest, kept: &mut Kept| Ok(change(&mut kept.notes));
    let (_, value) = change_kept(replica, false, change).await?;
    Ok(value)
}

/// Notes at the replica, if that does not admit this primary, that it is there and what it may hold.
pub(crate) async fn tell_of_divergence(shared: &Shared) -> Result<()> {
    let Some(saved) = shared.folder.saved() else {
        return Ok(());
    };
    let store = Store::open_existing(&shared.replica_url).await?;
    let replica = store
        .with_key(shared.key.clone())
        .replica(shared.name.clone());
    let manifest = replica.existing().await?;
    let known = saved.replication.epoch();
    let admitted = Kept::parse(&manifest.state)?.replica.admits(known).is_ok();
    if admitted || manifest.machine != shared.machine {
        return Ok(());
    }
    let folder = shared.folder.scratch().to_owned();
    let divergence = blocking(move || Divergence::of(&folder, &saved)).await?;
    let diverged = Diverged {
        epoch: known,
        bytes: divergence.bytes(),
        time: Clock::timestamp(),
    };
    let note = |_: &Manifest, kept: &mut Kept| -> Result<(), NotAllowed> {
        if kept.replica.admits(known).is_err() {
            kept.notes.add(diverged);
        }
        Ok(())
    };
    change_kept(&replica, false, note).await.map(drop)
}
