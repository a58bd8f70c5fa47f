//! `lumen cluster certificates`: what nodes show one another, made in a folder.

use std::path::PathBuf;

use clap::Args;

use crate::peer::tls;

/// `lumen cluster certificates`
#[derive(Args)]
pub(crate) struct Certificates {
    /// Folder of the authority; made if it is not there, and to be kept safe: who has its key can make nodes
    #[arg(long, default_value = "certificates", value_name = "DIR")]
    out: PathBuf,
    /// Names or addresses at which other nodes reach a machine, as --raft-addr says them without the port
    #[arg(required = true, value_name = "HOST")]
    hosts: Vec<String>,
}

impl Certificates {
    /// Makes one for each host, and says where each goes.
    pub(crate) fn run(&self) -> anyhow::Result<u8> {
        for (host, folder) in self.hosts.iter().zip(tls::make(&self.out, &self.hosts)?) {
            say!("{host}: copy {} there, and start its node with --peer-tls", folder.display());
        }
        say!("{} signs them: keep it where no node runs", self.out.join("ca.key").display());
        Ok(0)
    }
}
