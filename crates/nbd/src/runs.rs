//! Where a range of a disk holds data and where it does not.

use afterimage_block::{BlockRead, Extent, Result, Run, RunKind};

/// A device is asked no more often for one list: it may know its runs in small pieces only.
const PROBES_MAX: usize = 16 << 10;

/// The runs from the start of `whole` on, neighbours of one kind joined, at most `limit` (at least
/// one) of them. They follow each other without gaps; there is always one, and the last may end
/// before `whole` does.
pub(crate) fn runs(disk: &dyn BlockRead, whole: Extent, limit: usize) -> Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    let mut at = whole.start();
    for _ in 0..PROBES_MAX {
        let Some(found) = disk.next_run(at)? else {
            break;
        };
        let end = found.extent.end().min(whole.end());
        let Some(part) = Extent::between(at, end) else {
            break;
        };
        let full = runs.len() == limit;
        match runs.last_mut() {
            Some(last) if last.kind == found.kind => {
                let joined = Extent::between(last.extent.start(), end);
                last.extent = joined.unwrap_or(last.extent);
            }
            _ if full => break,
            _ => runs.push(Run {
                extent: part,
                kind: found.kind,
            }),
        }
        at = end;
    }
    if runs.is_empty() {
        runs.push(Run {
            extent: whole,
            kind: RunKind::Data,
        });
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use afterimage_block::{Length, Offset};

    use super::*;

    /// Knows each 4 KiB by itself, as far as it has answers at all.
    struct Pages(Vec<RunKind>, Option<Extent>);

    impl BlockRead for Pages {
        fn size(&self) -> Length {
            Length::new(4096 * self.0.len() as u64)
        }

        fn read_at(&self, _: Offset, _: &mut [u8]) -> Result<()> {
            Ok(())
        }

        fn next_run(&self, from: Offset) -> Result<Option<Run>> {
            let page = from.get() / 4096;
            let kind = self.0.get(usize::try_from(page).unwrap_or(usize::MAX));
            let end = Offset::new((page + 1) * 4096);
            let extent = self.1.or(Extent::between(from, end));
            Ok(kind.zip(extent).map(|(&kind, extent)| Run { extent, kind }))
        }
    }

    fn extent(start: u64, end: u64) -> Extent {
        Extent::between(Offset::new(start), Offset::new(end)).unwrap()
    }

    fn found(pages: &Pages, limit: usize) -> Vec<(u64, RunKind)> {
        let runs = runs(pages, extent(1000, 20_000), limit).unwrap();
        let mut at = Offset::new(1000);
        let mut found = Vec::new();
        for run in runs {
            assert_eq!(run.extent.start(), at);
            at = run.extent.end();
            found.push((at.get(), run.kind));
        }
        found
    }

    #[test]
    fn neighbours_of_one_kind_are_joined_within_the_range() {
        use RunKind::{Data, Hole};
        let pages = Pages(vec![Data, Data, Hole, Hole, Data, Data], None);
        let all = [(8192, Data), (16384, Hole), (20_000, Data)];
        assert_eq!(found(&pages, 3), all);
        assert_eq!(found(&pages, 2), all[..2]);
        assert_eq!(found(&pages, 1), all[..1]);
    }

    #[test]
    fn a_device_that_talks_nonsense_costs_nothing_but_the_map() {
        use RunKind::{Data, Hole};
        let mute = Pages(vec![], None);
        assert_eq!(found(&mute, 9), [(20_000, Data)]);
        let backwards = Pages(vec![Hole; 9], Some(extent(0, 10)));
        assert_eq!(found(&backwards, 9), [(20_000, Data)]);
        let standing_still = Pages(vec![Hole; 9], Some(extent(0, 5000)));
        assert_eq!(found(&standing_still, 9), [(5000, Hole)]);
    }
}
