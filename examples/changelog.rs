//! Looks into change logs, proves, applies, merges, converts, salvages and records them: Afterimage's
//! own and Hyper-V Replica's, told apart by how they begin. `changelog --help` lists the commands.
//!
//! Exits with 0 if all is well, 1 if a log is damaged or was never ended, 2 if what was asked for
//! cannot be done.

use std::io::{self, Write};
use std::process::ExitCode;

use examples::changelog::run;

fn main() -> ExitCode {
    let mut out = io::stdout().lock();
    let code = run(std::env::args_os(), &mut out, &mut io::stderr());
    // Whoever closed the other end of the pipe has seen enough.
    let _ = out.flush();
    code.into()
}
