//! The owner's commands around an application-consistent barrier.

use std::time::Duration;

use afterimage_replication::{Event, Failure, Task};
use afterimage_retry::Class;
use tokio::process::Command;
use tokio::sync::mpsc;

use crate::driver::Done;

/// How long the command that lets the guest go on may take.
const THAW_MAX: Duration = Duration::from_mins(1);

/// Shell commands that have a guest's applications write what they hold in memory and hold still, and
/// that let them go on. Both must stand being run twice: whatever goes wrong, the second is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuiesceHook {
    /// Succeeds once the guest holds still, as in `fsfreeze --freeze /srv`.
    pub before: String,
    /// Lets it go on, as in `fsfreeze --unfreeze /srv`.
    pub after: String,
}

/// What is asked of the hook, in order.
pub(crate) enum Ask {
    HoldStill { within: Duration },
    GoOn,
}

/// Runs a machine's hook as it is asked to, one command at a time.
pub(crate) async fn run(
    hook: Option<QuiesceHook>,
    mut asked: mpsc::UnboundedReceiver<Ask>,
    done: mpsc::UnboundedSender<Done>,
) {
    let mut held = false;
    // A driver that ends without a word leaves nobody held either.
    while let Some(ask) = asked.recv().await.or_else(|| held.then_some(Ask::GoOn)) {
        held = matches!(ask, Ask::HoldStill { .. });
        match (&hook, ask) {
            (None, Ask::HoldStill { .. }) => {
                answer(&done, Err("no quiesce hook is given".into()));
            }
            (None, Ask::GoOn) => {}
            (Some(hook), Ask::HoldStill { within }) => {
                answer(&done, shell(&hook.before, within).await);
            }
            (Some(hook), Ask::GoOn) => {
                if let Err(reason) = shell(&hook.after, THAW_MAX).await {
                    tracing::error!(reason, "the guest may still be held");
                }
            }
        }
    }
}

fn answer(done: &mpsc::UnboundedSender<Done>, result: Result<(), String>) {
    let event = match result {
        Ok(()) => Event::Quiesced,
        Err(message) => Event::Failed {
            task: Task::Quiesce,
            failure: Failure {
                class: Class::Recoverable,
                retry_after: None,
                message,
            },
        },
    };
    // Nobody listens any more once the machine is stopped.
    let _ = done.send(Done::Event(event));
}

/// Runs `command`, and kills it after the time that it may take.
async fn shell(command: &str, within: Duration) -> Result<(), String> {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).kill_on_drop(true);
    shell.stdin(std::process::Stdio::null());
    let output = tokio::time::timeout(within, shell.output()).await;
    let output = output.map_err(|_| format!("`{command}` took longer than {within:?}"))?;
    let output = output.map_err(|error| format!("cannot run `{command}`: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let (status, said) = (output.status, said.trim());
    Err(format!("`{command}` ended with {status}: {said}"))
}
