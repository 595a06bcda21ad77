//! Serves a store to other hosts, over TLS with client certificates, and makes the certificates.
//!
//! A client opens it as `afterimage://HOST:PORT/`, with its files named in the environment:
//! `AFTERIMAGE_SERVER_AUTHORITY`, `AFTERIMAGE_SERVER_CERTIFICATE`, `AFTERIMAGE_SERVER_KEY`.

use std::path::{Path, PathBuf};

use afterimage::Store;
use afterimage::block::Length;
use afterimage_server::{Authority, Grants, Identity, Issued, Limits, Server};
use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use examples::log_to_stderr;
use tokio::signal::unix::{SignalKind, signal};

/// Serve a store to other hosts.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Begin an authority in a folder, and make the server's certificate.
    Begin {
        /// Where the authority is kept.
        #[arg(long)]
        certificates: PathBuf,
        /// The names or addresses that clients reach the server by.
        #[arg(long, required = true, num_args = 1..)]
        host: Vec<String>,
    },
    /// Make a client's certificate, and print what the list of clients is to say of it.
    Client {
        /// Where the authority is kept; the client's files are made there, too.
        #[arg(long)]
        certificates: PathBuf,
        /// The client's name.
        #[arg(long)]
        name: String,
        /// The machines that it may touch; `*` for all.
        #[arg(long, required = true, num_args = 1..)]
        machine: Vec<String>,
        /// How much each of them may store.
        #[arg(long)]
        quota: Option<String>,
        /// Nothing that was stored is lost by what it does.
        #[arg(long)]
        append_only: bool,
    },
    /// Serve until SIGINT or SIGTERM.
    Serve {
        /// The store: a path or any URL.
        #[arg(long)]
        store: String,
        /// Where to listen.
        #[arg(long, default_value = "0.0.0.0:7400")]
        listen: String,
        /// Where `authority.pem`, `server.pem` and `server.key` are.
        #[arg(long)]
        certificates: PathBuf,
        /// The list of clients, a TOML file.
        #[arg(long)]
        clients: PathBuf,
        /// Bytes a second, of all clients and both ways together.
        #[arg(long)]
        bandwidth: Option<Length>,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    log_to_stderr();
    match Arguments::parse().command {
        Command::Begin { certificates, host } => {
            let authority = Authority::create(&certificates)?;
            let issued = authority.issue_server(&host, &certificates.join("server"))?;
            println!("made {}", issued.identity.certificate.display());
            Ok(())
        }
        Command::Client {
            certificates,
            name,
            machine,
            quota,
            append_only,
        } => {
            let authority = Authority::open(&certificates)?;
            let issued = authority.issue_client(&name, &certificates.join(&name))?;
            let entry = entry(&name, &issued, &machine, quota.as_deref(), append_only);
            // What would not be read again is not printed.
            entry.parse::<Grants>()?;
            print!("{entry}");
            Ok(())
        }
        Command::Serve {
            store,
            listen,
            certificates,
            clients,
            bandwidth,
        } => {
            let limits = Limits {
                bandwidth: bandwidth.map(Length::get),
                ..Limits::default()
            };
            serve(&store, &listen, &certificates, &clients, limits).await
        }
    }
}

fn entry(
    name: &str,
    issued: &Issued,
    machines: &[String],
    quota: Option<&str>,
    append_only: bool,
) -> String {
    let machines: Vec<_> = machines.iter().map(|name| format!("'{name}'")).collect();
    let (digest, machines) = (&issued.fingerprint, machines.join(", "));
    let quota = quota.map(|quota| format!("quota = '{quota}'\n"));
    let quota = quota.unwrap_or_default();
    let append_only = if append_only {
        "append_only = true\n"
    } else {
        ""
    };
    format!(
        "[[client]]\nname = '{name}'\ncertificate = '{digest}'\nmachines = [{machines}]\n{quota}{append_only}"
    )
}

async fn serve(
    store: &str,
    listen: &str,
    certificates: &Path,
    clients: &Path,
    limits: Limits,
) -> Result<()> {
    let listed = std::fs::read_to_string(clients);
    let listed = listed.with_context(|| format!("cannot read `{}`", clients.display()))?;
    let identity = Identity {
        authority: certificates.join("authority.pem"),
        certificate: certificates.join("server.pem"),
        key: certificates.join("server.key"),
    };
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let objects = Store::open(store).await?.objects();
    let server = Server::bind(listen, &identity, objects, listed.parse()?, limits).await?;
    println!("ready: {}", server.local_addr()?);
    let stop = async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    };
    server.run(stop).await;
    Ok(())
}
