//! Taking away what has expired: who leads looks for it, and writes that it goes.

use std::sync::Weak;
use std::time::Duration;

use lumen::{KeyWrite, Write};

use crate::error::Result;
use crate::node::{Inner, Node};

/// Between two looks: something may have come meanwhile that expires before what is known, and clocks are set.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What expires in one entry, at most.
const EXPIRED_AT_ONCE: usize = 256;
/// How long an attempt may take; what fails is tried again at the next look.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks for it until the node is closed.
pub(crate) async fn run(node: Weak<Inner>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(inner) = node.upgrade() else { return };
        let node = Node { inner };
        if let Err(error) = node.expire().await {
            tracing::debug!(%error, "what has expired stays for now");
        }
    }
}

impl Node {
    /// Has what has expired taken away, if this node leads.
    async fn expire(&self) -> Result<()> {
        let inner = &self.inner;
        while inner.leader.number() == Some(inner.id) {
            let now = (inner.options.database.clock)();
            let (due, _) = inner.db.due(now, EXPIRED_AT_ONCE)?;
            if due.is_empty() {
                return Ok(());
            }
            let first = due[0].clone();
            let prepared = self.prepare(Write::Keys(KeyWrite::Expire { due }))?;
            self.write(prepared, None, PATIENCE).await?;
            // Still there: the clock went back, and by the log's time it has not expired yet.
            if inner.db.due(now, 1)?.0.first() == Some(&first) {
                return Ok(());
            }
        }
        Ok(())
    }
}
