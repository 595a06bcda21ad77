//! Following what a machine tells, up to something awaited.

use std::time::Duration;

use afterimage::Notice;
use afterimage::block::Length;
use anyhow::{Context, Result};
use tokio::sync::broadcast::Receiver;

use crate::Display;

/// Shows what a machine tells while something is awaited, and counts what it sends.
pub struct Watch {
    notices: Receiver<Notice>,
    display: Display,
    sent: Length,
}

impl Watch {
    /// Follows `notices`.
    pub fn new(notices: Receiver<Notice>) -> Self {
        Self {
            notices,
            display: Display::new(false),
            sent: Length::ZERO,
        }
    }

    /// Shows what happens until `awaited` does.
    pub async fn until(&mut self, awaited: impl Fn(&Notice) -> bool) -> Result<()> {
        const PATIENCE: Duration = Duration::from_mins(5);
        loop {
            let notice = tokio::time::timeout(PATIENCE, self.notices.recv()).await;
            let notice = notice.context("nothing happens any more")??;
            self.display.show(&notice);
            if let Notice::RecoveryPoint { sent, .. } | Notice::Resync { sent, .. } = &notice {
                self.sent = self.sent.saturating_add(*sent);
            }
            if awaited(&notice) {
                return Ok(());
            }
        }
    }

    /// The bytes sent since this was last asked.
    pub fn take_sent(&mut self) -> Length {
        std::mem::take(&mut self.sent)
    }
}
