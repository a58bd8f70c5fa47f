//! `lumen cluster recover`: a node that does not run goes on alone after the others are lost for good.

use std::path::PathBuf;

use clap::Args;
use indicatif::HumanCount;

use crate::error::{Failure, exit};

/// `lumen cluster recover`
#[derive(Args)]
pub(crate) struct Recover {
    /// Where the node's data is; it must not run
    #[arg(long, env = "LUMEN_DATA_DIR", default_value = "data", value_name = "DIR")]
    data_dir: PathBuf,
    /// Do it; without this, only say what would come of it
    #[arg(long)]
    yes: bool,
}

impl Recover {
    /// Says what is known here, and with `--yes` goes on with it; 1 without.
    pub(crate) fn run(self) -> anyhow::Result<u8> {
        let options = lumen::Options::default();
        let found = lumen_raft::recover::look(&self.data_dir, options.clone()).map_err(Failure::from)?;
        let list = |ids: Vec<u64>| ids.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let others: Vec<u64> = found.members.keys().copied().filter(|id| *id != found.id).collect();
        let (term, last) = found.last;
        say!("node {} of a cluster in which {} vote", found.id, list(found.voters.iter().copied().collect()));
        say!(
            "it holds the log up to entry {} of term {term}; {} of them it knows to be committed",
            HumanCount(last),
            HumanCount(found.committed)
        );
        if found.is_unfinished && !self.yes {
            say!("it was about to go on alone and was stopped: --yes ends what was begun");
            return Ok(exit::REFUSED);
        }
        if others.is_empty() && !found.is_unfinished {
            say!("it is alone already: start it, there is nothing to recover");
            return Ok(exit::REFUSED);
        }
        say!("");
        say!(
            "If it goes on alone, what the other nodes ({}) acknowledged and it never got is LOST for good,",
            list(others)
        );
        say!(
            "and writes that were never acknowledged may appear. Do this only when more than half of the voters will never"
        );
        say!("come back, on ONE node: the one with the largest term, and of those the largest entry.");
        if !self.yes {
            say!("");
            say!("nothing was changed; --yes does it");
            return Ok(exit::REFUSED);
        }
        lumen_raft::recover::go_on_alone(&self.data_dir, options).map_err(Failure::from)?;
        say!("");
        say!(
            "node {} is a cluster of its own now, with a new number: the old nodes are refused if they come back.",
            found.id
        );
        say!("Start it as before, then let others join with empty folders.");
        Ok(0)
    }
}
