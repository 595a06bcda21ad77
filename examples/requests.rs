//! Requests to a machine that `protect` has under way: a socket in its state folder, one request a connection.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use afterimage::{ProtectedMachine, Request};
use anyhow::{Context, Result, anyhow};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// The longest time that one who connects is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// No request is longer.
const REQUEST_MAX: u64 = 256;

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
    let answer = match serde_json::from_str(&line) {
        Ok(Request::Stop) => "to stop a machine, end the program that protects it".into(),
        Ok(request) => {
            let refused = machine.request(request).await.err();
            refused.map(|error| error.to_string()).unwrap_or_default()
        }
        Err(error) => error.to_string(),
    };
    Ok(timeout(PATIENCE, stream.write_all(answer.as_bytes())).await??)
}

/// Asks the program that protects the machine of folder `state` for `request`.
pub async fn ask(state: &Path, request: Request) -> Result<()> {
    let path = socket(state);
    let stream = UnixStream::connect(&path).await;
    let mut stream = stream.with_context(|| format!("nobody listens at {}", path.display()))?;
    let mut line = serde_json::to_string(&request)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    if answer.is_empty() {
        Ok(())
    } else {
        Err(anyhow!(answer))
    }
}
