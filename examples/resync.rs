//! Makes two disks equal, here or at the other end of any pipe.

use anyhow::{Result, bail, ensure};
use clap::Parser;
use examples::log_to_stderr;
use examples::resync::{Arguments, Cache, Display, Local, Peer, Pull, Push, Server, State};

fn main() -> Result<()> {
    log_to_stderr();
    let arguments = Arguments::parse();
    let mut display = Display::new(arguments.json);
    let state = arguments.state.map(State::at);
    let cache = arguments.cache;
    let (block_size, algorithm) = (arguments.block_size, arguments.digest.into());
    let report = match (arguments.source, arguments.target, arguments.serve) {
        (Peer::Disk(disk), None, Some(transport)) => {
            let server = Server {
                disk,
                is_source: arguments.read_only,
                state,
                cache: cache.map(Cache::at),
                create: arguments.create,
                json: arguments.json,
            };
            return server.run(&transport);
        }
        (Peer::Disk(source), Some(Peer::Disk(target)), None) => Local {
            source,
            target,
            block_size,
            limit: arguments.limit,
            state,
            cache: cache.map(State::at),
            dry_run: arguments.dry_run,
            verify: arguments.verify,
            create: arguments.create,
        }
        .run(&mut display)?,
        (Peer::Disk(source), Some(peer), None) => {
            ensure!(!arguments.create, "--create is for the end that serves");
            Push {
                source,
                peer,
                block_size,
                algorithm,
                limit: arguments.limit,
                state,
                cache: cache.map(Cache::at),
                dry_run: arguments.dry_run,
                verify: arguments.verify,
            }
            .run(&mut display)?
        }
        (peer, Some(Peer::Disk(target)), None) => {
            ensure!(
                !arguments.create && !arguments.dry_run,
                "--create and --dry-run are for a source that is here"
            );
            Pull {
                peer,
                target,
                block_size,
                algorithm,
                limit: arguments.limit,
                state,
                cache: cache.map(Cache::at),
                verify: arguments.verify,
            }
            .run(&mut display)?
        }
        _ => bail!("one of the disks must be here"),
    };
    display.done(&report);
    Ok(())
}
