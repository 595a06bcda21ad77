//! Which machine is meant, and where its replica is.

use afterimage::{MachineName, Replica, Store};
use anyhow::Result;
use clap::Args;

use crate::KeyArguments;

/// The options of programs that are about the replica of one machine.
#[derive(Args)]
pub struct MachineArguments {
    /// Where the replica is.
    #[arg(long)]
    pub replica: String,
    /// What opens it.
    #[command(flatten)]
    pub key: KeyArguments,
    /// The machine's name.
    #[arg(long)]
    pub name: MachineName,
}

impl MachineArguments {
    /// The replica, in a store that is there.
    pub async fn open(&self) -> Result<Replica> {
        let store = Store::open_existing(&self.replica).await?;
        let store = store.with_key(self.key.read()?);
        Ok(store.replica(self.name.clone()))
    }
}
