//! A machine under protection, as its owner holds it.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use afterimage_block::{Access, BlockRead, BlockWrite, DiskId, Length, RawDisk, TrackedDisk};
use afterimage_nbd::{Device, Export, Exports, ListenAddress, Server, ServerOptions};
use afterimage_replication::{Action, Event, Machine, NotAllowed, Policy, Request, State};
use afterimage_store::{Key, MachineName, Replica, ReplicaDisk, Store};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::adopt::adopt;
use crate::driver::{Command, Driver, sum};
use crate::error::blocking;
use crate::excluded::excluded;
use crate::generations::{self, Generations, OpenDisk};
use crate::growing::{Growing, lengthen};
use crate::notice::Notice;
use crate::quiesce::QuiesceHook;
use crate::reverse::{follows, make_primary};
use crate::shared::Shared;
use crate::state::{Saved, SavedDisk, Side, StateFolder, canonical, default_folder, stem};
use crate::status::Operation;
use crate::{Clock, Error, Result};
use afterimage_replication::{Job, Jobs};

/// Notices that a slow listener may be behind before it misses some.
const NOTICES: usize = 64;

/// What is to be protected, and how.
///
/// ```no_run
/// use afterimage::Protection;
///
/// # async fn example() -> Result<(), afterimage::Error> {
/// let protection = Protection::new("web-01".parse()?, vec!["/vm/root.raw".into()], "/mnt/replicas")
///     .listen("unix:/run/web-01.sock".parse()?)
///     .state_folder("/var/lib/afterimage/web-01");
/// let (machine, mut notices) = protection.start().await?;
/// while let Ok(notice) = notices.recv().await {
///     println!("{notice:?}");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Protection {
    name: MachineName,
    disks: Vec<PathBuf>,
    replica: String,
    key: Option<Key>,
    listen: Option<ListenAddress>,
    state: Option<PathBuf>,
    policy: Policy,
    quiesce: Option<QuiesceHook>,
    clock: Clock,
    reverse: bool,
    adopt: bool,
    only_enlarged: bool,
    excluded: Vec<PathBuf>,
}

impl Protection {
    /// Protects the machine `name`, which has these disks, in the store `replica`: a path or a URL, as
    /// [`Store::open`](afterimage_store::Store::open) takes them.
    pub fn new(name: MachineName, disks: Vec<PathBuf>, replica: impl Into<String>) -> Self {
        Self {
            name,
            disks,
            replica: replica.into(),
            key: None,
            listen: None,
            state: None,
            policy: Policy::default(),
            quiesce: None,
            clock: Clock::real(),
            reverse: false,
            adopt: false,
            only_enlarged: false,
            excluded: Vec::new(),
        }
    }

    /// Encrypts the replica by `key`. It must have been from its beginning.
    pub fn key(mut self, key: impl Into<Option<Key>>) -> Self {
        self.key = key.into();
        self
    }

    /// Serves the disks over NBD at `address`, each under the stem of its file's name.
    pub fn listen(mut self, address: ListenAddress) -> Self {
        self.listen = Some(address);
        self
    }

    /// Keeps state and logs in `folder`. By default in a folder `.afterimage-NAME` beside the first
    /// disk.
    pub fn state_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.state = Some(folder.into());
        self
    }

    /// Replicates by `policy`.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Has the guest hold still by `hook` for the application-consistent points that the policy asks
    /// for. Without one they are crash-consistent, and each time a notice says so.
    pub fn quiesce(mut self, hook: QuiesceHook) -> Self {
        self.quiesce = Some(hook);
        self
    }

    /// Replicates in the other direction after a failover: the disks that the replica was failed over
    /// to, once that is committed, are the primary's from then on. They are compared with the replica
    /// where they may differ, and the former primary stays shut out. Where they are the primary's
    /// already, nothing is done.
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// Takes over a replica that was made of another copy of these disks: images that were carried to its site,
    /// or a backup there, which were [protected](Self::new) under this name until they were
    /// [stopped](ProtectedMachine::stop). Whoever did that is fenced off, all of the disks are compared, and
    /// only what differs is sent. Where the state folder is that of a machine already, nothing is done.
    pub fn adopt(mut self) -> Self {
        self.adopt = true;
        self
    }

    /// Tells the replica that the machine has these disks as well, which are not replicated: who fails over
    /// is told that they are missing.
    pub fn exclude(mut self, disks: Vec<PathBuf>) -> Self {
        self.excluded = disks;
        self
    }

    /// Takes the word for it that of the disks that are larger than they were, nothing but their size was
    /// changed while nothing tracked them: only what their new parts hold is compared then. Without it a
    /// file that was lengthened looks like one that was written to, and all of it is.
    pub fn only_enlarged(mut self) -> Self {
        self.only_enlarged = true;
        self
    }

    /// Lives by `clock`.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Opens the disks, recovers what an unclean end left behind, serves the disks and begins to
    /// replicate, or goes on where a former run was.
    ///
    /// # Errors
    /// [`Error::Disks`], [`Error::Disk`], [`Error::Shrunk`], [`Error::StateInUse`],
    /// [`Error::State`], [`Error::Policy`], [`Error::Nbd`], and [`Error::Store`] if no store can have
    /// the replica's URL. That the replica cannot be reached is no error here: the disks are served,
    /// and it is tried again; but [`Error::StillPrepared`] where the machine was stopped for a planned
    /// failover, since its replica must know of it before anything is written. [`Error::NotAllowed`] where the disks are not the primary's; of those of a
    /// failover also [`Error::Store`], unless they are reversed already; and of those that
    /// [adopt](Self::adopt) their replica.
    pub async fn start(self) -> Result<(ProtectedMachine, broadcast::Receiver<Notice>)> {
        self.policy.validate()?;
        Store::check_url(&self.replica)?;
        let (notices, receiver) = broadcast::channel(NOTICES);
        let listen = self.listen.clone();
        let path = self.state_path();
        let folder = blocking(move || StateFolder::open(&path)).await?;
        if self.reverse {
            make_primary(&folder, &self.replica().await?, &self.policy).await?;
        }
        if self.adopt {
            let paths = canonical(&self.disks)?;
            adopt(&folder, &self.replica().await?, &paths, &self.policy).await?;
        }
        let started = blocking(move || self.open(folder, notices)).await?;
        let Started {
            shared,
            machine,
            actions,
        } = started;
        let must_claim_first = machine.must_claim_first();
        let (commands, received) = mpsc::channel(16);
        let driver = Driver::new(machine, Arc::clone(&shared));
        let notices = shared.notices.subscribe();
        let mut running = ProtectedMachine {
            driver: tokio::spawn(driver.run(actions, received)),
            shared,
            server: None,
            exports: Vec::new(),
            commands,
        };
        if must_claim_first && let Err(cause) = claimed(notices).await {
            running.stop().await?;
            return Err(Error::StillPrepared { cause });
        }
        if let Some(address) = listen {
            running.serve(&address)?;
        }
        let exports = running.exports.clone();
        running.shared.tell(Notice::Ready { exports });
        Ok((running, receiver))
    }

    /// The replica, in a store that is there.
    async fn replica(&self) -> Result<Replica> {
        let store = Store::open_existing(&self.replica).await?;
        Ok(store.with_key(self.key.clone()).replica(self.name.clone()))
    }

    fn state_path(&self) -> PathBuf {
        let beside = self.disks.first().and_then(|disk| disk.parent());
        let default = || default_folder(beside.unwrap_or(Path::new(".")), &self.name);
        self.state.clone().unwrap_or_else(default)
    }

    fn open(self, folder: StateFolder, notices: broadcast::Sender<Notice>) -> Result<Started> {
        let paths = canonical(&self.disks)?;
        let mut saved = match folder.saved() {
            Some(saved) => self.known(&folder, saved, &paths)?,
            None => self.unknown(&paths)?,
        };
        let excluded = excluded(&self.excluded, &saved.disks)?;
        self.clock.not_before(saved.time);
        let open = |disk: &SavedDisk| OpenDisk::open(disk.clone(), &folder);
        let mut disks = saved.disks.iter().map(open).collect::<Result<Vec<_>>>()?;
        let now = self.clock.now();
        let mut machine = saved.replication.clone();
        machine.set_policy(self.policy.clone())?;
        machine = machine.seeded(seed(&saved.disks));
        let mut changed = changed_untracked(&saved);
        for (number, disk) in disks.iter().enumerate() {
            let Some(unproven) = &disk.larger else {
                continue;
            };
            let size = disk.saved.size;
            machine.found_larger(number, size, unproven);
            if self.only_enlarged {
                changed.retain(|changed| *changed != number);
            }
            let _ = notices.send(Notice::Grown { disk: number, size });
        }
        let recovered = if saved.clean || !machine.has_base() {
            None
        } else {
            let (open, tracking) = (machine.open(), machine.tracking());
            Some(generations::recover(
                &mut disks,
                open,
                tracking,
                machine.epoch(),
            )?)
        };
        if let Some(recovered) = &recovered {
            let bytes = recovered.bytes;
            let _ = notices.send(Notice::Recovered { bytes });
        }
        let (mut machine, mut actions) = machine.restart(recovered.map(|r| r.reached), now);
        for disk in changed {
            actions.extend(machine.handle(Event::ChangedUntracked { disk }, now));
        }
        if machine.state() == State::Disabled {
            actions.extend(machine.request(Request::Enable, now)?);
        }
        let (sequence, tracking, epoch) = (machine.open(), machine.tracking(), machine.epoch());
        let was_clean = saved.clean;
        saved.disks = disks.iter().map(|disk| disk.saved.clone()).collect();
        saved.replication = machine.clone();
        saved.clean = false;
        if !was_clean {
            // What was recovered is recorded before what it was recovered from is replaced.
            generations::keep_intents(&disks, sequence)?;
            folder.save(saved.clone())?;
        }
        generations::delete_other_logs(&disks, &machine.unshipped().collect::<Vec<_>>());
        let generations = Generations::begin(disks, &folder, sequence, tracking, epoch)?;
        // From here on a crash has something to recover.
        folder.save(saved.clone())?;
        let shared = Shared {
            name: self.name,
            machine: saved.machine,
            replica_url: self.replica,
            key: self.key,
            disks: saved.disks.iter().map(replica_disk).collect(),
            excluded,
            clock: self.clock,
            folder,
            generations,
            notices,
            policy: self.policy,
            quiesce: self.quiesce,
            pace: Mutex::default(),
            jobs: Mutex::new(Jobs::default()),
        };
        Ok(Started {
            shared: Arc::new(shared),
            machine,
            actions,
        })
    }

    /// The record of a machine that was protected before, if it is this one.
    fn known(&self, folder: &StateFolder, saved: Saved, paths: &[PathBuf]) -> Result<Saved> {
        saved.check(folder, &self.name, paths)?;
        match saved.side {
            Side::Primary => Ok(saved),
            Side::FailedOver(_) => Err(not_primary()),
            Side::Standby(_) => Err(follows().into()),
        }
    }

    /// The record of a machine that was never protected.
    fn unknown(&self, paths: &[PathBuf]) -> Result<Saved> {
        let mut disks = Vec::new();
        for path in paths {
            let size = RawDisk::open(path, Access::ReadOnly)?.size();
            let (id, name) = (DiskId::random(), stem(path)?);
            disks.push(SavedDisk::new(
                &ReplicaDisk { id, name, size },
                path.clone(),
            ));
        }
        let names: BTreeSet<_> = disks.iter().map(|disk| disk.name.as_str()).collect();
        if names.len() < disks.len() {
            let reason = "two disks have files of one name, so their exports would too: rename one";
            return Err(Error::Disks(reason.into()));
        }
        let sizes = disks.iter().map(|disk| disk.size).collect();
        let machine = Machine::new(self.policy.clone(), sizes);
        Ok(Saved::new(self.name.clone(), disks, machine))
    }
}

fn not_primary() -> Error {
    let reason =
        "the replica was failed over to these disks, and they are not the primary's yet".into();
    let advice = "commit the failover, then protect them in reverse; or take it back";
    Error::NotAllowed(NotAllowed { reason, advice })
}

struct Started {
    shared: Arc<Shared>,
    machine: Machine,
    actions: Vec<Action>,
}

/// The disks, by their index, that look otherwise than when they were closed in order.
fn changed_untracked(saved: &Saved) -> Vec<usize> {
    let disks = saved.disks.iter().enumerate();
    disks
        .filter(|(_, disk)| saved.clean && disk.may_have_changed())
        .map(|(index, _)| index)
        .collect()
}

/// What tells a machine from all others: a part of its first disk's id, which is random.
fn seed(disks: &[SavedDisk]) -> u64 {
    let id = disks.first().map(|disk| disk.id.to_bytes());
    let part = id.as_ref().and_then(|id| id.first_chunk());
    part.map_or(0, |part| u64::from_le_bytes(*part))
}

fn replica_disk(disk: &SavedDisk) -> ReplicaDisk {
    ReplicaDisk {
        id: disk.id,
        name: disk.name.clone(),
        size: disk.size,
    }
}

/// Waits until a machine that was stopped has its replica again; why it has not.
async fn claimed(mut notices: broadcast::Receiver<Notice>) -> Result<(), String> {
    loop {
        match notices.recv().await {
            Ok(Notice::Retry { error, .. } | Notice::GaveUp { error, .. }) => return Err(error),
            Ok(Notice::State { state, .. })
                if !matches!(state, State::PreparedForFailover | State::Critical) =>
            {
                return Ok(());
            }
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return Err(Error::NotRunning.to_string()),
        }
    }
}

fn serve(shared: &Shared, address: &ListenAddress) -> Result<Server> {
    let mut exports = Vec::new();
    for (disk, tracked) in shared.disks.iter().zip(&shared.generations.disks) {
        exports.push(Export {
            name: disk.name.to_string(),
            description: format!("{}, protected as {}", tracked.path.display(), shared.name),
            device: Device::ReadWrite(Arc::clone(&tracked.tracked) as Arc<dyn BlockWrite>),
        });
    }
    Ok(Server::bind(
        address,
        Exports::new(exports)?,
        ServerOptions::default(),
    )?)
}

fn uris(server: &Server, shared: &Shared) -> Vec<String> {
    shared
        .disks
        .iter()
        .map(|disk| server.uri(disk.name.as_str()))
        .collect()
}

/// A machine under protection. Dropping it ends the process' part as a crash would: nothing is lost,
/// and the next start goes on from there. [`stop`](Self::stop) ends it in order.
pub struct ProtectedMachine {
    shared: Arc<Shared>,
    server: Option<Server>,
    exports: Vec<String>,
    commands: mpsc::Sender<Command>,
    driver: JoinHandle<Result<bool>>,
}

impl ProtectedMachine {
    fn serve(&mut self, address: &ListenAddress) -> Result<()> {
        let server = serve(&self.shared, address)?;
        self.exports = uris(&server, &self.shared);
        self.server = Some(server);
        Ok(())
    }

    /// The folder of its state and logs, which no other process can have at the same time.
    pub fn state_folder(&self) -> &Path {
        self.shared.folder.scratch()
    }

    /// The NBD URIs of the disks, in order; none where nothing is served.
    pub fn exports(&self) -> &[String] {
        &self.exports
    }

    /// The disks, in order, for writers in this process.
    pub fn disks(&self) -> Vec<Arc<TrackedDisk>> {
        let disks = &self.shared.generations.disks;
        disks.iter().map(|disk| Arc::clone(&disk.tracked)).collect()
    }

    /// The sum of the disks' sizes.
    pub fn size(&self) -> Length {
        let disks = &self.shared.generations.disks;
        sum(disks.iter().map(|disk| disk.tracked.size()))
    }

    /// Makes disk number `disk` larger while the machine runs: its file is lengthened, and from a barrier
    /// that is made at once it has its new `size`, whose new part reads as zeros. Replication goes on; older
    /// recovery points keep the size that they have. Clients of its export see the new size when they
    /// connect again. Nothing is done where the disk has that size. A block device must be as large
    /// already; what its new part holds is compared with the replica.
    ///
    /// Where it fails, the disk has its former size; its file may have the new one, which the next start
    /// then takes over.
    ///
    /// # Errors
    /// [`Error::Shrunk`], [`Error::Disks`] if there is no such disk, [`Error::Disk`];
    /// [`Error::Refused`] during a first copy, a resynchronization or a stop; [`Error::NotRunning`].
    pub async fn grow(&self, disk: usize, size: Length) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let unproven = blocking(move || {
            let found = shared.generations.disks.get(disk);
            let found = found.ok_or_else(|| Error::Disks(format!("there is no disk {disk}")))?;
            if found.tracked.size() == size {
                return Ok(None);
            }
            lengthen(found, size).map(Some)
        });
        let Some(unproven) = unproven.await? else {
            return Ok(());
        };
        let (answer, answered) = oneshot::channel();
        let command = Command::Grow(Growing {
            disk,
            size,
            unproven,
            has_grown: false,
            answer,
        });
        self.commands
            .send(command)
            .await
            .map_err(|_| Error::NotRunning)?;
        answered.await.map_err(|_| Error::NotRunning)?
    }

    /// Its newest jobs, the oldest first, and what can be [asked for](Self::request) about each now.
    pub fn jobs(&self) -> Vec<Operation> {
        let saved = self.shared.folder.saved();
        let with_actions = |job: Job| {
            let machine = saved.as_ref().map(|saved| &saved.replication);
            let actions = machine.map(|machine| machine.job_actions(&job));
            Operation {
                actions: actions.unwrap_or_default(),
                job,
            }
        };
        self.shared
            .all_jobs()
            .into_iter()
            .map(with_actions)
            .collect()
    }

    /// Listens to what happens from now on.
    pub fn notices(&self) -> broadcast::Receiver<Notice> {
        self.shared.notices.subscribe()
    }

    /// Asks the machine for something. To stop it, use [`stop`](Self::stop).
    ///
    /// # Errors
    /// [`Error::Refused`] where its state does not admit that; [`Error::NotRunning`].
    pub async fn request(&self, request: Request) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Request(request, answer);
        self.commands
            .send(command)
            .await
            .map_err(|_| Error::NotRunning)?;
        answered.await.map_err(|_| Error::NotRunning)?
    }

    /// Stops serving the disks, ships the last delta and ends in order; whether the replica holds
    /// every write then. Writers in this process must have ended.
    ///
    /// # Errors
    /// What ended the machine's task, if it has ended before.
    pub async fn stop(mut self) -> Result<bool> {
        if let Some(server) = self.server.take() {
            blocking(move || {
                server.stop();
                Ok(())
            })
            .await?;
        }
        // Refused only if the machine is stopping already.
        let _ = self.request(Request::Stop).await;
        match (&mut self.driver).await {
            Ok(result) => result,
            Err(error) => Err(Error::Abandoned(error.to_string())),
        }
    }

    /// Waits until the machine ends by itself, which it does only where its own state cannot be
    /// saved any more.
    ///
    /// # Errors
    /// Why it ended.
    pub async fn ended(&mut self) -> Result<bool> {
        match (&mut self.driver).await {
            Ok(result) => result,
            Err(error) => Err(Error::Abandoned(error.to_string())),
        }
    }
}

impl fmt::Debug for ProtectedMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProtectedMachine")
            .field("name", &self.shared.name)
            .field("exports", &self.exports)
            .finish_non_exhaustive()
    }
}

impl Drop for ProtectedMachine {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
