//! One machine's replica: its manifest, and who may change it.

use afterimage_block::{Epoch, MachineId, SessionId};

use crate::cas::{Current, Swap, proved};
use crate::manifest::{FORMAT, LENGTH_MAX};
use crate::{Error, Fence, MachineName, Manifest, ReplicaDisk, Result, Store, Writer, layout};

/// How often a change of the manifest is tried against others that change it.
const ATTEMPTS: usize = 32;

/// One machine's replica in a store.
#[derive(Clone, Debug)]
pub struct Replica {
    pub(crate) store: Store,
    pub(crate) name: MachineName,
}

/// Who claims a replica, and for which disks.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The machine.
    pub machine: MachineId,
    /// This run of it.
    pub session: SessionId,
    /// Its disks, in order.
    pub disks: Vec<ReplicaDisk>,
}

impl Replica {
    pub(crate) fn new(store: Store, name: MachineName) -> Self {
        Self { store, name }
    }

    /// Its name.
    pub fn name(&self) -> &MachineName {
        &self.name
    }

    /// The present manifest; `None` if there is no such replica.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::OtherFormat`], [`Error::Store`].
    pub async fn manifest(&self) -> Result<Option<Manifest>> {
        Ok(self.read().await?.map(|(manifest, _)| manifest))
    }

    /// The present manifest of a replica that must exist.
    ///
    /// # Errors
    /// As [`manifest`](Self::manifest), and [`Error::NoReplica`].
    pub async fn existing(&self) -> Result<Manifest> {
        let manifest = self.manifest().await?;
        manifest.ok_or_else(|| Error::NoReplica(self.name.to_string()))
    }

    async fn read(&self) -> Result<Option<(Manifest, Current)>> {
        proved(|| self.read_once()).await
    }

    async fn read_once(&self) -> Result<Option<(Manifest, Current)>> {
        let path = layout::manifest(&self.name);
        let Some(current) = self.store.cas.read(&path, LENGTH_MAX).await? else {
            return Ok(None);
        };
        Ok(Some((
            Manifest::parse(&current.bytes, &self.name)?,
            current,
        )))
    }

    /// Claims the replica for a writer: makes it if it does not exist, begins a new epoch, and fences
    /// off every earlier writer. `admits` may refuse, by the state that is kept with the replica.
    ///
    /// # Errors
    /// [`Error::NameTaken`], [`Error::OtherDisks`], what `admits` returns, and as
    /// [`manifest`](Self::manifest).
    pub async fn claim(
        &self,
        claim: Claim,
        admits: impl Fn(&serde_json::Value) -> Result<()>,
    ) -> Result<Writer> {
        let session = claim.session;
        let manifest = self
            .change(|present| {
                let mut manifest = match present {
                    None => new_manifest(&self.name, &claim),
                    Some(manifest) => manifest,
                };
                self.check_owner(&manifest, &claim)?;
                admits(&manifest.state)?;
                manifest.fence = Fence {
                    epoch: self.next_epoch(&manifest)?,
                    session: Some(session),
                };
                Ok(manifest)
            })
            .await?;
        Ok(Writer::new(self.clone(), manifest.fence))
    }

    /// The epoch after the present one. A manifest that was forged may hold the last that there is.
    fn next_epoch(&self, manifest: &Manifest) -> Result<Epoch> {
        let next = manifest.fence.epoch.checked_next();
        next.ok_or_else(|| {
            let object = layout::manifest(&self.name);
            Error::damaged(object, "its epoch is the last that there is")
        })
    }

    fn check_owner(&self, manifest: &Manifest, claim: &Claim) -> Result<()> {
        if manifest.machine != claim.machine {
            return Err(Error::NameTaken {
                name: self.name.to_string(),
                owner: manifest.machine,
            });
        }
        let difference = if manifest.disks.len() == claim.disks.len() {
            let pairs = manifest.disks.iter().zip(&claim.disks);
            pairs
                .into_iter()
                .find(|(theirs, ours)| theirs != ours)
                .map(|(theirs, ours)| {
                    format!(
                        "it has `{}` of {} bytes where the machine has `{}` of {} bytes",
                        theirs.name,
                        theirs.size.get(),
                        ours.name,
                        ours.size.get()
                    )
                })
        } else {
            let (theirs, ours) = (manifest.disks.len(), claim.disks.len());
            Some(format!("it has {theirs} disks and the machine {ours}"))
        };
        match difference {
            None => Ok(()),
            Some(difference) => Err(Error::OtherDisks {
                name: self.name.to_string(),
                difference,
            }),
        }
    }

    /// Changes the state kept with the replica from the replica's side, as a failover does. Where
    /// `change` says so, a new epoch without a writer begins, which fences the primary off.
    ///
    /// # Errors
    /// [`Error::NoReplica`], what `change` returns, and as [`manifest`](Self::manifest).
    pub async fn transition(
        &self,
        change: impl Fn(&Manifest) -> Result<Transition>,
    ) -> Result<Manifest> {
        self.change(|present| {
            let mut manifest = present.ok_or_else(|| Error::NoReplica(self.name.to_string()))?;
            let transition = change(&manifest)?;
            manifest.state = transition.state;
            if transition.fences {
                manifest.fence = Fence {
                    epoch: self.next_epoch(&manifest)?,
                    session: None,
                };
            }
            Ok(manifest)
        })
        .await
    }

    /// Replaces the manifest by what `change` makes of the present one, as often as others come in
    /// between. Its commit is new each time, so that a replacement whose answer was lost is known
    /// again.
    pub(crate) async fn change(
        &self,
        change: impl Fn(Option<Manifest>) -> Result<Manifest>,
    ) -> Result<Manifest> {
        let path = layout::manifest(&self.name);
        for _ in 0..ATTEMPTS {
            let (present, current) = self.read().await?.unzip();
            let mut next = change(present)?;
            next.commit = SessionId::random();
            let bytes = next.encode().into();
            match self
                .store
                .cas
                .replace(&path, current.as_ref(), bytes)
                .await?
            {
                Swap::Done => return Ok(next),
                Swap::Conflict(_) => {}
            }
        }
        Err(Error::Contended(self.name.to_string()))
    }
}

/// What a transition makes of the state kept with a replica.
#[derive(Clone, Debug)]
pub struct Transition {
    /// The new state.
    pub state: serde_json::Value,
    /// Whether the writer is fenced off.
    pub fences: bool,
}

fn new_manifest(name: &MachineName, claim: &Claim) -> Manifest {
    Manifest {
        format: FORMAT,
        commit: SessionId::random(),
        name: name.clone(),
        machine: claim.machine,
        fence: Fence {
            epoch: Epoch::ZERO,
            session: None,
        },
        disks: claim.disks.clone(),
        checkpoint: None,
        logs: Vec::new(),
        retired: None,
        points: Vec::new(),
        state: serde_json::Value::Null,
    }
}
