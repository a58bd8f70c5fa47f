//! The threads that flush and compact, and the same work done inline when there are none.
//!
//! A failure (a full disk excepted) is final: it is remembered, writers are told, and the store must be reopened.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::compaction::job;
use crate::compaction::picker::Job;
use crate::error::Result;
use crate::flush;
use crate::log::Log;
use crate::state::Shared;
use crate::version::Version;

/// How long the compaction thread sleeps at most.
const IDLE_LOOK: Duration = Duration::from_secs(10);

/// What the threads work on.
#[derive(Clone)]
pub(crate) struct Background {
    pub shared: Arc<Shared>,
    pub log: Option<Arc<Log>>,
}

impl Background {
    /// Starts the threads, unless the options want none.
    pub(crate) fn start(&self) -> Result<Vec<JoinHandle<()>>> {
        if self.shared.options.threads == 0 {
            return Ok(Vec::new());
        }
        let spawn = |name: &str, run: fn(&Background)| {
            let background = self.clone();
            std::thread::Builder::new()
                .name(name.into())
                .spawn(move || run(&background))
                .map_err(|e| crate::error::Error::io("start a thread for", &self.shared.dir, e))
        };
        Ok(vec![
            spawn("lumen-flush", Background::flush_loop)?,
            spawn("lumen-compact", Background::compact_loop)?,
        ])
    }

    /// Does everything that is waiting, in the calling thread.
    pub(crate) fn drain_inline(&self) -> Result<()> {
        while self.flush_one()? {}
        while self.compact_one()? {}
        if let Some(log) = &self.log {
            if log.wants_spare() {
                log.prepare_spare()?;
            }
        }
        Ok(())
    }

    fn flush_loop(&self) {
        loop {
            if let Some(log) = &self.log {
                if log.wants_spare() {
                    // Without a spare the writer makes its own segment, only slower; a real fault will meet it too.
                    let _ = log.prepare_spare();
                }
            }
            {
                let mut work = self.shared.work.lock();
                while work.queue.is_empty() && !work.closing && work.failure.is_none() {
                    self.shared.bell.wait(&mut work);
                }
                if work.failure.is_some() || (work.closing && work.queue.is_empty()) {
                    return;
                }
            }
            if let Err(error) = self.flush_one() {
                self.shared.fail(&error);
                return;
            }
        }
    }

    /// Flushes the oldest frozen memory; `false` when there is none, or another thread is at it.
    pub(crate) fn flush_one(&self) -> Result<bool> {
        let task = {
            let mut work = self.shared.work.lock();
            if work.flushing {
                return Ok(false);
            }
            let Some(task) = work.queue.pop_front() else { return Ok(false) };
            work.flushing = true;
            task
        };
        let mut task = task;
        let result = flush::run(&self.shared, &mut task, self.log.as_deref());
        let mut work = self.shared.work.lock();
        work.flushing = false;
        self.shared.bell.notify_all();
        drop(work);
        result.map(|()| true)
    }

    fn compact_loop(&self) {
        loop {
            match self.compact_one() {
                Ok(true) => {}
                Ok(false) => {
                    let mut work = self.shared.work.lock();
                    if work.closing || work.failure.is_some() {
                        return;
                    }
                    if self.next_job().is_none() {
                        // Age needs no event: who has an age limit looks again by himself.
                        self.shared.bell.wait_for(&mut work, IDLE_LOOK);
                    }
                    if work.closing || work.failure.is_some() {
                        return;
                    }
                }
                Err(error) => {
                    self.shared.fail(&error);
                    return;
                }
            }
        }
    }

    /// What is to be compacted now, and the version that it was found in.
    pub(crate) fn next_job(&self) -> Option<(Arc<Version>, Job)> {
        let version = self.shared.view.load().version.clone();
        let job = self.shared.picker.pick(&version, self.shared.options.now_ms())?;
        Some((version, job))
    }

    /// Runs one compaction; `false` when none is due.
    pub(crate) fn compact_one(&self) -> Result<bool> {
        {
            let mut work = self.shared.work.lock();
            if work.compacting {
                return Ok(false);
            }
            work.compacting = true;
        }
        let stop = || {
            let work = self.shared.work.lock();
            work.closing || work.failure.is_some()
        };
        let result = match self.next_job() {
            Some((version, job)) => job::run(&self.shared, &version, &job, &stop).map(|()| !stop()),
            None => Ok(false),
        };
        let mut work = self.shared.work.lock();
        work.compacting = false;
        self.shared.bell.notify_all();
        result
    }
}
