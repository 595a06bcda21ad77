//! How much a machine may store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::time::Instant;

use super::answer::{Answered, Refusal};
use super::grants::Client;
use crate::protocol::Code;

/// An object takes at least this much, so that many small ones are no way around the quota.
const OBJECT_MIN: u64 = 4 << 10;
/// A machine that has reached its quota is counted anew after so long.
const RECOUNT_AFTER: Duration = Duration::from_secs(10);

/// What the machines of a store use.
///
/// What is put is added, and what is replaced or deleted is only found when a machine is counted anew,
/// which is when it reaches its quota. So the count is never too low.
#[derive(Debug, Default)]
pub(crate) struct Quotas {
    machines: Mutex<HashMap<String, Arc<Usage>>>,
}

#[derive(Debug, Default)]
struct Usage {
    /// What was counted, and when that was.
    counted: tokio::sync::Mutex<Option<(u64, Instant)>>,
    /// What is being put at the moment.
    reserved: Mutex<u64>,
}

/// Room for what is being put. Given back when it is dropped, unless it was [`used`](Self::used).
#[derive(Debug, Default)]
pub(crate) struct Room {
    usage: Option<Arc<Usage>>,
    bytes: u64,
}

impl Room {
    /// What the room was for has been stored.
    pub(crate) async fn used(mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if let Some(usage) = self.usage.take() {
            let mut counted = usage.counted.lock().await;
            if let Some((used, _)) = &mut *counted {
                *used = used.saturating_add(bytes);
            }
            usage.give_back(bytes);
        }
    }

    /// Makes one room of two of the same machine.
    pub(crate) fn merge(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
        self.usage = self.usage.take().or(other.usage.take());
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(usage) = &self.usage {
            usage.give_back(self.bytes);
        }
    }
}

impl Usage {
    fn reserved(&self) -> std::sync::MutexGuard<'_, u64> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, bytes: u64) {
        let mut reserved = self.reserved();
        *reserved = reserved.saturating_sub(bytes);
    }
}

impl Quotas {
    /// Room for `bytes` more of `machine`.
    pub(crate) async fn reserve(
        &self,
        objects: &Arc<dyn ObjectStore>,
        client: &Client,
        machine: Option<&str>,
        bytes: u64,
    ) -> Answered<Room> {
        let (Some(limit), Some(machine)) = (client.quota, machine) else {
            return Ok(Room::default());
        };
        let usage = {
            let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(machines.entry(machine.to_owned()).or_default())
        };
        let bytes = bytes.max(OBJECT_MIN);
        let mut counted = usage.counted.lock().await;
        let fits = |used: u64| {
            let reserved = *usage.reserved();
            used.saturating_add(reserved).saturating_add(bytes) <= limit
        };
        let known = *counted;
        let used = match known {
            Some((used, at)) if fits(used) || at.elapsed() < RECOUNT_AFTER => used,
            _ => {
                let used = count(objects, machine).await?;
                *counted = Some((used, Instant::now()));
                used
            }
        };
        if !fits(used) {
            return Err(Refusal {
                quota: Some((used, limit)),
                ..Refusal::new(Code::Quota, "the machine's quota is reached")
            });
        }
        *usage.reserved() += bytes;
        drop(counted);
        let usage = Some(usage);
        Ok(Room { usage, bytes })
    }
}

async fn count(objects: &Arc<dyn ObjectStore>, machine: &str) -> Answered<u64> {
    let folder = Path::from(format!("machines/{machine}"));
    let sizes = objects.list(Some(&folder));
    let add = |used: u64, size: u64| async move { Ok(used.saturating_add(size.max(OBJECT_MIN))) };
    Ok(sizes.map_ok(|meta| meta.size).try_fold(0, add).await?)
}
