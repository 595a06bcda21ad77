//! One disk laid over another.

use crate::{BlockRead, Extent, ExtentSet, Length, Offset, Result, Run, check_range};

/// A disk laid over another of the same size: `top` where it is covered, `base` elsewhere.
pub(crate) struct Layers<'a> {
    pub(crate) top: &'a dyn BlockRead,
    pub(crate) covered: &'a ExtentSet,
    pub(crate) base: &'a dyn BlockRead,
}

impl BlockRead for Layers<'_> {
    fn size(&self) -> Length {
        self.base.size()
    }

    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> Result<()> {
        let Some(extent) = check_range(offset, Length::of(buf), self.size())? else {
            return Ok(());
        };
        let mut part = |run: Extent, from: &dyn BlockRead| {
            let start = run.start().checked_since(offset).and_then(Length::to_usize);
            let start = start.unwrap_or_default();
            let length = run.length().to_usize().unwrap_or_default();
            from.read_at(run.start(), &mut buf[start..start + length])
        };
        for run in self.covered.within(extent) {
            part(run, self.top)?;
        }
        for run in self.covered.gaps(extent) {
            part(run, self.base)?;
        }
        Ok(())
    }

    fn next_run(&self, from: Offset) -> Result<Option<Run>> {
        let Some(rest) = Extent::between(from, Offset::new(self.size().get())) else {
            return Ok(None);
        };
        let (layer, limit) = match self.covered.within(rest).next() {
            Some(run) if run.start() == from => (self.top, run.end()),
            Some(run) => (self.base, run.start()),
            None => (self.base, rest.end()),
        };
        let run = layer.next_run(from)?;
        Ok(run.and_then(|run| {
            let extent = Extent::between(from, run.extent.end().min(limit))?;
            Some(Run { extent, ..run })
        }))
    }
}
