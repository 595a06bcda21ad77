//! Ctrl-C, which leaves no target half changed without a word.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{process, thread};

use afterimage_resync::Error;
use afterimage_resync::protocol::Reason;
use anyhow::Result;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

/// The status of a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Whether a person asked to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Asked>);

#[derive(Debug, Default)]
struct Asked {
    is_asked: AtomicBool,
    /// Whether there is something to be brought to an end first.
    is_busy: AtomicBool,
}

impl Stop {
    /// Asked by SIGINT or SIGTERM. While a target is changed, only the second one ends the program at
    /// once.
    pub fn on_signals() -> Result<Self> {
        let stop = Self::default();
        let told = stop.clone();
        let runtime = Builder::new_current_thread().enable_io().build()?;
        thread::spawn(move || {
            runtime.block_on(async {
                let mut signals = (
                    signal(SignalKind::interrupt())?,
                    signal(SignalKind::terminate())?,
                );
                loop {
                    tokio::select! {
                        _ = signals.0.recv() => told.signalled(),
                        _ = signals.1.recv() => told.signalled(),
                    }
                }
                #[expect(unreachable_code, reason = "says what kind of errors there are")]
                std::io::Result::Ok(())
            })
        });
        Ok(stop)
    }

    fn signalled(&self) {
        if self.is_asked() || !self.0.is_busy.load(Ordering::Acquire) {
            process::exit(INTERRUPTED);
        }
        eprintln!("stopping; once more to stop at once");
        self.ask();
    }

    /// Asks for it.
    pub fn ask(&self) {
        self.0.is_asked.store(true, Ordering::Release);
    }

    /// Whether it was asked for.
    pub fn is_asked(&self) -> bool {
        self.0.is_asked.load(Ordering::Acquire)
    }

    /// What one who is told of progress answers.
    pub(super) fn flow(&self) -> ControlFlow<()> {
        if self.is_asked() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// Runs what must be brought to an end when it is asked for.
    pub(super) fn during<T>(&self, run: impl FnOnce() -> T) -> T {
        self.0.is_busy.store(true, Ordering::Release);
        let ended = run();
        self.0.is_busy.store(false, Ordering::Release);
        ended
    }
}

/// Whether the other end ended the resync though nothing was wrong.
pub(super) fn is_stopped_there(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref();
    matches!(error, Some(Error::Peer { farewell }) if farewell.reason == Reason::Stopped)
}
