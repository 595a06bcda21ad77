//! The process that is killed, from outside.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use afterimage::{JobKind, Notice, ResyncReason};

use crate::child;

/// A machine that does nothing for this long hangs.
const PATIENCE: Duration = Duration::from_mins(1);

/// A process that protects the disks of a folder.
pub(crate) struct Process {
    child: Child,
    notices: Receiver<Notice>,
    /// The state that it last told of.
    pub(crate) state: String,
    /// How far initial replication of each disk was when it was first and last heard of.
    pub(crate) copied: BTreeMap<String, (u64, u64)>,
    /// Bytes of disks that resynchronizations that ended compared.
    pub(crate) compared: Vec<u64>,
    /// Bytes that were read again at the start.
    pub(crate) recovered: u64,
}

impl Process {
    pub(crate) fn start(folder: &Path) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .env(child::FOLDER, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (tell, notices) = channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // The last line may be torn by the kill.
                if let Ok(notice) = serde_json::from_str(&line) {
                    let _ = tell.send(notice);
                }
            }
        });
        Self {
            child,
            notices,
            state: String::new(),
            copied: BTreeMap::new(),
            compared: Vec::new(),
            recovered: 0,
        }
    }

    /// Follows what it tells until `awaited` does.
    pub(crate) fn until(&mut self, awaited: impl Fn(&Notice) -> bool) {
        assert!(
            self.within(PATIENCE, awaited),
            "it hangs in state {}",
            self.state
        );
    }

    /// Follows what it tells until `awaited` does; `false` if the time is over first.
    pub(crate) fn within(&mut self, time: Duration, awaited: impl Fn(&Notice) -> bool) -> bool {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.notices.recv_timeout(left) {
                Ok(notice) => {
                    self.note(&notice);
                    if awaited(&notice) {
                        return true;
                    }
                }
                Err(RecvTimeoutError::Timeout) => return false,
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait().unwrap();
                    panic!("it ended by itself in state {}: {status}", self.state);
                }
            }
        }
    }

    fn note(&mut self, notice: &Notice) {
        match notice {
            Notice::State { state, problem, .. } => {
                assert!(problem.is_none(), "{problem:?}");
                self.state = state.to_string();
            }
            Notice::Job(job) if job.kind == JobKind::InitialReplication => {
                let done = job.progress.done.get();
                if done > 0 {
                    let heard = self.copied.entry(job.subject.clone());
                    heard.or_insert((done, done)).1 = done;
                }
            }
            // Nothing is lost by a kill, however full the logs are. What was written to a disk's new part
            // before it was recorded that there is one is looked for.
            Notice::ResyncRequired { reason } => assert!(
                matches!(reason, ResyncReason::LogOverflow | ResyncReason::Enlarged),
                "{reason}"
            ),
            Notice::Resync { compared, .. } => self.compared.push(compared.get()),
            Notice::Recovered { bytes } => self.recovered = bytes.get(),
            _ => {}
        }
    }

    /// Has it make disk number `disk` larger.
    pub(crate) fn grow(&mut self, disk: usize, size: u64) {
        let input = self.child.stdin.as_mut().unwrap();
        writeln!(input, "{disk} {size}").unwrap();
    }

    /// Kills it; the state in which it was, as far as it had told.
    pub(crate) fn kill(mut self) -> Killed {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        while let Ok(notice) = self.notices.recv_timeout(PATIENCE) {
            self.note(&notice);
        }
        Killed {
            state: self.state,
            compared: self.compared,
            recovered: self.recovered,
        }
    }

    /// Ends it in order; whether the replica holds every write then.
    pub(crate) fn stop(mut self) -> bool {
        drop(self.child.stdin.take());
        let complete = Cell::new(false);
        self.until(|notice| match notice {
            Notice::Stopped { complete: all } => {
                complete.set(*all);
                true
            }
            _ => false,
        });
        assert!(self.child.wait().unwrap().success());
        complete.get()
    }
}

/// What a process told before it was killed.
pub(crate) struct Killed {
    pub(crate) state: String,
    pub(crate) compared: Vec<u64>,
    pub(crate) recovered: u64,
}
