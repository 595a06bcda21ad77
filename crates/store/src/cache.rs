//! The last few values.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// The last few values that were asked for.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    entries: Mutex<VecDeque<(K, V)>>,
    limit: usize,
}

impl<K: PartialEq, V: Clone> Cache<K, V> {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            entries: Mutex::default(),
            limit,
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let at = entries.iter().position(|(found, _)| found == key)?;
        let entry = entries.remove(at)?;
        let value = entry.1.clone();
        entries.push_back(entry);
        Some(value)
    }

    pub(crate) fn put(&self, key: K, value: V) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= self.limit {
            entries.pop_front();
        }
        entries.push_back((key, value));
    }
}
