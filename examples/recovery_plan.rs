//! Fails the machines of a recovery plan over, group by group.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    examples::log_to_stderr();
    examples::recovery_plan::run(std::env::args_os()).await
}
