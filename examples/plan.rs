//! Reckons from recorded change logs, Afterimage's own or Hyper-V Replica's, what replicating a machine
//! will take and cost, and a hundred of them.

use std::io;

use anyhow::Result;

fn main() -> Result<()> {
    examples::plan::run(std::env::args_os(), &mut io::stdout().lock())
}
