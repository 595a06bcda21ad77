//! A recovery point that opens at once, over NBD.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use afterimage_block::Overlay;
use afterimage_nbd::{Device, Export, Exports, ListenAddress, Server, ServerOptions};
use afterimage_store::{BlockingDisk, PointSelector, RecoveryPoint, Replica};
use tokio::runtime::Handle;

use crate::error::blocking;
use crate::excluded::ExcludedDisk;
use crate::shared::Kept;
use crate::test_failover::{TestPlace, begin_test};
use crate::{Result, operations};

/// A recovery point whose disks are served over NBD, each under its name. Clients may write: what
/// they write goes to throw-away overlays, and neither the point nor replication sees anything of it.
///
/// Nothing is copied: blocks are read from the store when they are asked for. The point must be kept
/// for as long; reads of one that retention has dropped meanwhile fail.
pub struct OpenedPoint {
    point: RecoveryPoint,
    server: Server,
    exports: Vec<String>,
    missing: Vec<ExcludedDisk>,
}

/// Opens a recovery point of `replica` at `address`, as a test failover; files of its overlays are in
/// `scratch`. It is known to the replica until it is closed and [cleaned up](crate::clean_up).
///
/// # Errors
/// [`Error::NotAllowed`](crate::Error::NotAllowed) while another test failover is not cleaned up,
/// [`Error::Store`](crate::Error::Store) if there is no such point or it is damaged,
/// [`Error::Nbd`](crate::Error::Nbd), [`Error::Disk`](crate::Error::Disk).
pub async fn open_point(
    replica: &Replica,
    selector: PointSelector,
    address: &ListenAddress,
    scratch: &Path,
) -> Result<OpenedPoint> {
    let manifest = replica.existing().await?;
    let point = manifest.select(selector)?;
    let opened = replica.open_point(point.sequence).await?;
    let mut exports = Vec::new();
    for (disk, content) in manifest.disks.iter().zip(opened.disks) {
        let base = Arc::new(BlockingDisk::new(content, Handle::current()));
        exports.push(Export {
            name: disk.name.to_string(),
            description: format!("{} at recovery point {}", manifest.name, point.sequence),
            device: Device::ReadWrite(Arc::new(Overlay::new(base, scratch)?)),
        });
    }
    let place = TestPlace::Served(address.to_string());
    let kept = Kept::parse(&manifest.state)?;
    kept.notes.admit_test()?;
    let server = Server::bind(address, Exports::new(exports)?, ServerOptions::default())?;
    let job = begin_test(replica, point, &place).await?;
    operations::end(replica, job, Ok(())).await?;
    let names = manifest.disks.iter().map(|disk| disk.name.as_str());
    Ok(OpenedPoint {
        point,
        missing: kept.excluded,
        exports: names.map(|name| server.uri(name)).collect(),
        server,
    })
}

impl OpenedPoint {
    /// Which point it is.
    pub fn point(&self) -> RecoveryPoint {
        self.point
    }

    /// The NBD URIs of the disks, in the machine's order.
    pub fn exports(&self) -> &[String] {
        &self.exports
    }

    /// The machine's disks that were not replicated, and are missing.
    pub fn missing(&self) -> &[ExcludedDisk] {
        &self.missing
    }

    /// Stops serving and throws the overlays away.
    ///
    /// # Errors
    /// [`Error::Abandoned`](crate::Error::Abandoned) if the server's threads died.
    pub async fn close(self) -> Result<()> {
        let server = self.server;
        blocking(move || {
            server.stop();
            Ok(())
        })
        .await
    }
}

impl fmt::Debug for OpenedPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenedPoint")
            .field("point", &self.point)
            .field("exports", &self.exports)
            .finish_non_exhaustive()
    }
}
