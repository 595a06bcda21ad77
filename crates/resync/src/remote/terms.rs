//! What two ends must agree on.

use std::collections::VecDeque;

use afterimage_block::{Epoch, SessionId};
use serde::{Deserialize, Serialize};

use crate::algorithm::Algorithm;
use crate::protocol::{Farewell, Hello, Message, Reason, Role, Versions};
use crate::{Error, Grid, Reread, Result};

/// What two ends must agree on before either looks at its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The resync. A new one is begun under a new name.
    pub session: SessionId,
    /// Of the direction of replication: a source that was fenced knows only an older one.
    pub epoch: Epoch,
    /// The disk's size and blocks.
    pub grid: Grid,
    /// How blocks are hashed.
    pub algorithm: Algorithm,
}

impl Terms {
    pub(super) const fn hello(&self, role: Role) -> Hello {
        Hello {
            versions: Versions::SPOKEN,
            role,
            algorithm: self.algorithm,
            session: self.session,
            grid: self.grid,
            epoch: self.epoch,
            afresh: false,
            dry: false,
            reread: None,
        }
    }

    /// Refuses the Hello of an end that is not the other one of this resync.
    pub(super) fn check(&self, hello: &Hello, role: Role) -> Result<()> {
        let other = |what, ours: &dyn std::fmt::Debug, theirs: &dyn std::fmt::Debug| {
            Err(Error::OtherTerms {
                what,
                ours: format!("{ours:?}"),
                theirs: format!("{theirs:?}"),
            })
        };
        if hello.versions.common(Versions::SPOKEN).is_none() {
            return other("versions", &Versions::SPOKEN, &hello.versions);
        }
        if hello.role != role {
            return other("role of the other end", &role, &hello.role);
        }
        if hello.session != self.session {
            return other("session", &self.session, &hello.session);
        }
        if hello.grid.size() != self.grid.size() {
            return other("disk size", &self.grid.size(), &hello.grid.size());
        }
        if hello.grid.block_size() != self.grid.block_size() {
            let (ours, theirs) = (self.grid.block_size(), hello.grid.block_size());
            return other("block size", &ours, &theirs);
        }
        if hello.algorithm != self.algorithm {
            return other("digest", &self.algorithm, &hello.algorithm);
        }
        if hello.epoch != self.epoch {
            return other("epoch", &self.epoch, &hello.epoch);
        }
        Ok(())
    }
}

impl Error {
    /// What to tell the other end before parting; `None` if it parted first or cannot be told.
    pub fn farewell(&self) -> Option<Farewell> {
        let reason = match self {
            Self::Peer { .. } | Self::Transport { .. } | Self::Closed => return None,
            Self::OtherTerms { .. } => Reason::OtherTerms,
            Self::Undecodable(_) | Self::Violation { .. } => Reason::Protocol,
            Self::RootsDiffer => Reason::RootsDiffer,
            Self::Stopped => Reason::Stopped,
            _ => Reason::Disk,
        };
        let text = self.to_string();
        Some(Farewell { reason, text })
    }
}

/// Has the other end hash its disk afresh, if it was not greeted yet.
pub(super) fn ask_afresh(messages: &mut VecDeque<Message>) {
    if let Some(Message::Hello(hello)) = messages.front_mut() {
        hello.afresh = true;
    }
}

/// Has a source send nothing, if it was not greeted yet.
pub(super) fn ask_dry(messages: &mut VecDeque<Message>) {
    if let Some(Message::Hello(hello)) = messages.front_mut() {
        hello.dry = true;
    }
}

/// Has a target read so much once more at the end, if it was not greeted yet.
pub(super) fn ask_reread(messages: &mut VecDeque<Message>, reread: Reread) {
    if let Some(Message::Hello(hello)) = messages.front_mut() {
        hello.reread = Some(reread);
    }
}

/// The other end did what the protocol does not allow.
pub(super) const fn violation<T>(message: &'static str, reason: &'static str) -> Result<T> {
    Err(Error::Violation { message, reason })
}
