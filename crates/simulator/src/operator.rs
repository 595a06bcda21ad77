//! What an operator does at a site: test, fail over, commit, cancel, reverse, follow, pull, fail back.

use std::cell::Cell;

use afterimage_block::{Epoch, Extent, Sequence};
use afterimage_replication::{DivergenceToken, Grant, ReplicaRequest, ReplicaState, Role, Standby};
use afterimage_store::{
    Error as StoreError, Inlining, Manifest, PointSelector, Replica, Transition,
};
use serde_json::Value;

use crate::coverage::Mark;
use crate::error::Failed;
use crate::hub::Hub;
use crate::objects::Objects;
use crate::plant::Plant;
use crate::tracking::Images;
use crate::transfer::{encode_state, parse_state, replica};

/// What an operator asks for.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Test,
    PlannedFailover,
    /// To one of the newest points, counted from the newest.
    UnplannedFailover(usize),
    /// The failover that began this epoch is made final.
    Commit(Epoch),
    /// The failover that began this epoch, or any, is taken back.
    Cancel(Option<Epoch>),
    /// The failover whose commit began this epoch is reversed.
    Reverse(Epoch),
    /// The disks of a primary that knows this epoch follow.
    Follow(Epoch),
    Pull,
    FailBack(Standby),
}

/// What came of it.
pub(crate) enum Outcome {
    Tested(Sequence, Images),
    FailedOver {
        point: Sequence,
        fence: Epoch,
        planned: bool,
        /// What the point holds; `None` where the disks of a standby are used as they are.
        images: Option<Images>,
    },
    Committed(Epoch),
    Cancelled,
    /// Another failover came since.
    Superseded,
    Reversed(Grant),
    Follows(Standby),
    Pulled(Sequence, Images),
}

fn refused(error: impl Into<String>) -> StoreError {
    StoreError::Refused(error.into())
}

/// Does it, as seen through `objects`.
pub(crate) async fn operate(
    operation: Operation,
    objects: Objects,
    hub: Hub,
) -> Result<Outcome, Failed> {
    let fences = objects.fences();
    let replica = replica(objects, Inlining::default()).await?;
    match operation {
        Operation::Test => test(&replica, &hub).await,
        Operation::PlannedFailover => {
            let manifest = replica.existing().await?;
            let role = parse_state(&manifest.state)?.role;
            let (Role::PreparedForFailover { through: point }
            | Role::FailedOverWaitingCompletion { point, .. }) = role
            else {
                return Err(refused("nothing is prepared").into());
            };
            let request = ReplicaRequest::PlannedFailover { point };
            fail_over(&replica, request, point, fences, &hub).await
        }
        Operation::UnplannedFailover(back) => {
            let manifest = replica.existing().await?;
            let point = manifest.points.iter().rev().nth(back);
            let point = point.ok_or_else(|| refused("there is no point"))?.sequence;
            let request = ReplicaRequest::UnplannedFailover { point };
            fail_over(&replica, request, point, fences, &hub).await
        }
        Operation::Commit(fence) => commit(&replica, fence, &hub).await,
        Operation::Cancel(fence) => cancel(&replica, fence).await,
        Operation::Reverse(committed) => reverse(&replica, committed).await,
        Operation::Follow(known) => {
            let state = parse_state(&replica.existing().await?.state)?;
            let token = DivergenceToken { losing: known };
            Ok(Outcome::Follows(Standby::follow(
                &state,
                known,
                Some(token),
            )?))
        }
        Operation::Pull => {
            let manifest = replica.existing().await?;
            let last = manifest.last().ok_or_else(|| refused("there is no base"))?;
            Ok(Outcome::Pulled(last, read(&replica, last).await?))
        }
        Operation::FailBack(standby) => fail_back(&replica, standby).await,
    }
}

/// All disks at barrier `sequence`.
pub(crate) async fn read(replica: &Replica, sequence: Sequence) -> Result<Images, Failed> {
    let opened = replica.open_point(sequence).await?;
    let mut images = Images::new();
    for disk in &opened.disks {
        images.push(match Extent::whole(disk.size()) {
            Some(whole) => disk.read(whole).await?,
            None => Vec::new(),
        });
    }
    Ok(images)
}

async fn test(replica: &Replica, hub: &Hub) -> Result<Outcome, Failed> {
    let manifest = replica.existing().await?;
    let count = manifest.points.len();
    let point = manifest.points.get(hub.below(count));
    let point = point.ok_or_else(|| refused("there is no point"))?.sequence;
    Ok(Outcome::Tested(point, read(replica, point).await?))
}

/// Changes the replica's role, and fences every writer of before off.
async fn transition(
    replica: &Replica,
    request: ReplicaRequest,
    admits: impl Fn(&Manifest) -> Result<(), StoreError>,
    fences: bool,
) -> Result<Manifest, Failed> {
    let change = |manifest: &Manifest| {
        admits(manifest)?;
        let mut state = parse_state(&manifest.state)?;
        state.role = state
            .role
            .request(request)
            .map_err(|error| refused(error.to_string()))?;
        Ok(Transition {
            state: carried(manifest.state.clone(), &state),
            fences,
        })
    };
    Ok(replica.transition(change).await?)
}

/// What a manifest that carried `present` carries from now on. What else the engine keeps there stays,
/// but for what feeds a further replica that is failed over for good.
fn carried(mut present: Value, state: &ReplicaState) -> Value {
    let mut next = encode_state(state);
    if let (Some(kept), Some(next)) = (present.as_object_mut(), next.as_object_mut()) {
        if matches!(state.role, Role::FailedOver { .. }) {
            kept.remove("extended");
        }
        kept.append(next);
        return present;
    }
    next
}

async fn fail_over(
    replica: &Replica,
    request: ReplicaRequest,
    point: Sequence,
    fences: bool,
    hub: &Hub,
) -> Result<Outcome, Failed> {
    // It may have been dropped since it was chosen.
    let is_there = |manifest: &Manifest| {
        let selected = manifest.select(PointSelector::Sequence(point));
        selected.map(drop)
    };
    let manifest = transition(replica, request, is_there, fences).await?;
    let mut opened = point;
    if hub.is_planted(Plant::WrongPoint) {
        let older = manifest.points.iter().rev();
        let older = older
            .map(|found| found.sequence)
            .find(|found| *found < point);
        opened = older.unwrap_or(point);
    }
    Ok(Outcome::FailedOver {
        point,
        fence: manifest.fence.epoch,
        planned: matches!(request, ReplicaRequest::PlannedFailover { .. }),
        images: Some(read(replica, opened).await?),
    })
}

/// Only the failover that began epoch `fence` is meant: the same could have been asked for elsewhere.
fn is_ours(manifest: &Manifest, fence: Epoch) -> Result<(), StoreError> {
    if manifest.fence.epoch == fence {
        return Ok(());
    }
    Err(refused("another failover came since"))
}

async fn commit(replica: &Replica, fence: Epoch, hub: &Hub) -> Result<Outcome, Failed> {
    let request = ReplicaRequest::Commit;
    match transition(replica, request, |manifest| is_ours(manifest, fence), true).await {
        Ok(manifest) => Ok(Outcome::Committed(manifest.fence.epoch)),
        Err(Failed::Store(StoreError::Refused(reason))) => {
            let manifest = replica.existing().await?;
            let role = parse_state(&manifest.state)?.role;
            let next = fence.next();
            if matches!(role, Role::FailedOver { .. }) && manifest.fence.epoch == next {
                hub.mark(Mark::CommittedAgain);
                Ok(Outcome::Committed(next))
            } else if manifest.fence.epoch == fence {
                Err(refused(reason).into())
            } else {
                Ok(Outcome::Superseded)
            }
        }
        Err(error) => Err(error),
    }
}

async fn cancel(replica: &Replica, fence: Option<Epoch>) -> Result<Outcome, Failed> {
    let admits = |manifest: &Manifest| fence.map_or(Ok(()), |fence| is_ours(manifest, fence));
    match transition(replica, ReplicaRequest::Cancel, admits, true).await {
        Ok(_) => Ok(Outcome::Cancelled),
        Err(Failed::Store(StoreError::Refused(_))) => {
            let manifest = replica.existing().await?;
            let role = parse_state(&manifest.state)?.role;
            match role {
                // Committed, and the answer was lost.
                Role::FailedOver { .. } if Some(manifest.fence.epoch) == fence.map(Epoch::next) => {
                    Ok(Outcome::Committed(manifest.fence.epoch))
                }
                _ => Ok(Outcome::Superseded),
            }
        }
        Err(error) => Err(error),
    }
}

async fn reverse(replica: &Replica, committed: Epoch) -> Result<Outcome, Failed> {
    let granted = Cell::new(None);
    let change = |manifest: &Manifest| {
        let mut state = parse_state(&manifest.state)?;
        let last = manifest.last().ok_or_else(|| refused("there is no base"))?;
        let grant = state.reverse(committed, manifest.fence.epoch, last);
        granted.set(Some(grant.map_err(|error| refused(error.to_string()))?));
        Ok(Transition {
            state: encode_state(&state),
            fences: false,
        })
    };
    match replica.transition(change).await {
        Ok(_) => granted
            .get()
            .map(Outcome::Reversed)
            .ok_or(Failed::NotClaimed),
        Err(StoreError::Refused(_)) => Ok(Outcome::Superseded),
        Err(error) => Err(error.into()),
    }
}

async fn fail_back(replica: &Replica, standby: Standby) -> Result<Outcome, Failed> {
    let state = parse_state(&replica.existing().await?.state)?;
    let point = standby.fail_back(&state)?;
    let request = ReplicaRequest::PlannedFailover { point };
    let manifest = transition(replica, request, |_| Ok(()), true).await?;
    Ok(Outcome::FailedOver {
        point,
        fence: manifest.fence.epoch,
        planned: true,
        images: None,
    })
}
