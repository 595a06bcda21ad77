//! A disk in memory.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::{
    BlockRead, BlockWrite, Extent, Length, Offset, Result, Run, RunKind, SECTOR, Zeroing,
    check_range,
};

const PAGE: Length = Length::kib(4);
const PAGE_BYTES: usize = 4096;

type Page = Box<[u8; PAGE_BYTES]>;

/// A sparse disk in memory, for tests, examples and simulations. Pages that were never written, or
/// were zeroed or discarded whole, are holes.
#[derive(Debug)]
pub struct MemoryDisk {
    size: Length,
    /// Page number -> content.
    pages: RwLock<BTreeMap<u64, Page>>,
}

impl MemoryDisk {
    /// An empty disk of `size`.
    ///
    /// # Panics
    /// If `size` is not a whole number of [`SECTOR`]s.
    pub fn new(size: Length) -> Self {
        assert!(
            size.get().is_multiple_of(SECTOR.get()),
            "a disk is a whole number of sectors"
        );
        Self {
            size,
            pages: RwLock::default(),
        }
    }

    /// A disk with these contents.
    ///
    /// # Panics
    /// If `contents` is not a whole number of [`SECTOR`]s.
    pub fn with_contents(contents: &[u8]) -> Self {
        let disk = Self::new(Length::of(contents));
        if let Some(whole) = Extent::whole(disk.size) {
            write_pages(&mut disk.write(), whole, contents);
        }
        disk
    }

    /// All its bytes.
    ///
    /// # Panics
    /// If the disk is larger than memory can hold.
    pub fn contents(&self) -> Vec<u8> {
        let size = self.size.to_usize().expect("the disk fits in memory");
        let mut contents = vec![0; size];
        read_pages(&self.read(), Offset::ZERO, &mut contents);
        contents
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<u64, Page>> {
        self.pages.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<u64, Page>> {
        self.pages.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The page that `at` lies on, and where on it.
fn locate(at: Offset) -> (u64, usize) {
    let within = usize::try_from(at.get() % PAGE.get()).unwrap_or_default();
    (at.get() / PAGE.get(), within)
}

fn read_pages(pages: &BTreeMap<u64, Page>, offset: Offset, buf: &mut [u8]) {
    let (mut number, mut within) = locate(offset);
    let mut rest = buf;
    while !rest.is_empty() {
        let (part, next) = rest.split_at_mut(rest.len().min(PAGE_BYTES - within));
        match pages.get(&number) {
            Some(page) => part.copy_from_slice(&page[within..within + part.len()]),
            None => part.fill(0),
        }
        (rest, number, within) = (next, number + 1, 0);
    }
}

fn write_pages(pages: &mut BTreeMap<u64, Page>, extent: Extent, data: &[u8]) {
    let mut rest = data;
    for piece in extent.pieces(PAGE) {
        let (number, within) = locate(piece.start());
        let (part, next) = rest.split_at(rest.len().min(PAGE_BYTES - within));
        let page = pages
            .entry(number)
            .or_insert_with(|| Box::new([0; PAGE_BYTES]));
        page[within..within + part.len()].copy_from_slice(part);
        rest = next;
    }
}

impl BlockRead for MemoryDisk {
    fn size(&self) -> Length {
        self.size
    }

    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> Result<()> {
        if check_range(offset, Length::of(buf), self.size)?.is_some() {
            read_pages(&self.read(), offset, buf);
        }
        Ok(())
    }

    fn next_run(&self, from: Offset) -> Result<Option<Run>> {
        let disk_end = Offset::new(self.size.get());
        let (first, _) = locate(from);
        let pages = self.read();
        let is_data = pages.contains_key(&first);
        let end = if is_data {
            let stored = pages.range(first..).map(|(number, _)| *number);
            let run = (first..).zip(stored).take_while(|(a, b)| a == b).count() as u64;
            first + run
        } else {
            let next = pages.range(first..).next();
            next.map_or(u64::MAX, |(number, _)| *number)
        };
        let end = Offset::new(end.saturating_mul(PAGE.get())).min(disk_end);
        let kind = if is_data {
            RunKind::Data
        } else {
            RunKind::Hole
        };
        Ok(Extent::between(from, end).map(|extent| Run { extent, kind }))
    }
}

impl BlockWrite for MemoryDisk {
    fn write_at(&self, offset: Offset, data: &[u8]) -> Result<()> {
        if let Some(extent) = check_range(offset, Length::of(data), self.size)? {
            write_pages(&mut self.write(), extent, data);
        }
        Ok(())
    }

    fn write_zeroes(&self, extent: Extent, zeroing: Zeroing) -> Result<()> {
        check_range(extent.start(), extent.length(), self.size)?;
        let mut pages = self.write();
        for piece in extent.pieces(PAGE) {
            let (number, within) = locate(piece.start());
            let length = piece.length().to_usize().unwrap_or(PAGE_BYTES);
            if length == PAGE_BYTES && zeroing == Zeroing::Deallocate {
                pages.remove(&number);
            } else if zeroing == Zeroing::Allocate {
                write_pages(&mut pages, piece, &[0; PAGE_BYTES][..length]);
            } else if let Some(page) = pages.get_mut(&number) {
                page[within..within + length].fill(0);
            }
        }
        Ok(())
    }

    fn discard(&self, extent: Extent) -> Result<()> {
        self.write_zeroes(extent, Zeroing::Deallocate)
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: usize = 8 * PAGE_BYTES + 512;

    fn extent(start: usize, length: usize) -> Extent {
        Extent::new(Offset::new(start as u64), Length::new(length as u64)).unwrap()
    }

    proptest! {
        #[test]
        fn agrees_with_a_slice(
            steps in prop::collection::vec((0..3_u8, 0..SIZE, 1..9000_usize, any::<u8>()), 0..20),
        ) {
            let disk = MemoryDisk::new(Length::new(SIZE as u64));
            let mut model = vec![0; SIZE];
            for (kind, start, length, value) in steps {
                let length = length.min(SIZE - start);
                let target = &mut model[start..start + length];
                if kind == 0 {
                    target.fill(value);
                    disk.write_at(Offset::new(start as u64), target).unwrap();
                    continue;
                }
                target.fill(0);
                let zeroing = if kind == 1 { Zeroing::Allocate } else { Zeroing::Deallocate };
                disk.write_zeroes(extent(start, length), zeroing).unwrap();
            }
            prop_assert_eq!(&disk.contents(), &model);
            let mut at = Offset::ZERO;
            while let Some(run) = disk.next_run(at).unwrap() {
                prop_assert_eq!(run.extent.start(), at);
                at = run.extent.end();
                if run.kind == RunKind::Hole {
                    let start = usize::try_from(run.extent.start().get()).unwrap();
                    let end = usize::try_from(at.get()).unwrap();
                    prop_assert!(model[start..end].iter().all(|b| *b == 0));
                }
            }
            prop_assert_eq!(at.get(), SIZE as u64);
        }
    }
}
