//! How much room a filesystem has.

use std::path::Path;

use crate::{Error, Length, Result};

/// The free space of the filesystem that holds `folder`, as far as this process may use it.
///
/// # Errors
/// [`Error::File`].
pub fn free_space(folder: &Path) -> Result<Length> {
    let space = rustix::fs::statvfs(folder).map_err(|errno| Error::File {
        operation: "measure the free space of",
        path: folder.into(),
        source: errno.into(),
    })?;
    Ok(Length::new(space.f_bavail.saturating_mul(space.f_frsize)))
}
