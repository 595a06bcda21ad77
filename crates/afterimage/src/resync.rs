//! A resynchronization: what is in doubt is compared with the replica, and what differs goes over.

use std::num::NonZeroUsize;
use std::sync::Arc;

use afterimage_block::{
    BlockRead, ContentDigest, Extent, ExtentSet, Length, Offset, Sequence, free_space,
};
use afterimage_changelog::{Error as LogError, FileWriter, SealedLog, WriterOptions};
use afterimage_replication::{Event, PrimaryReport, ResyncReason, Role, Scope};
use afterimage_resync::{BlockSize, Comparer, Session, Signature, SignaturePage, Summary};
use afterimage_store::{LogEntry, PointDisk, Publication, Writer};

use crate::error::blocking;
use crate::generations::{self, Disk, PIECE, log_extent};
use crate::notice::Notice;
use crate::shared::{RunningJob, Shared};
use crate::transfer::Outcome;
use crate::{Clock, Error, Result};
use afterimage_replication::{JobKind, Progress};

/// Signatures that are fetched for one step of a comparison.
const SIGNATURES: usize = 256;

/// One pass of a resynchronization.
pub(crate) struct Pass<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) writer: &'a Writer,
    /// The generation whose logs the differences are.
    pub(crate) sequence: Sequence,
    /// The sizes of the disks at its barrier.
    pub(crate) sizes: Vec<Length>,
}

/// What a pass found on one disk.
struct Found {
    differences: SealedLog,
    summary: Summary,
    /// What there was no room for.
    left: ExtentSet,
}

impl Pass<'_> {
    /// Compares the disks with the replica where they are in doubt, and publishes what differs.
    pub(crate) async fn run(
        &self,
        scopes: &[Scope],
        reason: ResyncReason,
        report: PrimaryReport,
    ) -> Result<Outcome> {
        let manifest = self.writer.replica().existing().await?;
        manifest.last().ok_or_else(|| {
            afterimage_store::Error::Refused("the replica has no base to compare with".into())
        })?;
        let replica = self.writer.replica();
        let point = replica.open_to_compare(&manifest, &self.sizes).await?;
        let (mut logs, mut left, mut amends) = (Vec::new(), Vec::new(), Vec::new());
        let (mut compared, mut sent) = (Length::ZERO, Length::ZERO);
        let disks = self.shared.generations.disks.iter().zip(&point.disks);
        for (number, ((disk, replica), scope)) in disks.zip(scopes).enumerate() {
            let (size, unreadable) = (replica.size(), manifest.unreadable(number));
            let doubt = Doubt::of(scope.extents(size), &unreadable, size);
            if doubt.is_nothing() {
                logs.push(None);
                left.push(Scope::NOTHING);
                continue;
            }
            let mut job = self.shared.disk_job(JobKind::Resynchronize, number);
            let found = self.compare(disk, replica, &doubt, &mut job).await;
            let found = job.end(found)?;
            let settled = doubt.without(&found.left);
            let losses = manifest.open_losses().filter(|loss| loss.disk == number);
            amends.extend(losses.map(|loss| loss.clone().without(&settled)));
            let put = self.writer.put_log(number, &found.differences).await?;
            self.shared.keep_pace(put.length).await;
            logs.push(Some(put));
            // At once, so that the next disk's differences find the room that these took.
            self.shared.generations.discard(&[self.sequence]);
            left.push(found.left.into());
            compared = compared.saturating_add(found.summary.compared);
            sent = sent.saturating_add(found.summary.sent);
        }
        let publication = Publication {
            first: self.sequence,
            sizes: self.sizes.clone(),
            predecessors: vec![ContentDigest::NONE; logs.len()],
            logs: LogEntry {
                sequence: self.sequence,
                disks: logs,
            },
            after_loss: true,
            point: None,
            amends,
        };
        let state = self.shared.kept(Role::Replica, report, self.writer.epoch());
        self.writer.publish(&publication, &state).await?;
        let notice = Notice::Resync {
            reason,
            compared,
            sent,
        };
        Ok(Outcome::new(Event::Resynchronized { left }, Some(notice)))
    }

    /// Logs what differs on one disk, and what the replica lacks whatever it is, for as long as the log
    /// has room.
    async fn compare(
        &self,
        disk: &Disk,
        replica: &PointDisk,
        doubt: &Doubt,
        job: &mut RunningJob<'_>,
    ) -> Result<Found> {
        let mut differences = self.begin_log(disk)?;
        let (source, lacking) = (Arc::clone(&disk.tracked), doubt.lacking.clone());
        let logged;
        (differences, logged) = blocking(move || {
            let logged = log_all(&mut differences, source.as_ref(), &lacking)?;
            Ok((differences, logged))
        })
        .await?;
        let mut left = ExtentSet::new();
        let mut differing = doubt.differing.clone();
        if let Some(from) = logged {
            left = not_before(doubt.lacking.clone(), from);
            left.union_with(&std::mem::take(&mut differing));
        }
        let session = Session::of(replica.size(), BlockSize::default(), &differing)?;
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let mut comparer: Comparer = Comparer::new(session).threads(threads);
        while let Some(next) = comparer.next_in_doubt() {
            let signatures = signatures(replica, next).await?;
            let source = Arc::clone(&disk.tracked);
            let compared;
            (comparer, differences, compared) = blocking(move || {
                let first = comparer.session().grid().index_at(next.start());
                let page = SignaturePage::new(first, &signatures);
                let compared = comparer.compare::<Error>(source.as_ref(), page, |change| {
                    differences.append(change, Clock::timestamp())?;
                    Ok(())
                });
                Ok((comparer, differences, compared))
            })
            .await?;
            match compared {
                Err(error) if lacks_room(&error) && differences.records() > 0 => {
                    left = not_before(differing, next.start());
                    break;
                }
                compared => compared?,
            }
            let progress = comparer.session().progress();
            job.progress(Progress {
                done: progress.summary.compared,
                total: progress.total,
                sent: progress.summary.sent,
            });
        }
        let sealed = blocking(move || Ok(differences.seal(ContentDigest::NONE)?));
        Ok(Found {
            differences: sealed.await?,
            summary: comparer.session().summary(),
            left,
        })
    }

    /// The log that the differences of one disk go to. It may take half of what is free: writes are
    /// logged meanwhile, and what does not fit takes another pass.
    fn begin_log(&self, disk: &Disk) -> Result<FileWriter> {
        let (size, epoch) = (disk.tracked.size(), self.writer.epoch());
        let header = generations::header(disk.id, size, self.sequence, epoch);
        let free = free_space(self.shared.folder.scratch())?;
        let options = WriterOptions::default().with_quota(Length::new(free.get() / 2));
        let path = disk.log_path(self.sequence);
        Ok(FileWriter::create(&path, header, options)?)
    }
}

/// What may differ of one disk, in blocks.
struct Doubt {
    /// What digests tell of.
    differing: ExtentSet,
    /// What the replica lacks, and the digests with it: it is sent as it is.
    lacking: ExtentSet,
}

impl Doubt {
    fn of(doubtful: ExtentSet, unreadable: &ExtentSet, size: Length) -> Self {
        let block = BlockSize::default().length();
        let (mut lacking, mut differing) = (ExtentSet::new(), doubtful);
        for extent in unreadable.iter() {
            let blocks = extent.aligned_out(block, size);
            let doubtful = differing.within(blocks);
            lacking.union_with(&doubtful.map(|part| part.aligned_out(block, size)).collect());
        }
        lacking.iter().for_each(|extent| differing.remove(extent));
        Self { differing, lacking }
    }

    fn is_nothing(&self) -> bool {
        self.differing.is_empty() && self.lacking.is_empty()
    }

    /// What it was, but for what is `left` of it.
    fn without(&self, left: &ExtentSet) -> ExtentSet {
        let mut settled = self.differing.clone();
        settled.union_with(&self.lacking);
        left.iter().for_each(|extent| settled.remove(extent));
        settled
    }
}

/// Logs all that `disk` holds in `extents`; where the log has no more room, from where on it does not.
fn log_all(
    log: &mut FileWriter,
    disk: &dyn BlockRead,
    extents: &ExtentSet,
) -> Result<Option<Offset>> {
    for piece in extents.iter().flat_map(|extent| extent.pieces(PIECE)) {
        match log_extent(log, disk, piece) {
            Err(error) if lacks_room(&error) && log.records() > 0 => {
                return Ok(Some(piece.start()));
            }
            logged => logged?,
        }
    }
    Ok(None)
}

fn lacks_room(error: &Error) -> bool {
    matches!(
        error,
        Error::Log(LogError::OverQuota { .. } | LogError::IndexFull { .. })
    )
}

/// The part of `extents` that starts at or after `offset`.
fn not_before(mut extents: ExtentSet, offset: Offset) -> ExtentSet {
    if let Some(before) = Extent::between(Offset::ZERO, offset) {
        extents.remove(before);
    }
    extents
}

/// The replica's signatures of the first blocks of `extent`.
async fn signatures(replica: &PointDisk, extent: Extent) -> Result<Vec<Signature>> {
    let block = BlockSize::default().length();
    let mut signatures = Vec::with_capacity(SIGNATURES);
    for block in extent.pieces(block).take(SIGNATURES) {
        let digest = replica.block_digest(block.start()).await?;
        signatures.push(Signature::from(digest));
    }
    Ok(signatures)
}
