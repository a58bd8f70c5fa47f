//! openraft's own suite, run on our log and state machine.

use std::path::PathBuf;
use std::sync::Arc;

use lumen::{Database, Options};
use lumen_engine::vfs::memory::Memory;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use crate::log::{LogSetup, LogStore};
use crate::snapshot::Home;
use crate::state_machine::StateMachine;
use crate::types::TypeConfig;

fn setup(vfs: &Memory, threaded: bool) -> LogSetup {
    LogSetup {
        vfs: Arc::new(vfs.clone()),
        segment_bytes: 64 << 10,
        tail_bytes: 1 << 10,
        uuid: Some([7; 16]),
        threaded,
        random: || 42,
        clock: || 0,
        base: 0,
        meters: Arc::default(),
    }
}

fn open(vfs: &Memory, threaded: bool) -> (LogStore, StateMachine) {
    let home = Home { vfs: Arc::new(vfs.clone()), dir: PathBuf::from("/node"), threaded: false };
    let options = Options { vfs: home.vfs.clone(), threads: 0, ..Options::default() };
    let db = Database::open_replica(&home.dir, options).expect("opens");
    let log = LogStore::open(&home.dir.join("raft"), setup(vfs, threaded)).expect("opens");
    let machine = StateMachine::new(db, home, log.meters().clone()).expect("opens");
    (log, machine)
}

struct Builder {
    threaded: bool,
}

impl StoreBuilder<TypeConfig, LogStore, StateMachine, ()> for Builder {
    async fn build(&self) -> Result<((), LogStore, StateMachine), StorageError<TypeConfig>> {
        let (log, machine) = open(&Memory::new(), self.threaded);
        Ok(((), log, machine))
    }
}

#[tokio::test]
async fn openraft_is_content_without_threads() -> Result<(), StorageError<TypeConfig>> {
    Suite::test_all(Builder { threaded: false }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn openraft_is_content_with_a_thread() -> Result<(), StorageError<TypeConfig>> {
    Suite::test_all(Builder { threaded: true }).await
}
