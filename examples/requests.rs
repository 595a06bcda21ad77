//! Requests to a machine that `protect` has under way: a socket in its state folder, one request a connection.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use afterimage::{Operation, ProtectedMachine, Request};
use anyhow::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// The longest time that one who connects is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// No request is longer.
const REQUEST_MAX: u64 = 256;

#[derive(Serialize, Deserialize)]
enum Asked {
    Do(Request),
    Jobs,
}

/// The jobs that were asked for, or why what was asked for is not done.
type Answer = Result<Vec<Operation>, String>;

fn socket(state: &Path) -> PathBuf {
    state.join("requests.sock")
}

/// Where requests arrive.
pub struct Requests(UnixListener);

impl Requests {
    /// Listens in the state folder of a machine that this process protects.
    pub fn listen(state: &Path) -> io::Result<Self> {
        let path = socket(state);
        // The folder is locked, so that a socket in it is one that a crash left.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        UnixListener::bind(&path).map(Self)
    }

    /// Waits for somebody who asks for something.
    pub async fn next(&self) -> io::Result<UnixStream> {
        self.0.accept().await.map(|(stream, _)| stream)
    }
}

/// Does what is asked over `stream`, and answers.
pub async fn serve(machine: &ProtectedMachine, stream: UnixStream) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    timeout(
        PATIENCE,
        (&mut stream).take(REQUEST_MAX).read_line(&mut line),
    )
    .await??;
    let answer: Answer = match serde_json::from_str(&line) {
        Ok(Asked::Jobs) => Ok(machine.jobs()),
        Ok(Asked::Do(Request::Stop)) => {
            Err("to stop a machine, end the program that protects it".into())
        }
        Ok(Asked::Do(request)) => {
            let done = machine.request(request).await;
            done.map(|()| Vec::new()).map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    let answer = serde_json::to_vec(&answer)?;
    Ok(timeout(PATIENCE, stream.write_all(&answer)).await??)
}

/// Asks the program that protects the machine of folder `state` for `request`.
pub async fn ask(state: &Path, request: Request) -> Result<()> {
    exchange(state, &Asked::Do(request)).await.map(drop)
}

/// The newest jobs of the machine of folder `state`, and what can be done about each.
pub async fn jobs(state: &Path) -> Result<Vec<Operation>> {
    exchange(state, &Asked::Jobs).await
}

async fn exchange(state: &Path, asked: &Asked) -> Result<Vec<Operation>> {
    let path = socket(state);
    let stream = UnixStream::connect(&path).await;
    let mut stream = stream.with_context(|| format!("nobody listens at {}", path.display()))?;
    let mut line = serde_json::to_string(asked)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer: Answer = serde_json::from_slice(&answer)?;
    answer.map_err(Error::msg)
}

#[cfg(test)]
mod tests {
    use afterimage::block::{Length, RawDisk};
    use afterimage::{Notice, Protection, State};

    use super::*;

    #[tokio::test]
    async fn what_is_asked_for_is_done_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk.raw");
        drop(RawDisk::create(&disk, Length::mib(1)).unwrap());
        let replica = folder.path().join("replica").display().to_string();
        let protection = Protection::new("vm".parse().unwrap(), vec![disk], replica);
        let (machine, mut notices) = protection.start().await.unwrap();
        while !matches!(notices.recv().await.unwrap(), Notice::RecoveryPoint { .. }) {}

        let state = machine.state_folder().to_owned();
        let requests = Requests::listen(&state).unwrap();
        let answered = async |request| {
            let serving = async { serve(&machine, requests.next().await.unwrap()).await };
            let (asked, served) = tokio::join!(ask(&state, request), serving);
            served.unwrap();
            asked.map_err(|error| error.to_string())
        };
        answered(Request::Suspend).await.unwrap();
        let serving = async { serve(&machine, requests.next().await.unwrap()).await };
        let (jobs, served) = tokio::join!(jobs(&state), serving);
        served.unwrap();
        assert!(!jobs.unwrap().is_empty());
        let is_suspended = |notice: &Notice| matches!(notice, Notice::State { state, .. } if *state == State::Suspended);
        while !is_suspended(&notices.recv().await.unwrap()) {}
        let refused = answered(Request::Suspend).await.unwrap_err();
        assert!(refused.contains("allowed now"), "{refused}");
        let refused = answered(Request::Stop).await.unwrap_err();
        assert!(refused.contains("end the program"), "{refused}");
        answered(Request::Resume).await.unwrap();

        // What a crash left is no hindrance; without a program there is nobody to ask.
        drop(requests);
        let unheard = ask(&state, Request::Resume).await.unwrap_err();
        assert!(unheard.to_string().contains("nobody listens"), "{unheard}");
        let requests = Requests::listen(&state).unwrap();
        let garbage = async {
            let mut stream = UnixStream::connect(socket(&state)).await.unwrap();
            stream.write_all(b"\"Explode\"\n").await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let serving = async { serve(&machine, requests.next().await.unwrap()).await };
        let (answer, served) = tokio::join!(garbage, serving);
        served.unwrap();
        assert!(answer.contains("Explode"), "{answer}");
        machine.stop().await.unwrap();
    }
}
