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
