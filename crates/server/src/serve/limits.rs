//! What a server bears.

use std::time::Duration;

/// What a server bears, of all clients together unless it says otherwise.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at a time. Default 256.
    pub connections: usize,
    /// Requests at a time on one connection. Default 32.
    pub requests: u32,
    /// The longest object or part of an upload that is put in one request, in bytes. Default 64 MiB, which
    /// is a manifest's limit.
    pub object: u64,
    /// Memory for bodies that are being received, in bytes, at least that of one object. Default 256 MiB.
    pub memory: u64,
    /// Bytes a second, both ways together. Default without limit.
    pub bandwidth: Option<u64>,
    /// How long a connection may take until it is encrypted and its certificate proved, and a request until
    /// it moves on. Default 30 s.
    pub patience: Duration,
    /// The slowest that a body may come or go on the whole, in bytes a second. Default 16 KiB.
    pub rate_min: u64,
    /// Uploads at a time of one client. Default 16.
    pub uploads: usize,
    /// After how long without a part an upload is given up. Default 1 h.
    pub upload_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            requests: 32,
            object: 64 << 20,
            memory: 256 << 20,
            bandwidth: None,
            patience: Duration::from_secs(30),
            rate_min: 16 << 10,
            uploads: 16,
            upload_idle: Duration::from_hours(1),
        }
    }
}

impl Limits {
    /// How long a body of so many bytes may take, where the requests of a connection share a pace of
    /// `rate` bytes a second.
    pub(crate) fn time_for(&self, bytes: u64, rate: Option<u64>) -> Duration {
        let share = rate.map_or(u64::MAX, |rate| rate / u64::from(self.requests.max(1)));
        self.patience + Duration::from_secs(bytes / share.min(self.rate_min).max(1))
    }
}
