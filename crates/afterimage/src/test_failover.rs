//! Test failovers: one at a time, known to the replica until they are cleaned up.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use afterimage_block::{Sequence, Timestamp};
use afterimage_replication::{JobKind, NotAllowed};
use afterimage_store::{Manifest, RecoveryPoint, Replica};
use serde::{Deserialize, Serialize};

use crate::error::blocking;
use crate::failover::{check_kept, images, partial};
use crate::notes::Notes;
use crate::shared::{Kept, change_kept};
use crate::{Clock, Error, Result};

/// A note on a test failover is no longer than this, in bytes.
const NOTES_MAX: usize = 4096;

/// A test failover that was begun and is not cleaned up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestFailover {
    /// Its recovery point.
    pub sequence: Sequence,
    /// Where its disks are.
    pub place: TestPlace,
    /// When it began.
    pub begun: Timestamp,
}

impl TestFailover {
    /// How long retention holds the recovery point of a test that nobody cleans up, and so all that came
    /// after it: a day.
    pub const HOLDS_MAX: Duration = Duration::from_hours(24);
}

/// Where the disks of a test failover are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TestPlace {
    /// Images in this folder of the host that made them.
    Images(PathBuf),
    /// Overlays, served at this address. They are gone with their process.
    Served(String),
}

impl fmt::Display for TestPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Images(folder) => write!(f, "{}", folder.display()),
            Self::Served(address) => f.write_str(address),
        }
    }
}

/// What came of a test failover, by the word of who cleaned it up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tested {
    /// Its recovery point.
    pub sequence: Sequence,
    /// When it was cleaned up; when its images were complete, where an earlier release wrote it.
    pub time: Timestamp,
    /// Whether the machine was as it should be.
    #[serde(default)]
    pub result: TestResult,
    /// What else is to be remembered.
    #[serde(default)]
    pub notes: String,
}

/// Whether the machine was as it should be in a test failover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TestResult {
    /// It was.
    #[default]
    Succeeded,
    /// It was not.
    Failed,
}

impl Notes {
    /// Refuses a test failover while another one is not cleaned up.
    pub(crate) fn admit_test(&self) -> Result<(), NotAllowed> {
        let Some(test) = &self.test else {
            return Ok(());
        };
        Err(NotAllowed {
            reason: format!(
                "the test failover to recovery point {} at {} is not cleaned up",
                test.sequence, test.place
            ),
            advice: "end it, then clean it up with what came of it",
        })
    }
}

/// Records a test failover at the replica; it, and the number of its job.
pub(crate) async fn begin_test(
    replica: &Replica,
    point: RecoveryPoint,
    place: TestPlace,
) -> Result<(TestFailover, u64)> {
    let test = TestFailover {
        sequence: point.sequence,
        place,
        begun: Clock::timestamp(),
    };
    let begin = |manifest: &Manifest, kept: &mut Kept| {
        kept.notes.admit_test()?;
        check_kept(manifest, point.sequence)?;
        kept.notes.test = Some(test.clone());
        let subject = format!("recovery point {} at {}", test.sequence, test.place);
        Ok(kept.notes.begin(JobKind::TestFailover, subject, 0))
    };
    let (_, job) = change_kept(replica, false, begin).await?;
    Ok((test, job))
}

/// Cleans the test failover of `replica` up, be it complete or cut short: removes its images, which are in
/// `out`, and records what came of it. Who serves one learns that it is over
/// ([`OpenedPoint::cleaned_up`](crate::OpenedPoint::cleaned_up)). Asked for again after a crash it goes on.
///
/// # Errors
/// [`Error::NotAllowed`] if there is none, or its images are in another folder; [`Error::File`],
/// [`Error::Store`].
pub async fn clean_up(
    replica: &Replica,
    out: Option<&Path>,
    result: TestResult,
    notes: &str,
) -> Result<Tested> {
    if notes.len() > NOTES_MAX {
        return Err(refused(
            format!("the notes have {} bytes", notes.len()),
            "keep to 4096 bytes",
        ));
    }
    let manifest = replica.existing().await?;
    let test = Kept::parse(&manifest.state)?.notes.test;
    let none = || refused("there is no test failover to clean up", "begin one first");
    let test = test.ok_or_else(none)?;
    if let TestPlace::Images(folder) = &test.place {
        if out.map(real).as_ref() != Some(folder) {
            return Err(refused(
                format!("its images are in {}", folder.display()),
                "name that folder, on the host that has it",
            ));
        }
        let (folder, images) = (folder.clone(), images(&manifest, folder));
        blocking(move || remove(&folder, &images)).await?;
    }
    let tested = Tested {
        sequence: test.sequence,
        time: Clock::timestamp(),
        result,
        notes: notes.into(),
    };
    let record = |_: &Manifest, kept: &mut Kept| {
        if kept.notes.test.take().as_ref() != Some(&test) {
            return Err(NotAllowed {
                reason: "somebody else has cleaned it up".into(),
                advice: "look at the status of the replica",
            });
        }
        kept.notes.tested = Some(tested.clone());
        let subject = format!("recovery point {} at {}", test.sequence, test.place);
        kept.notes.done(JobKind::CleanUpTestFailover, subject);
        Ok(())
    };
    change_kept(replica, false, record).await?;
    Ok(tested)
}

fn refused(reason: impl Into<String>, advice: &'static str) -> Error {
    let reason = reason.into();
    Error::NotAllowed(NotAllowed { reason, advice })
}

/// The path of a folder that may be gone, as it was recorded.
fn real(folder: &Path) -> PathBuf {
    let absolute = || std::path::absolute(folder).unwrap_or_else(|_| folder.into());
    folder.canonicalize().unwrap_or_else(|_| absolute())
}

/// Removes images and what was made of them, and the folder if nothing else is in it.
fn remove(folder: &Path, images: &[PathBuf]) -> Result<()> {
    for path in images
        .iter()
        .flat_map(|image| [image.clone(), partial(image)])
    {
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Error::File {
                    operation: "remove",
                    path,
                    source,
                });
            }
            _ => {}
        }
    }
    // Others may have files there.
    let _ = std::fs::remove_dir(folder);
    Ok(())
}
