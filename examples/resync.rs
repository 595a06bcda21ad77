//! Makes two disks equal, here or at the other end of any pipe.

use afterimage_resync::protocol::Role;
use anyhow::{Result, bail, ensure};
use clap::Parser;
use examples::log_to_stderr;
use examples::resync::{Arguments, Cache, Display, Local, Peer, Remote, Server, State, Stop};

fn main() -> Result<()> {
    log_to_stderr();
    let arguments = Arguments::parse();
    let mut display = Display::new(arguments.json);
    let state = arguments.state.map(State::at);
    let cache = arguments.cache;
    let block_size = arguments.block_size;
    let limit = arguments.limit.unwrap_or_default();
    let read_limit = arguments.read_limit.unwrap_or_default();
    let (stage, stop) = (arguments.stage, Stop::on_signals()?);
    let remote = |disk, role, peer| Remote {
        disk,
        role,
        peer,
        block_size,
        algorithm: arguments.digest.into(),
        limit: limit.clone(),
        read_limit: read_limit.clone(),
        state: state.clone(),
        cache: cache.clone().map(Cache::at),
        create: arguments.create,
        dry_run: arguments.dry_run,
        verify: arguments.verify,
        reread: arguments.reread.map(Into::into),
        stage: stage.clone(),
        stop: stop.clone(),
    };
    let source = arguments.source.past_cache(arguments.direct);
    let target = arguments.target;
    let target = target.map(|target| target.past_cache(arguments.direct));
    let report = match (source, target, arguments.serve) {
        (Peer::Disk(disk), None, Some(transport)) => {
            let server = Server {
                disk,
                is_source: arguments.read_only,
                read_limit,
                state,
                cache: cache.map(Cache::at),
                create: arguments.create,
                stage,
                stop,
                json: arguments.json,
            };
            return server.run(&transport);
        }
        (Peer::Disk(source), Some(Peer::Disk(target)), None) => Local {
            source,
            target,
            block_size,
            limit,
            read_limit,
            state,
            cache: cache.map(State::at),
            dry_run: arguments.dry_run,
            verify: arguments.verify,
            reread: arguments.reread.map(Into::into),
            create: arguments.create,
            stage,
            stop,
        }
        .run(&mut display)?,
        (Peer::Disk(disk), Some(peer), None) => {
            ensure!(
                !arguments.create && stage.is_none(),
                "--create and --stage are for the end with the target"
            );
            remote(disk, Role::Source, peer).run(&mut display)?
        }
        (peer, Some(Peer::Disk(disk)), None) => {
            remote(disk, Role::Target, peer).run(&mut display)?
        }
        _ => bail!("one of the disks must be here"),
    };
    display.done(&report);
    Ok(())
}
