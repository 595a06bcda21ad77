//! A recovery point that opens at once, over NBD.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use afterimage_block::Overlay;
use afterimage_nbd::{Device, Export, Exports, ListenAddress, Server, ServerOptions};
use afterimage_store::{BlockingDisk, PointSelector, RecoveryPoint, Replica};
use tokio::runtime::Handle;

use crate::error::blocking;
use crate::excluded::ExcludedDisk;
use crate::shared::Kept;
use crate::test_failover::{TestFailover, TestPlace, begin_test};
use crate::{Result, operations};

/// The time between two looks at whether it is still wanted.
const ASKED_EVERY: Duration = Duration::from_secs(10);

/// A recovery point whose disks are served over NBD, each under its name. Clients may write: what
/// they write goes to throw-away overlays, and neither the point nor replication sees anything of it.
///
/// Nothing is copied: blocks are read from the store when they are asked for. Retention holds the point
/// until it is cleaned up, but no longer than [`TestFailover::HOLDS_MAX`](crate::TestFailover::HOLDS_MAX);
/// reads of one that was dropped then fail.
pub struct OpenedPoint {
    replica: Replica,
    test: TestFailover,
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
    let (test, job) = begin_test(replica, point, place).await?;
    operations::end(replica, job, Ok(())).await?;
    let names = manifest.disks.iter().map(|disk| disk.name.as_str());
    Ok(OpenedPoint {
        replica: replica.clone(),
        test,
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

    /// Waits until somebody has [cleaned it up](crate::clean_up), perhaps from elsewhere: then it is to be
    /// [closed](Self::close). The replica is asked every 10 s.
    pub async fn cleaned_up(&self) {
        while self.is_wanted().await {
            tokio::time::sleep(ASKED_EVERY).await;
        }
    }

    /// Whether nobody has been heard to end it, as where the replica cannot be read.
    async fn is_wanted(&self) -> bool {
        let Ok(manifest) = self.replica.existing().await else {
            return true;
        };
        let kept = Kept::parse(&manifest.state);
        kept.is_ok_and(|kept| kept.notes.test.as_ref() == Some(&self.test))
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
