//! Makes two disks equal, here or at the other end of any pipe.

use anyhow::Result;
use clap::Parser;
use examples::log_to_stderr;
use examples::resync::{Arguments, Cache, Display, Local, Peer, Push, Server, State};

fn main() -> Result<()> {
    log_to_stderr();
    let arguments = Arguments::parse();
    let json = arguments.json;
    let state = arguments.state.map(State::at);
    if let Some(transport) = arguments.serve {
        let server = Server {
            disk: arguments.source,
            state,
            cache: arguments.cache.map(Cache::at),
            create: arguments.create,
            json,
        };
        return server.run(&transport);
    }
    let mut display = Display::new(json);
    let report = match arguments.target {
        Some(Peer::Disk(target)) => Local {
            source: arguments.source,
            target,
            block_size: arguments.block_size,
            limit: arguments.limit,
            state,
            cache: arguments.cache.map(State::at),
            dry_run: arguments.dry_run,
            verify: arguments.verify,
            create: arguments.create,
        }
        .run(&mut display)?,
        Some(peer) => {
            anyhow::ensure!(!arguments.create, "--create is for the end that serves");
            Push {
                source: arguments.source,
                peer,
                block_size: arguments.block_size,
                algorithm: arguments.digest.into(),
                limit: arguments.limit,
                state,
                cache: arguments.cache.map(Cache::at),
                dry_run: arguments.dry_run,
                verify: arguments.verify,
            }
            .run(&mut display)?
        }
        // The command line asks for it.
        None => anyhow::bail!("there is no target"),
    };
    display.done(&report);
    Ok(())
}
