//! What guests do to their disks.

use std::time::Duration;

use afterimage_block::{BlockWrite, Offset, Zeroing};
use afterimage_replication::{Event, Task};

use super::World;
use crate::coverage::Mark;
use crate::disk::SECTOR;
use crate::plant::Plant;
use crate::site::{Pending, Side};
use crate::tracking::extent;
use crate::violation::Broken;

/// Most writes are small.
const SMALL_SECTORS: usize = 3;
const LARGE_SECTORS: usize = 16;
/// The sectors that hot writes go to.
const HOT: usize = 24;

/// What a guest asks of a disk.
enum Request {
    Write(Vec<u8>),
    Zero,
    Discard,
    Flush,
}

impl World {
    /// A guest writes, at one of the sites where one runs.
    pub(super) fn write(&mut self) -> Result<(), Broken> {
        let guests = (0..self.sites.len()).filter(|site| self.has_guest(*site));
        let guests: Vec<_> = guests.collect();
        self.pass(Duration::from_millis(50));
        match guests.get(self.hub.below(guests.len())) {
            Some(site) => self.write_at(*site),
            None => Ok(()),
        }
    }

    fn has_guest(&self, site: usize) -> bool {
        let site = &self.sites[site];
        let moves = self.hub.is_planted(Plant::GuestNotStill);
        let still = site
            .process
            .as_ref()
            .is_some_and(|process| process.still && !process.stopped);
        let unclaimed = self.hub.is_planted(Plant::ServedUnclaimed);
        site.has_guest(unclaimed) || (moves && still && site.saved.side == Side::Primary)
    }

    fn write_at(&mut self, number: usize) -> Result<(), Broken> {
        let disk = self.hub.below(self.options.sectors.len());
        let sectors = self.options.sectors[disk];
        let hot = self.hub.is_hot();
        let start = self.hub.below(if hot { HOT } else { sectors });
        let longest = if self.hub.chance(150) {
            LARGE_SECTORS
        } else {
            SMALL_SECTORS
        };
        let length = 1 + self.hub.below(longest.min(sectors - start));
        self.writes += 1;
        let request = match self.hub.below(100) {
            0..84 => Request::Write(stamp(self.writes, start, length)),
            84..89 => Request::Zero,
            89..95 => Request::Discard,
            _ => Request::Flush,
        };
        self.mark_request(number, &request, start, length);
        let site = &mut self.sites[number];
        let raw = &site.disks[disk];
        if self.hub.disk_fault() {
            match request {
                Request::Flush => raw.fail_next_flush(),
                _ => raw.fail_next_write(),
            }
        }
        let device: &dyn BlockWrite = match &site.process {
            Some(process) => process.tracker.disks[disk].device.as_ref(),
            None => raw.as_ref(),
        };
        let made = make(device, &request, start, length);
        self.hub.trace(|| {
            let ok = made.is_ok();
            format!(
                "site {number}: write {} disk {disk} {start}+{length}: {ok}",
                self.writes
            )
        });
        if let Some(process) = &mut site.process {
            process.moved |= process.still;
        }
        if made.is_ok() && !matches!(request, Request::Flush) {
            site.record.acknowledged.push(self.now);
        }
        if self.hub.chance(250) {
            self.tell_lengths(number)?;
        }
        Ok(())
    }

    fn mark_request(&self, number: usize, request: &Request, start: usize, length: usize) {
        let region = self.options.region as usize;
        match request {
            Request::Write(_) if start / region != (start + length - 1) / region => {
                self.hub.mark(Mark::WriteAcrossRegions);
            }
            Request::Zero | Request::Discard => self.hub.mark(Mark::Zeroed),
            _ => {}
        }
        let pending = self.sites[number]
            .process
            .iter()
            .flat_map(|process| &process.pending);
        let resync = |pending: &Pending| matches!(pending, Pending::Transfer(Task::Resync, _));
        if pending.into_iter().any(resync) {
            self.hub.mark(Mark::WriteInResync);
        }
    }

    /// Tells the machine how long the open logs are.
    fn tell_lengths(&mut self, number: usize) -> Result<(), Broken> {
        let Some(process) = &self.sites[number].process else {
            return Ok(());
        };
        let lengths = process.tracker.open_lengths();
        self.handle(number, Event::LogsGrew(lengths))?;
        if self.hub.has_faults() && self.hub.chance(50) {
            // As when it has as many pieces as its index holds.
            return self.handle(number, Event::LogNearlyFull);
        }
        Ok(())
    }
}

/// Bytes that tell the write and the sector.
fn stamp(write: u64, start: usize, length: usize) -> Vec<u8> {
    let mut data = Vec::with_capacity(length * SECTOR);
    for sector in start..start + length {
        let word = write.wrapping_mul(0x9E37_79B9) ^ ((sector as u64) << 40);
        for _ in 0..SECTOR / 8 {
            data.extend_from_slice(&word.to_le_bytes());
        }
    }
    data
}

fn make(
    device: &dyn BlockWrite,
    request: &Request,
    start: usize,
    length: usize,
) -> afterimage_block::Result<()> {
    let place = extent(start * SECTOR, length * SECTOR).expect("it lies on the disk");
    match request {
        Request::Write(data) => device.write_at(Offset::new(place.start().get()), data),
        Request::Zero => device.write_zeroes(place, Zeroing::Allocate),
        Request::Discard => device.discard(place),
        Request::Flush => device.flush(),
    }
}
