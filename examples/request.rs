//! Asks for something of a machine that `protect` has under way.

use std::path::PathBuf;

use afterimage::Request;
use anyhow::Result;
use clap::{Parser, ValueEnum};
use examples::{ask, jobs, print_operation};

/// Ask for something of a machine that is protected. What its state does not admit is refused, with what it
/// admits.
#[derive(Parser)]
struct Arguments {
    /// The machine's state folder.
    #[arg(long)]
    state: PathBuf,
    /// What is asked for; without it, what runs and what can be done about it is shown.
    request: Option<Asked>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Asked {
    /// Send nothing until it is resumed; writes are tracked meanwhile.
    Suspend,
    /// Go on, or try again after the error that made it critical.
    Resume,
    /// Compare everything with the replica, or begin a resynchronization that waits for approval.
    Resync,
    /// Give up the resynchronization that runs or waits, until it is asked for again.
    CancelResync,
    /// Remove replication, also in the middle of the first copy; the replica keeps its recovery points.
    Disable,
    /// Enable replication again.
    Enable,
}

impl From<Asked> for Request {
    fn from(asked: Asked) -> Self {
        match asked {
            Asked::Suspend => Self::Suspend,
            Asked::Resume => Self::Resume,
            Asked::Resync => Self::Resync,
            Asked::CancelResync => Self::CancelResync,
            Asked::Disable => Self::Disable,
            Asked::Enable => Self::Enable,
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(request) = arguments.request {
        return ask(&arguments.state, request.into()).await;
    }
    for job in jobs(&arguments.state).await? {
        print_operation(&job);
    }
    Ok(())
}
