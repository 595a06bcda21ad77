//! A failover that is served at once, and becomes images meanwhile.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use afterimage_block::{
    BlockRead, BlockWrite, Epoch, Extent, HydratingDisk, Length, Offset, Sequence,
};
use afterimage_nbd::{Device, Export, Exports, ListenAddress, Server, ServerOptions};
use afterimage_replication::Rpo;
use afterimage_retry::{Attempts, Retry, Schedule};
use afterimage_store::{
    BlockingDisk, Manifest, PointSelector, RecoveryPoint, Replica, ReplicaDisk,
};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::driver::sum;
use crate::error::blocking;
use crate::excluded::ExcludedDisk;
use crate::failover::{Begun, begin, complete, images};
use crate::operations;
use crate::shared::Kept;
use crate::state::StateFolder;
use crate::{Clock, Error, Failover, Result};

/// Pieces of 1 MiB that are copied at the same time, and before what was copied is made durable.
const PARALLEL: usize = 4;
const BATCH: usize = 64;

/// A machine that was failed over and whose disks are served over NBD, each under its name, while
/// their images are filled. What clients write is in the images, and what they flushed is there after
/// a crash as well.
///
/// It is committed or cancelled as any other failover; after a cancel what was written to the images
/// is of no use.
pub struct ServedFailover {
    point: RecoveryPoint,
    rpo: Rpo,
    epoch: Epoch,
    images: Vec<PathBuf>,
    exports: Vec<String>,
    missing: Vec<ExcludedDisk>,
    disks: Vec<Arc<HydratingDisk>>,
    server: Server,
    /// The one task that fills the images; none once its result was told.
    hydration: JoinSet<Result<()>>,
    stop: watch::Sender<bool>,
    _folder: Arc<StateFolder>,
}

/// Fails the machine of `replica` over to a recovery point and serves its disks at `address` at once.
/// Blocks are read from the store when they are asked for, and by and by all of them, into
/// `out/NAME.raw`: images that are complete when they have this name.
///
/// The same failover can be asked for again where it was cut short, also after its commit: what is
/// local by then stays, with what was written to it. Once the images are complete they can be the
/// primary's disks ([`Protection::reverse`](crate::Protection::reverse)).
///
/// # Errors
/// [`Error::NotAllowed`] where the replica's role does not admit it; [`Error::Exists`] if there is an
/// image that was not made so; [`Error::StateInUse`] while it is served; [`Error::Store`] if there is
/// no such point or it is damaged; [`Error::Disk`] if the images are of another point; [`Error::Nbd`].
///
/// # Panics
/// If `how` is a test, which [`open_point`](crate::open_point) serves.
pub async fn serve_failover(
    replica: &Replica,
    how: Failover,
    selector: PointSelector,
    address: &ListenAddress,
    out: &Path,
) -> Result<ServedFailover> {
    let manifest = replica.existing().await?;
    let point = manifest.select(selector)?;
    let kept = Kept::parse(&manifest.state)?;
    let Begun { folder, epoch, job } = begin(replica, &manifest, how, point, out).await?;
    let folder = Arc::new(folder);
    let images = images(&manifest, out);
    let copied = |image: &&PathBuf| image.exists() && !HydratingDisk::is_begun(image);
    if let Some(image) = images.iter().find(copied) {
        return Err(Error::Exists(image.clone()));
    }
    let opened = replica.open_point(point.sequence).await?;
    let mut disks = Vec::new();
    let parts = manifest.disks.iter().zip(opened.disks);
    for ((disk, content), image) in parts.zip(&images) {
        let source = Arc::new(BlockingDisk::new(content, Handle::current()));
        let (identity, image) = (identity_of(disk, point.sequence), image.clone());
        let open = move || Ok(HydratingDisk::open(source, identity, &image)?);
        disks.push(Arc::new(blocking(open).await?));
    }
    let (server, exports) = serve(&manifest, point, &disks, address)?;
    let (stop, stopping) = watch::channel(false);
    let mut hydration = JoinSet::new();
    let filling = Hydration {
        disks: disks.clone(),
        folder: Arc::clone(&folder),
        stopping,
    };
    let (recorded, filled) = (replica.clone(), disks.clone());
    hydration.spawn(async move {
        let far = || local(&filled);
        let filled = operations::watch(&recorded, job, far, filling.run()).await;
        match filled {
            // The same failover can be asked for again, and goes on.
            Err(Error::NotRunning) => filled,
            filled => operations::end(&recorded, job, filled).await,
        }
    });
    Ok(ServedFailover {
        point,
        rpo: kept.replica.rpo(point.sequence, point.time),
        epoch,
        images,
        exports,
        missing: kept.excluded,
        hydration,
        stop,
        disks,
        server,
        _folder: folder,
    })
}

/// The bytes that are local, of how many.
fn local(disks: &[Arc<HydratingDisk>]) -> (Length, Length) {
    let total = |length: fn(&HydratingDisk) -> Length| sum(disks.iter().map(|disk| length(disk)));
    (total(HydratingDisk::local), total(BlockRead::size))
}

/// What tells a disk at one point from every other: neither ever changes.
fn identity_of(disk: &ReplicaDisk, point: Sequence) -> [u8; 32] {
    let mut identity = [0; 32];
    identity[..16].copy_from_slice(&disk.id.to_bytes());
    identity[16..24].copy_from_slice(&point.get().to_le_bytes());
    identity
}

fn serve(
    manifest: &Manifest,
    point: RecoveryPoint,
    disks: &[Arc<HydratingDisk>],
    address: &ListenAddress,
) -> Result<(Server, Vec<String>)> {
    let export = |(disk, served): (&ReplicaDisk, &Arc<HydratingDisk>)| Export {
        name: disk.name.to_string(),
        description: format!("{} from recovery point {}", manifest.name, point.sequence),
        device: Device::ReadWrite(Arc::clone(served) as _),
    };
    let exports = manifest.disks.iter().zip(disks).map(export).collect();
    let server = Server::bind(address, Exports::new(exports)?, ServerOptions::default())?;
    let names = manifest.disks.iter().map(|disk| disk.name.as_str());
    let uris = names.map(|name| server.uri(name)).collect();
    Ok((server, uris))
}

/// What makes every image whole.
struct Hydration {
    disks: Vec<Arc<HydratingDisk>>,
    folder: Arc<StateFolder>,
    stopping: watch::Receiver<bool>,
}

impl Hydration {
    /// A store that is out of reach is tried again for as long as it takes.
    async fn run(self) -> Result<()> {
        let (second, minute) = (Duration::from_secs(1), Duration::from_mins(1));
        let schedule = Schedule::exponential(second, 2, minute).unwrap_or_default();
        let clock = Clock::real();
        let now = || clock.now();
        for disk in &self.disks {
            while let Some(from) = disk.missing(Offset::ZERO) {
                let mut retry = Retry::begin(now());
                let attempts = Attempts::new(&schedule, &mut retry, now, |pause| self.wait(pause));
                let batch = attempts.run_async(
                    |_| self.copy_batch(disk, from.start()),
                    |error, _| tracing::warn!(%error, "hydration waits"),
                );
                batch.await.map_err(|given_up| given_up.error)?;
            }
            let disk = Arc::clone(disk);
            blocking(move || Ok(disk.finish()?)).await?;
        }
        // They may be written at any moment, so nothing is said of how they were left.
        complete(&self.folder, None)
    }

    async fn wait(&self, pause: Duration) {
        let mut stopping = self.stopping.clone();
        // In either case the next attempt sees why.
        let _ = tokio::time::timeout(pause, stopping.wait_for(|stopping| *stopping)).await;
    }

    /// Copies the next pieces that are missing, and makes them durable.
    async fn copy_batch(&self, disk: &Arc<HydratingDisk>, from: Offset) -> Result<()> {
        let mut at = from;
        let mut pieces = Vec::new();
        while let Some(piece) = disk.missing(at).filter(|_| pieces.len() < BATCH) {
            at = piece.end();
            pieces.push(piece);
        }
        for together in pieces.chunks(PARALLEL) {
            if *self.stopping.borrow() {
                return Err(Error::NotRunning);
            }
            let copies = together.iter().map(|piece| copy(Arc::clone(disk), *piece));
            let mut result = Ok(());
            for copied in copies.collect::<Vec<_>>() {
                let copied = copied
                    .await
                    .map_err(|error| Error::Abandoned(error.to_string()));
                result = result.and(copied.and_then(|copied| copied));
            }
            result?;
        }
        let disk = Arc::clone(disk);
        blocking(move || Ok(disk.flush()?)).await
    }
}

fn copy(disk: Arc<HydratingDisk>, piece: Extent) -> JoinHandle<Result<()>> {
    tokio::task::spawn_blocking(move || Ok(disk.hydrate(piece)?))
}

impl ServedFailover {
    /// Which point it is.
    pub fn point(&self) -> RecoveryPoint {
        self.point
    }

    /// What of the primary it loses.
    pub fn rpo(&self) -> Rpo {
        self.rpo
    }

    /// The epoch that the failover began, by which [`commit`](crate::commit) and [`cancel`](crate::cancel)
    /// know it.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The NBD URIs of the disks, in the machine's order.
    pub fn exports(&self) -> &[String] {
        &self.exports
    }

    /// The machine's disks that were not replicated, and are missing.
    pub fn missing(&self) -> &[ExcludedDisk] {
        &self.missing
    }

    /// The images, in the machine's order.
    pub fn images(&self) -> &[PathBuf] {
        &self.images
    }

    /// The bytes that are local, of how many.
    pub fn progress(&self) -> (Length, Length) {
        local(&self.disks)
    }

    /// Waits until every image is whole and has its name. The disks are served before and after.
    /// May be given up and called again.
    ///
    /// # Errors
    /// [`Error::Store`] and [`Error::Disk`] if that cannot be: the point is damaged, or there is no
    /// room. What is local is served all the same.
    pub async fn hydrated(&mut self) -> Result<()> {
        match self.hydration.join_next().await {
            Some(Ok(result)) => result,
            Some(Err(error)) => Err(Error::Abandoned(error.to_string())),
            None if self
                .disks
                .iter()
                .all(|disk| disk.missing(Offset::ZERO).is_none()) =>
            {
                Ok(())
            }
            None => Err(Error::Abandoned("the hydration has failed before".into())),
        }
    }

    /// Stops serving, and makes durable what is local. Whatever is missing is fetched when the
    /// failover is served again.
    ///
    /// # Errors
    /// [`Error::Disk`] if an image cannot be made durable.
    pub async fn close(self) -> Result<()> {
        let Self {
            server,
            mut hydration,
            stop,
            disks,
            ..
        } = self;
        let _ = stop.send(true);
        while hydration.join_next().await.is_some() {}
        blocking(move || {
            server.stop();
            for disk in disks {
                disk.flush()?;
            }
            Ok(())
        })
        .await
    }
}

impl fmt::Debug for ServedFailover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServedFailover")
            .field("point", &self.point)
            .field("exports", &self.exports)
            .finish_non_exhaustive()
    }
}
