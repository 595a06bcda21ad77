//! One machine's replica: its manifest, and who may change it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use afterimage_block::{Epoch, MachineId, SessionId};
use object_store::path::Path;

use crate::base::blocking;
use crate::cas::{Stamp, Swap, proved};
use crate::cipher::Cipher;
use crate::manifest::{FORMAT, LENGTH_MAX, unsealed};
use crate::wrapped::{MachineKey, SealedManifest};
use crate::{
    Error, Fence, Key, MachineName, Manifest, Newness, ReplicaDisk, Result, Store, Writer, layout,
};

/// How often a change of the manifest is tried against others that change it.
const ATTEMPTS: usize = 32;

/// One machine's replica in a store.
#[derive(Clone, Debug)]
pub struct Replica {
    pub(crate) store: Store,
    pub(crate) name: MachineName,
    known: Arc<Mutex<Known>>,
}

/// What was learnt of a replica's manifest.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The newest that was read or written.
    newest: Option<Newness>,
    /// The machine's key, which a passphrase need not be stretched for again.
    cipher: Option<Arc<Cipher>>,
}

/// A manifest as it was read or written, and what tells whether it is still the present one.
#[derive(Clone)]
pub(crate) struct Seen {
    pub(crate) manifest: Manifest,
    pub(crate) stamp: Stamp,
}

impl fmt::Debug for Seen {
    /// Only how new it is: what an encrypted machine keeps in it is no secret then any more.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Seen")
            .field(&self.manifest.newness())
            .finish()
    }
}

/// Who claims a replica, and for which disks.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The machine.
    pub machine: MachineId,
    /// This run of it.
    pub session: SessionId,
    /// Its disks, in order, as they are from now on where the replica has no base yet; where it has one,
    /// none may be smaller than it is there, and larger ones are published with their first logs.
    pub disks: Vec<ReplicaDisk>,
}

impl Replica {
    pub(crate) fn new(store: Store, name: MachineName) -> Self {
        Self {
            store,
            name,
            known: Arc::default(),
        }
    }

    /// The same replica, whose manifest must not be older than one of which `newest` was remembered.
    /// What this value and its clones see themselves they remember anyway.
    ///
    /// Whoever can write the store can put back an old manifest with its objects, which reads as it
    /// did then. Encryption does not show that; only who remembers notices.
    pub fn not_before(self, newest: Newness) -> Self {
        self.learn(|known| known.newest = known.newest.max(Some(newest)));
        self
    }

    fn learn<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        change(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Its name.
    pub fn name(&self) -> &MachineName {
        &self.name
    }

    /// The present manifest; `None` if there is no such replica.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::OtherFormat`], [`Error::RolledBack`], [`Error::Store`],
    /// [`Error::Unreachable`]; [`Error::KeyMissing`], [`Error::KeyUnused`], [`Error::KeyWrong`].
    pub async fn manifest(&self) -> Result<Option<Manifest>> {
        Ok(self.read().await?.map(|seen| seen.manifest))
    }

    /// The present manifest of a replica that must exist.
    ///
    /// # Errors
    /// As [`manifest`](Self::manifest), and [`Error::NoReplica`].
    pub async fn existing(&self) -> Result<Manifest> {
        Ok(self.read_existing().await?.manifest)
    }

    /// The same, as what a change can be tried on.
    pub(crate) async fn read_existing(&self) -> Result<Seen> {
        let seen = self.read().await?;
        seen.ok_or_else(|| Error::NoReplica(self.name.to_string()))
    }

    /// That there is none counts only where the store still is, looked at afterwards: a folder that
    /// was just unmounted has no manifests either.
    async fn read(&self) -> Result<Option<Seen>> {
        let found = proved(|| self.read_once()).await?;
        if found.is_none() {
            self.store.check_reachable().await?;
        }
        Ok(found)
    }

    async fn read_once(&self) -> Result<Option<Seen>> {
        let path = layout::manifest(&self.name);
        // Others may learn of a newer one while this one is read.
        let seen = self.learn(|known| known.newest);
        let Some(current) = self.store.cas.read(&path, LENGTH_MAX).await? else {
            return Ok(None);
        };
        let (is_sealed, json) = unsealed(&current.bytes, &path)?;
        let name = || self.name.to_string();
        let manifest = match (is_sealed, &self.store.key) {
            (false, None) => Manifest::parse(json, &self.name)?,
            (false, Some(_)) => return Err(Error::KeyUnused(name())),
            (true, None) => return Err(Error::KeyMissing(name())),
            (true, Some(key)) => self.open(&path, json, key.clone()).await?,
        };
        let found = manifest.newness();
        if let Some(seen) = seen.filter(|seen| found < *seen) {
            return Err(Error::RolledBack {
                name: name(),
                found,
                seen,
            });
        }
        self.note(&manifest);
        let stamp = current.stamp;
        Ok(Some(Seen { manifest, stamp }))
    }

    fn note(&self, manifest: &Manifest) {
        self.learn(|known| {
            known.newest = known.newest.max(Some(manifest.newness()));
            known.cipher = manifest.cipher();
        });
    }

    /// Opens an encrypted manifest. The machine's key is remembered, so that a writer goes on when
    /// its wrapping is replaced.
    async fn open(&self, path: &Path, json: &[u8], key: Key) -> Result<Manifest> {
        let sealed = SealedManifest::parse(path, json)?;
        let known = self.learn(|known| known.cipher.clone());
        let opened = known.and_then(|cipher| sealed.open_with(path, &cipher));
        let (json, key) = if let Some(opened) = opened {
            opened
        } else {
            let (path, name) = (path.clone(), self.name.to_string());
            blocking(move || sealed.open(&path, &key, &name)).await?
        };
        let mut manifest = Manifest::parse(&json, &self.name)?;
        manifest.key = Some(key);
        Ok(manifest)
    }

    /// Wraps the machine's key by `key` from now on. Nothing is encrypted anew, and writers that run
    /// go on; who opens the replica later needs the new key.
    ///
    /// Who knows the former key, and kept the manifest of before, still knows the machine's key: if
    /// the former key is in wrong hands, begin a new replica.
    ///
    /// # Errors
    /// [`Error::NoReplica`], [`Error::NoRandom`], and as [`manifest`](Self::manifest).
    pub async fn rewrap(&self, key: &Key) -> Result<()> {
        let unused = || Error::KeyUnused(self.name.to_string());
        let present = self.existing().await?.key.ok_or_else(unused)?;
        let (path, key) = (layout::manifest(&self.name), key.clone());
        let known = Arc::clone(&present.cipher);
        let rewrapped = blocking(move || present.rewrapped(&path, &key)).await?;
        let replace = |present: Option<Manifest>| {
            let missing = || Error::NoReplica(self.name.to_string());
            let mut manifest = present.ok_or_else(missing)?;
            if manifest
                .cipher()
                .is_none_or(|cipher| cipher.key() != known.key())
            {
                return Err(Error::Contended(self.name.to_string()));
            }
            manifest.key = Some(rewrapped.clone());
            Ok(manifest)
        };
        self.change(replace).await.map(drop)
    }

    /// A key for a machine that is to be encrypted and has none yet.
    async fn new_key(&self) -> Result<Option<MachineKey>> {
        let Some(key) = self.store.key.clone() else {
            return Ok(None);
        };
        let path = layout::manifest(&self.name);
        blocking(move || MachineKey::new(&path, &key).map(Some)).await
    }

    /// Claims the replica for a writer: makes it if it does not exist, begins a new epoch, and fences
    /// off every earlier writer. `admits` may refuse, by the state that is kept with the replica (null
    /// with a new one); what it returns is kept from the same moment on.
    ///
    /// # Errors
    /// [`Error::NameTaken`], [`Error::OtherDisks`], [`Error::Shrunk`], what `admits` returns, and as
    /// [`manifest`](Self::manifest).
    pub async fn claim(
        &self,
        claim: Claim,
        admits: impl Fn(&serde_json::Value) -> Result<serde_json::Value>,
    ) -> Result<Writer> {
        let session = claim.session;
        let seen = self
            .change(|present| {
                let mut manifest = match present {
                    None => new_manifest(&self.name, &claim),
                    Some(manifest) => manifest,
                };
                self.check_owner(&manifest, &claim)?;
                if manifest.checkpoint.is_none() {
                    manifest.disks.clone_from(&claim.disks);
                }
                manifest.state = admits(&manifest.state)?;
                manifest.fence = Fence {
                    epoch: self.next_epoch(&manifest)?,
                    session: Some(session),
                };
                Ok(manifest)
            })
            .await?;
        Ok(Writer::new(self.clone(), seen))
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
                .find(|(theirs, ours)| (theirs.id, &theirs.name) != (ours.id, &ours.name))
                .map(|(theirs, ours)| {
                    format!(
                        "it has `{}` ({}) where the machine has `{}` ({})",
                        theirs.name, theirs.id, ours.name, ours.id
                    )
                })
        } else {
            let (theirs, ours) = (manifest.disks.len(), claim.disks.len());
            Some(format!("it has {theirs} disks and the machine {ours}"))
        };
        if let Some(difference) = difference {
            return Err(Error::OtherDisks {
                name: self.name.to_string(),
                difference,
            });
        }
        if manifest.checkpoint.is_none() {
            return Ok(());
        }
        let sizes: Vec<_> = claim.disks.iter().map(|disk| disk.size).collect();
        manifest.check_sizes(&sizes)
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
        let changed = self.change(|present| {
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
        });
        Ok(changed.await?.manifest)
    }

    /// Replaces the manifest by what `change` makes of the present one, as often as others come in
    /// between.
    pub(crate) async fn change(
        &self,
        change: impl Fn(Option<Manifest>) -> Result<Manifest>,
    ) -> Result<Seen> {
        for _ in 0..ATTEMPTS {
            let (present, stamp) = self.read().await?.map(|at| (at.manifest, at.stamp)).unzip();
            if let Some(seen) = self.swap(stamp.as_ref(), change(present)?).await? {
                return Ok(seen);
            }
        }
        Err(Error::Contended(self.name.to_string()))
    }

    /// Replaces the manifest by `next` if it is still the one with this stamp; `None` if it is another.
    /// The commit is new each time, so that a replacement whose answer was lost is known again.
    pub(crate) async fn swap(
        &self,
        expected: Option<&Stamp>,
        next: Manifest,
    ) -> Result<Option<Seen>> {
        let path = layout::manifest(&self.name);
        let mut manifest = next;
        manifest.commit = SessionId::random();
        if manifest.key.is_none() {
            manifest.key = self.new_key().await?;
        }
        let bytes = manifest.encode()?.into();
        match self.store.cas.replace(&path, expected, bytes).await? {
            Swap::Done(stamp) => {
                self.note(&manifest);
                Ok(Some(Seen { manifest, stamp }))
            }
            Swap::Conflict(_) => Ok(None),
        }
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
        growths: Vec::new(),
        losses: Vec::new(),
        state: serde_json::Value::Null,
        key: None,
    }
}
