//! The world: two sites, a store, at times a third site, guests, operators and clocks, one step at a
//! time.

mod guest;
mod operators;
mod process;
mod settle;
mod third;
mod weather;

use std::cell::RefCell;
use std::future::poll_fn;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use afterimage_block::{ContentDigest, DiskId, Length, MachineId, Sequence};
use afterimage_replication::Machine;
use afterimage_retry::Time;
use afterimage_store::{BaseProgress, Manifest, Replica, ReplicaDisk, Store};
use futures::future::LocalBoxFuture;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::runtime::Runtime;

use crate::coverage::Mark;
use crate::disk::{SECTOR, SimDisk};
use crate::hub::{Hub, SITES, THIRD};
use crate::objects::Objects;
use crate::operator::read;
use crate::options::Options;
use crate::oracle::{self, Oracle};
use crate::site::{Record, Saved, Side, Site};
use crate::third::Third;
use crate::tracking::Images;
use crate::transfer::NAME;
use crate::violation::{Broken, Invariant};

const MACHINE: MachineId = MachineId::from_bytes([7; 16]);

/// Everything there is.
pub(crate) struct World {
    hub: Hub,
    options: Options,
    runtime: Rc<Runtime>,
    inner: Arc<dyn ObjectStore>,
    /// The replica, as an observer reads it, without faults.
    replica: Option<Replica>,
    sites: Vec<Site>,
    third: Option<Third>,
    now: Time,
    oracle: Oracle,
    writes: u64,
    /// A site that was stopped, and says that all is shipped.
    just_stopped: Option<usize>,
}

impl World {
    pub(crate) fn new(
        hub: Hub,
        options: Options,
        runtime: Rc<Runtime>,
        inner: Arc<dyn ObjectStore>,
        folder: &Path,
    ) -> Self {
        let sites = (0..SITES).map(|number| new_site(number, &options, &hub, folder));
        Self {
            sites: sites.collect(),
            third: options.third.then(|| Third::beside(&inner, folder)),
            hub,
            options,
            runtime,
            inner,
            replica: None,
            now: Time::ZERO,
            oracle: Oracle::default(),
            writes: 0,
            just_stopped: None,
        }
    }

    /// One thing happens.
    pub(crate) fn step(&mut self) -> Result<(), Broken> {
        let weights = &self.options.weights;
        let choices = [
            weights.write,
            weights.work,
            weights.wait,
            weights.crash,
            weights.start,
            weights.ask,
            weights.operate,
            weights.weather,
            weights.damage,
            weights.third,
        ];
        let mut drawn = self.hub.below(choices.iter().sum());
        let mut choice = 0;
        while drawn >= choices[choice] {
            drawn -= choices[choice];
            choice += 1;
        }
        let runs = |site: &Site| site.process.is_some();
        let any = self.hub.below(SITES);
        match choice {
            0 => self.write()?,
            1 => self.work(self.one_that(Site::is_busy))?,
            2 => self.wait(),
            3 => self.crash(self.one_that(runs)),
            4 => self.start_again(self.one_that(|site| !runs(site)))?,
            5 => self.ask(self.one_that(runs)),
            6 => self.begin_operation(any),
            7 => self.change_weather(),
            8 => self.damage(any),
            _ => self.happen_at_third()?,
        }
        self.look()?;
        self.check_stopped()?;
        self.check_rpo()
    }

    /// One of the sites that are so; the first where none is.
    fn one_that(&self, is_so: impl Fn(&Site) -> bool) -> usize {
        let sites = (0..self.sites.len()).filter(|site| is_so(&self.sites[*site]));
        let sites: Vec<_> = sites.collect();
        sites
            .get(self.hub.below(sites.len()))
            .copied()
            .unwrap_or_default()
    }

    fn objects(&self, site: usize) -> Objects {
        Objects::new(Arc::clone(&self.inner), self.hub.clone(), site)
    }

    fn set_now(&mut self, now: Time) {
        self.now = self.now.max(now);
        self.hub.set_now(self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.set_now(self.now + time);
    }

    /// Lets `work` go on up to its next request to the store.
    fn advance<T>(&self, work: &mut LocalBoxFuture<'static, T>) -> Option<T> {
        self.runtime
            .block_on(poll_fn(|context| match work.as_mut().poll(context) {
                Poll::Ready(result) => Poll::Ready(Some(result)),
                Poll::Pending if self.hub.take_paused() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }))
    }

    /// Looks at the replicas whose manifests were replaced.
    fn look(&mut self) -> Result<(), Broken> {
        let published = self.hub.take_published();
        if let Some(by) = published.iter().rfind(|by| **by != THIRD) {
            self.look_at_replica(*by)?;
        }
        if published.contains(&THIRD) {
            self.look_at_third()?;
        }
        Ok(())
    }

    /// Looks at the replica, whose manifest was replaced by site `by`.
    fn look_at_replica(&mut self, by: usize) -> Result<(), Broken> {
        if self.hub.has_faults() && self.hub.chance(50) {
            // Whoever it was does not live to know of it.
            self.abandon(by);
            self.crash(by);
        }
        let replica = self.observe()?;
        let manifest = read_manifest(&self.runtime, &replica)?;
        self.hub.trace(|| {
            let (last, state) = (manifest.last(), &manifest.state);
            format!(
                "  site {by} made the manifest {last:?}, {:?}, {state}",
                manifest.fence.epoch
            )
        });
        let folded = |manifest: &Manifest| {
            manifest
                .checkpoint
                .as_ref()
                .map(|checkpoint| checkpoint.folded)
        };
        if folded(&manifest) != self.oracle.manifest.as_ref().and_then(folded)
            && folded(&manifest).flatten().is_some()
        {
            self.hub.mark(Mark::Folded);
        }
        if let (true, Some(published)) = (oracle::swept_too_much(&self.hub), &self.oracle.manifest)
        {
            self.delete_a_log(&self.inner, published);
        }
        let new = self.oracle.replaced(manifest.clone(), by, &self.sites)?;
        for sequence in new {
            let images = self.contents(sequence)?;
            let record = &mut self.sites[by].record;
            self.oracle.check_point(sequence, &images, record)?;
            oracle::mark_point(&self.hub, &manifest, sequence);
            self.offer_to_third(&manifest, sequence);
        }
        // An older one is read again now and then.
        let count = self.oracle.points.len();
        if count > 1 && self.hub.chance(100) {
            let at = self.hub.below(count);
            let point = self.oracle.points.iter().nth(at);
            if let Some((sequence, expected)) = point.map(|(s, images)| (*s, Rc::clone(images))) {
                let found = self.contents(sequence)?;
                let same = *expected == found;
                crate::violation::ensure(same, Invariant::PointsAreImmutable, || {
                    format!(
                        "point {sequence}: {}",
                        oracle::difference(&expected, &found)
                    )
                })?;
            }
        }
        self.oracle.check_one_primary(&self.sites)
    }

    /// What the machines say of themselves is true.
    fn check_rpo(&self) -> Result<(), Broken> {
        for site in &self.sites {
            if let Some(process) = &site.process {
                oracle::check_rpo(&self.oracle, process, &site.record, self.now)?;
            }
        }
        Ok(())
    }

    /// The replica, as an observer reads it.
    fn observe(&mut self) -> Result<Replica, Broken> {
        if let Some(replica) = &self.replica {
            return Ok(replica.clone());
        }
        let replica = open(&self.runtime, &self.inner)?;
        Ok(self.replica.insert(replica).clone())
    }

    /// All disks at barrier `sequence`, as the replica has them.
    fn contents(&mut self, sequence: Sequence) -> Result<Images, Broken> {
        let replica = self.observe()?;
        let images = self.runtime.block_on(read(&replica, sequence));
        images.map_err(|error| unreadable(&format!("point {sequence}"), &error))
    }

    /// A planted bug: a published log goes, if it is not in the manifest, alone or with its pack.
    fn delete_a_log(&self, inner: &Arc<dyn ObjectStore>, manifest: &Manifest) {
        let disk = self.sites[0].ids[0];
        if let Some(entry) = manifest.logs.last()
            && let Some(Some(log)) = entry.disks.first()
        {
            let folders = [format!("disks/{disk}/logs"), "packs".into()];
            let name = format!("{:020}.{:020}.", entry.sequence.get(), log.epoch.get());
            let list = |folder| {
                let folder = format!("machines/{NAME}/{folder}").into();
                let listed = inner.list_with_delimiter(Some(&folder));
                let listed = self.runtime.block_on(listed);
                listed.map(|listed| listed.objects).unwrap_or_default()
            };
            for object in folders.into_iter().flat_map(list) {
                let found = object.location.filename();
                if found.is_some_and(|found| found.starts_with(&name)) {
                    let _ = self.runtime.block_on(inner.delete(&object.location));
                }
            }
        }
    }
}

/// The replica in `inner`, as an observer reads it.
fn open(runtime: &Runtime, inner: &Arc<dyn ObjectStore>) -> Result<Replica, Broken> {
    let opened = runtime.block_on(Store::with_objects(Arc::clone(inner)));
    let store = opened.map_err(|error| unreadable("the store", &error))?;
    let name = NAME
        .parse()
        .map_err(|error| unreadable("the name", &error))?;
    Ok(store.replica(name))
}

fn read_manifest(runtime: &Runtime, replica: &Replica) -> Result<Manifest, Broken> {
    let manifest = runtime.block_on(replica.existing());
    manifest.map_err(|error| unreadable("the manifest", &error))
}

fn unreadable(what: &str, error: &dyn std::fmt::Display) -> Broken {
    let message = format!("{what} cannot be read: {error}");
    Broken::new(Invariant::PointsAreImmutable, message)
}

fn new_site(number: usize, options: &Options, hub: &Hub, folder: &Path) -> Site {
    let disks = options.sectors.iter();
    let disks: Vec<_> = disks
        .map(|sectors| Arc::new(SimDisk::new(sectors * SECTOR, hub.clone())))
        .collect();
    let sizes = options.sectors.iter();
    let sizes = sizes.map(|sectors| Length::new((sectors * SECTOR) as u64));
    let folders: Vec<_> = (0..disks.len())
        .map(|disk| folder.join(format!("{number}-{disk}")))
        .collect();
    for folder in &folders {
        std::fs::create_dir_all(folder).expect("the simulator's own folder takes folders");
    }
    Site {
        ids: (1..)
            .take(disks.len())
            .map(|byte| DiskId::from_bytes([byte; 16]))
            .collect(),
        saved: Saved {
            side: if number == 0 {
                Side::Primary
            } else {
                Side::Nothing
            },
            machine: Machine::new(options.policy.clone(), sizes.collect()),
            predecessors: vec![ContentDigest::NONE; disks.len()],
            clean: true,
            changed: false,
        },
        base: Rc::new(RefCell::new(vec![BaseProgress::default(); disks.len()])),
        folders,
        disks,
        process: None,
        operation: None,
        record: Record::default(),
        intents_lost: false,
    }
}

impl World {
    /// What the machine's disks are called at the replica.
    fn identity(&self) -> Vec<ReplicaDisk> {
        let site = &self.sites[0];
        let disks = site.ids.iter().zip(&self.options.sectors).enumerate();
        disks
            .map(|(number, (id, sectors))| ReplicaDisk {
                id: *id,
                name: format!("disk{number}").parse().expect("a plain name"),
                size: Length::new((sectors * SECTOR) as u64),
            })
            .collect()
    }
}
