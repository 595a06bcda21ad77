//! Bugs that are planted on purpose: the simulator is worth what it catches.

use std::fmt;
use std::str::FromStr;

macro_rules! plants {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal),+ $(,)?) => {
        /// A bug that is planted in the simulator's own adapters: in how the driver, the disks and the
        /// store behave, never in the crates that are tried.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Plant {
            $($(#[doc = $doc])+ $name),+
        }

        impl Plant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Its name on a command line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text),+
                }
            }
        }
    };
}

plants! {
    /// The disk says that it flushed, and did not: the negative control.
    LyingFlush = "lying-flush",
    /// A barrier does not flush the disks before their intents are forgotten.
    BarrierWithoutFlush = "barrier-without-flush",
    /// The intents of a generation are forgotten at its barrier, before the machine is saved.
    IntentsForgottenEarly = "intents-forgotten-early",
    /// A region's mark is not durable when the write is made.
    IntentAfterWrite = "intent-after-write",
    /// One in many writes is not logged.
    WriteNotLogged = "write-not-logged",
    /// What is zeroed or discarded is not logged.
    ZeroesNotLogged = "zeroes-not-logged",
    /// Two writes that follow each other are logged in the other order.
    LogReordered = "log-reordered",
    /// The disks of a machine are cut one after the other, with writes in between.
    BarrierSkewed = "barrier-skewed",
    /// A barrier says that nothing was written though something was.
    QuietThoughWritten = "quiet-though-written",
    /// What a lost log may lack is not reported.
    LossForgotten = "loss-forgotten",
    /// What dropped logs held is not reported.
    DroppedForgotten = "dropped-forgotten",
    /// After a crash only the first region is read again.
    RecoveryIncomplete = "recovery-incomplete",
    /// After a crash a generation that was begun and not recorded is not read again.
    RecoveryOfOneGeneration = "recovery-of-one-generation",
    /// After a crash it is not missed that the intents of a generation are gone that was begun and not
    /// recorded, though its log tells of it.
    LaterIntentsNotMissed = "later-intents-not-missed",
    /// What a log continues is taken from a barrier that was never recorded.
    PredecessorOfLostBarrier = "predecessor-of-lost-barrier",
    /// The machine is saved one event late.
    SavedLate = "saved-late",
    /// The first copy reads the running disk instead of the snapshot.
    CopyOfRunningDisk = "copy-of-running-disk",
    /// A log is deleted when it is sealed and not when it is shipped.
    LogDeletedEarly = "log-deleted-early",
    /// What was to be deleted when a crash came is kept for ever.
    OrphansKept = "orphans-kept",
    /// A shipment lacks one disk's log.
    ShipmentLacksDisk = "shipment-lacks-disk",
    /// A shipment is acknowledged before it is published.
    AcknowledgedEarly = "acknowledged-early",
    /// A log is stored without its last bytes, and nobody notices.
    LogCutShort = "log-cut-short",
    /// The store ignores conditions, but for the probe.
    ConditionsIgnored = "conditions-ignored",
    /// The primary claims the replica whatever its lineage.
    LineageIgnored = "lineage-ignored",
    /// One difference that a resynchronization finds is not sent.
    DifferenceNotSent = "difference-not-sent",
    /// The last part of what is in doubt is not compared.
    ScopeCutShort = "scope-cut-short",
    /// A partial resynchronization says that nothing is left.
    LeftoversForgotten = "leftovers-forgotten",
    /// The machine says that it is stopped while the guest still writes.
    StoppedWhileWriting = "stopped-while-writing",
    /// The disks of a machine that was stopped are served before it has the replica again.
    ServedUnclaimed = "served-unclaimed",
    /// A guest that was asked to hold still goes on writing.
    GuestNotStill = "guest-not-still",
    /// A guest is never let go on.
    NeverThawed = "never-thawed",
    /// A failover opens the point before the one that was asked for.
    WrongPoint = "wrong-point",
    /// A failover uses a disk that was not restored to its end.
    HalfRestored = "half-restored",
    /// A standby whose pull was cut short says that it is whole.
    HalfPulled = "half-pulled",
    /// A failover does not begin an epoch, so that the primary is not fenced off.
    FailoverWithoutFence = "failover-without-fence",
    /// A published log is deleted before its time.
    SweptTooMuch = "swept-too-much",
    /// The third site's store ignores conditions.
    ThirdConditionsIgnored = "third-conditions-ignored",
    /// A log that the third site published is deleted before its time.
    ThirdSweptTooMuch = "third-swept-too-much",
    /// After a crash at the third site nobody replicates on to it again.
    ThirdForgotten = "third-forgotten",
    /// The third site is failed over without an epoch of its own, so that what feeds it goes on.
    ThirdWithoutFence = "third-without-fence",
    /// A clean stop is recorded though writes are open.
    CleanThoughWritten = "clean-though-written",
}

impl fmt::Display for Plant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no plant's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no planted bug; there are {all}", all = names())]
pub struct UnknownPlant(String);

fn names() -> String {
    let names: Vec<_> = Plant::ALL.iter().map(|plant| plant.name()).collect();
    names.join(", ")
}

impl FromStr for Plant {
    type Err = UnknownPlant;

    fn from_str(text: &str) -> Result<Self, UnknownPlant> {
        let found = Self::ALL.iter().find(|plant| plant.name() == text);
        found.copied().ok_or_else(|| UnknownPlant(text.into()))
    }
}
