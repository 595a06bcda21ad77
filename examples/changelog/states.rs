//! The digest of all bytes of a disk, as logs name the states of theirs.

use afterimage_block::{BlockRead, Offset};
use afterimage_changelog::{ChangeLog, StateDigest};
use afterimage_resync::tree::{Node, Tree};
use afterimage_resync::{Algorithm, BlockSize, Scope, Signer, protocol::FAN_OUT};
use anyhow::{Result, ensure};
use sha2::Sha256;

/// The root of the hash tree over blocks of 64 KiB; see `FORMAT.md` of the change log, section Disk
/// states. Reads all of the disk but its holes.
pub(super) fn state_of(disk: &dyn BlockRead) -> Result<StateDigest> {
    let algorithm = Algorithm::Sha256;
    let scope = Scope::whole(disk.size(), BlockSize::default());
    let mut tree = Tree::new(algorithm, scope.grid())?;
    let mut blocks = Signer::<Sha256>::new(disk, scope, Offset::ZERO)?;
    for unit in 0..tree.shape().nodes(1) {
        let signed = blocks.by_ref().take(FAN_OUT);
        let nodes = signed.map(|signed| Ok(Node::new(signed?.1.into())));
        tree.set_unit(
            unit,
            algorithm.parent(1, &nodes.collect::<Result<Vec<_>>>()?),
        );
    }
    tree.settle();
    Ok(StateDigest::new(*tree.root().as_bytes()))
}

/// Refuses a disk that is not in the state that `log` produces, if that is known.
pub(super) fn check_produced(log: &dyn ChangeLog, disk: &dyn BlockRead) -> Result<()> {
    if let Some(expected) = log.states().after {
        let found = state_of(disk)?;
        ensure!(
            found == expected,
            "`{}` produces state {expected}, and the disk is now in state {found}",
            log.path().display()
        );
    }
    Ok(())
}
