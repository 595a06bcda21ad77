//! Logs that follow each other.

use std::collections::{BTreeMap, BTreeSet};

use super::HrlLog;
use crate::{Error, Result};

impl HrlLog {
    /// Refuses this log unless it names `earlier` as its predecessor.
    ///
    /// # Errors
    /// [`Error::NotConsecutive`].
    pub fn check_follows(&self, earlier: &Self) -> Result<()> {
        if self.header().previous == earlier.header().id {
            return Ok(());
        }
        Err(refused(earlier, self, "it names another predecessor"))
    }

    /// The logs in the order of their chain, oldest first: each names the one before it as its
    /// predecessor. The predecessor of the oldest is not among them.
    ///
    /// # Errors
    /// [`Error::NotConsecutive`] if they are not one chain.
    pub fn chain(logs: Vec<Self>) -> Result<Vec<Self>> {
        let ids: BTreeSet<_> = logs.iter().map(|log| log.header().id).collect();
        let count = logs.len();
        let mut by_previous = BTreeMap::new();
        let mut first: Option<Self> = None;
        for log in logs {
            let previous = log.header().previous;
            if !ids.contains(&previous) && first.is_none() {
                first = Some(log);
            } else if let Some(other) = by_previous.insert(previous, log.clone()) {
                return Err(refused(&other, &log, "both name the same predecessor"));
            }
        }
        let mut chain: Vec<_> = first.into_iter().collect();
        while chain.len() < count {
            let next = chain.last().map(|last| last.header().id);
            let Some(log) = next.and_then(|id| by_previous.remove(&id)) else {
                break;
            };
            chain.push(log);
        }
        match by_previous.into_values().next() {
            None => Ok(chain),
            Some(left) => {
                let last = chain.last().unwrap_or(&left);
                Err(refused(last, &left, "they are not of one chain"))
            }
        }
    }
}

fn refused(earlier: &HrlLog, later: &HrlLog, reason: &'static str) -> Error {
    Error::NotConsecutive {
        earlier: earlier.path().into(),
        later: later.path().into(),
        reason,
    }
}
