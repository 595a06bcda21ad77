//! What happened in a run, counted: a fault that never happens is not tried.

use std::fmt;

macro_rules! marks {
    ($($(#[doc = $doc:literal])+ $name:ident),+ $(,)?) => {
        /// Something that a run is to bring about, of the faults and of what is to be survived.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Mark {
            $($(#[doc = $doc])+ $name),+
        }

        impl Mark {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// What it says.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),+)),+
                }
            }
        }
    };
}

marks! {
    /// A process died, and its disks kept what was written.
    Crash,
    /// The power failed: unflushed writes were lost, torn or reordered.
    PowerCut,
    /// A sector that was not flushed came back as garbage.
    GarbageSector,
    /// A write that was not flushed was lost, and a later one kept.
    ReorderedWrite,
    /// A write was torn between two sectors.
    TornWrite,
    /// A crash came while another crash was recovered from.
    CrashInRecovery,
    /// A crash came between a barrier and its record.
    CrashAfterBarrier,
    /// A crash came while something was on its way to the replica.
    CrashInTransfer,
    /// The generation that was open at a crash was read from the disks again.
    Recovered,
    /// A write to the disk failed half-way.
    WriteFailed,
    /// A disk could not be flushed.
    FlushFailed,
    /// A change log took no more.
    LogLost,
    /// A change log could not be sealed.
    SealFailed,
    /// A change log could not be begun.
    LogNotBegun,
    /// A write-intent file could not be made, so a barrier failed.
    BarrierFailed,
    /// A write-intent file was missing or damaged after a crash.
    IntentsLost,
    /// A sealed log was damaged where it lay.
    LogDamaged,
    /// The logs outgrew their share, and were dropped.
    Overflow,
    /// A write that spans regions or is not of whole ones.
    WriteAcrossRegions,
    /// The guest zeroed or discarded.
    Zeroed,
    /// A disk was changed while nothing tracked it.
    ChangedUntracked,
    /// The wall clock jumped, forward or back.
    ClockJump,
    /// A request did not arrive at the store.
    RequestLost,
    /// A request was done and its answer lost.
    AnswerLost,
    /// A conditional put was done and its answer lost.
    ConditionalAnswerLost,
    /// A request that seemed lost was done later.
    Late,
    /// A late conditional put found another object, and was refused.
    LateRefused,
    /// A request was done twice.
    Duplicated,
    /// The store was overloaded, and asked for a pause.
    Busy,
    /// The store was full.
    StoreFull,
    /// A conditional put was refused with 409 though nothing stood against it.
    SpuriousConflict,
    /// An answer broke off.
    CutAnswer,
    /// A bit flipped in an answer.
    FlippedAnswer,
    /// A request was answered with what another one had asked for.
    MisdirectedAnswer,
    /// A site could not reach the store for a while.
    Partition,
    /// A site's requests were done, and no answer came back for a while.
    OneWayPartition,
    /// A claim of the replica.
    Claimed,
    /// The first copy was published.
    Copied,
    /// The first copy was begun again with another snapshot.
    CopiedAgain,
    /// A recovery point was published, and read back as its barrier.
    Point,
    /// An application-consistent point.
    ApplicationPoint,
    /// An application-consistent point became a crash-consistent one.
    CrashConsistentOnly,
    /// The quiesce hook hung.
    HookHung,
    /// The quiesce hook failed.
    HookFailed,
    /// Nothing was written since the last barrier.
    Quiet,
    /// A resynchronization was published.
    Resynchronized,
    /// The guest wrote while it was compared.
    WriteInResync,
    /// There was no room for all differences, so another pass followed.
    PartialResync,
    /// The replica was behind what it had acknowledged, or an answer to it was lost.
    ClaimedAgain,
    /// Old points were folded into the checkpoint.
    Folded,
    /// A task was given up, and the machine was Critical.
    Critical,
    /// The owner suspended it.
    Suspended,
    /// The owner asked for a resynchronization.
    ResyncRequested,
    /// The owner ended its protection.
    Disabled,
    /// The replica was told that its primary no longer replicates.
    Released,
    /// The owner protected it again, on what the replica still held.
    EnabledAgain,
    /// The owner put another policy in force.
    PolicyChanged,
    /// The owner stopped it, and all was shipped.
    StoppedComplete,
    /// The owner stopped it, and not all was shipped.
    StoppedIncomplete,
    /// A recovery point was read for a test failover.
    TestFailover,
    /// A planned failover.
    PlannedFailover,
    /// An unplanned failover.
    UnplannedFailover,
    /// A failover was cut short, and done again.
    FailoverAgain,
    /// A failover was committed.
    Committed,
    /// The answer to a commit was lost, and known again.
    CommittedAgain,
    /// A failover was taken back.
    Cancelled,
    /// The machine that was failed over became the primary.
    Reversed,
    /// The former primary came back, and was refused.
    FormerPrimaryRefused,
    /// The former primary follows, with the token of its epoch.
    Followed,
    /// A standby was brought to the newest state.
    Pulled,
    /// A pull was cut short.
    PullAbandoned,
    /// Failed back, without loss.
    FailedBack,
    /// Both sites' operators were at it at the same time.
    TwoOperators,
    /// An operation of an operator was abandoned in the middle.
    OperationAbandoned,
    /// The replica was claimed for replication on to a third site.
    Extended,
    /// The first copy of a recovery point came to the third site.
    ThirdCopied,
    /// A recovery point came to the third site, as the replica's logs tell it.
    ThirdFollowed,
    /// A recovery point came to the third site by comparison: the replica no longer had the logs.
    ThirdCompared,
    /// The third site skipped recovery points that it was too late for.
    ThirdLagged,
    /// Old points of the third site were folded into its checkpoint.
    ThirdFolded,
    /// What replicates on to the third site crashed in the middle.
    ThirdCrashed,
    /// The third site was lost with all it held, and begun anew.
    ThirdLost,
    /// The third site was told to compare everything.
    ThirdResynchronized,
    /// A recovery point of the third site was read for a test failover.
    ThirdTested,
    /// The third site was failed over.
    ThirdFailedOver,
    /// A failover of the third site was taken back, and it followed again.
    ThirdCancelled,
    /// What replicates on to the third site was refused while that was failed over.
    ThirdRefused,
    /// Both other sites were lost, and the machine went on from the third one.
    ThirdTookOver,
    /// Recovery points were late, and the owner was told.
    PointsLate,
    /// A transfer did not move for too long, and the owner was told.
    Stalled,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// How often each [`Mark`] was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage(Vec<u64>);

impl Default for Coverage {
    fn default() -> Self {
        Self(vec![0; Mark::ALL.len()])
    }
}

impl Coverage {
    pub(crate) fn mark(&mut self, mark: Mark) {
        if let Some(count) = self.0.get_mut(mark as usize) {
            *count += 1;
        }
    }

    /// How often `mark` was made.
    pub fn count(&self, mark: Mark) -> u64 {
        self.0.get(mark as usize).copied().unwrap_or_default()
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine += theirs;
        }
    }

    /// What never happened.
    pub fn missing(&self) -> impl Iterator<Item = Mark> {
        let all = Mark::ALL.iter().copied();
        all.filter(|mark| self.count(*mark) == 0)
    }
}

impl fmt::Display for Coverage {
    /// A line for each mark: its count, its name, what it means.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mark in Mark::ALL {
            let meaning = mark.meaning().trim();
            writeln!(
                f,
                "{:>9}  {:<22} {meaning}",
                self.count(*mark),
                mark.to_string()
            )?;
        }
        Ok(())
    }
}
