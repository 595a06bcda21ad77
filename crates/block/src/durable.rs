//! Files that are there whole, durably, or not at all.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

/// Makes the file at `path` under another name, has `begin` write what it begins with, and renames it
/// when that is durable: a crash leaves the file that was there before, or none, but never one that
/// proves nothing.
pub(crate) fn make(path: &Path, begin: impl FnOnce(&File) -> io::Result<()>) -> io::Result<File> {
    let unfinished = path.with_added_extension("new");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&unfinished)?;
    begin(&file)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)?;
    sync_folder(path)?;
    Ok(file)
}

/// Makes the entry of `path` in its folder durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}
