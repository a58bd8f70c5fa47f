//! What the engine uses for concurrency, in one place, so that a test can put a scheduler beneath it.
//!
//! A normal build re-exports the real things: parking_lot's locks, the atomics and threads of the standard library, arc-swap.
//! With `RUSTFLAGS='--cfg lumen_shuttle'` the same names are shuttle's: all threads of a test run as one, and at every lock,
//! wait, atomic, swap and call of the file system a scheduler chooses which of them goes on. The tests are in `shuttle/`.
//!
//! It is a cfg, as tokio has one for loom, and no feature: features add up over everything that is built together, so that
//! `--all-features`, or one package that asks for it, would put the scheduler beneath everybody, and it works in its own
//! tests only. A cfg that nobody sets changes nothing, not even which crates are compiled.
//!
//! What the scheduler does not see: the atomics inside crossbeam-skiplist (an insert is one step) and the counters of
//! `stats` and of the log. Every atomic is sequentially consistent to it: it finds orders of steps that go wrong, not memory
//! orderings that are too weak.

#[cfg(not(lumen_shuttle))]
pub(crate) use real::*;
#[cfg(lumen_shuttle)]
pub(crate) use scheduled::*;

#[cfg(not(lumen_shuttle))]
mod real {
    pub(crate) use std::sync::atomic;
    pub(crate) use std::{hint, thread};

    pub(crate) use arc_swap::ArcSwap;
    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
    pub(crate) use quick_cache::DefaultHashBuilder as CacheHasher;

    /// A place where another thread may go on.
    #[inline(always)]
    pub(crate) fn step() {}
}

#[cfg(lumen_shuttle)]
mod scheduled {
    use std::collections::hash_map::DefaultHasher;
    use std::hash::BuildHasherDefault;
    use std::ops::{Deref, DerefMut};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use shuttle::rand::Rng;
    pub(crate) use shuttle::sync::atomic;
    pub(crate) use shuttle::{hint, thread};

    /// Without random keys, so that a schedule can be repeated.
    pub(crate) type CacheHasher = BuildHasherDefault<DefaultHasher>;

    /// A place where another thread may go on. Any atomic is one; a yield would also lower the priority of who does it.
    pub(crate) fn step() {
        atomic::AtomicBool::new(false).load(atomic::Ordering::SeqCst);
    }

    /// A lock with parking_lot's interface: without poisoning, for a test that panics has failed anyway.
    #[derive(Default)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Mutex<T> {
            Mutex(shuttle::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard { mutex: &self.0, guard: Some(lock(&self.0)) }
        }
    }

    fn lock<T>(mutex: &shuttle::sync::Mutex<T>) -> shuttle::sync::MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) struct MutexGuard<'a, T> {
        mutex: &'a shuttle::sync::Mutex<T>,
        /// Missing only within a wait.
        guard: Option<shuttle::sync::MutexGuard<'a, T>>,
    }

    impl<T> MutexGuard<'_, T> {
        /// Lets go of the lock, lets others go on, and takes it again.
        fn step_aside(&mut self) {
            self.guard = None;
            thread::yield_now();
            self.guard = Some(lock(self.mutex));
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.guard.as_ref().expect("held")
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.guard.as_mut().expect("held")
        }
    }

    #[derive(Default)]
    pub(crate) struct RwLock<T>(shuttle::sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) fn read(&self) -> shuttle::sync::RwLockReadGuard<'_, T> {
            self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner())
        }

        pub(crate) fn write(&self) -> shuttle::sync::RwLockWriteGuard<'_, T> {
            self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner())
        }
    }

    pub(crate) struct Condvar(shuttle::sync::Condvar);

    impl Condvar {
        pub(crate) fn new() -> Condvar {
            Condvar(shuttle::sync::Condvar::new())
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }

        pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            let held = guard.guard.take().expect("held");
            guard.guard = Some(self.0.wait(held).unwrap_or_else(|poisoned| poisoned.into_inner()));
        }

        /// A wait with a deadline, which is the caller's patience: at random it has run out at once, or never does, so that
        /// who is not woken hangs, and shuttle reports it.
        pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _: Instant) -> TimedOut {
            let out_of_patience = shuttle::rand::thread_rng().r#gen();
            if out_of_patience {
                guard.step_aside();
            } else {
                self.wait(guard);
            }
            TimedOut(out_of_patience)
        }

        /// A look from time to time at what nobody is told of: the time is over as soon as others went on.
        pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _: Duration) -> TimedOut {
            guard.step_aside();
            TimedOut(true)
        }
    }

    pub(crate) struct TimedOut(bool);

    impl TimedOut {
        pub(crate) fn timed_out(&self) -> bool {
            self.0
        }
    }

    /// What arc-swap does, with a lock that the scheduler sees.
    pub(crate) struct ArcSwap<T>(Mutex<Arc<T>>);

    impl<T> ArcSwap<T> {
        pub(crate) fn from_pointee(value: T) -> ArcSwap<T> {
            ArcSwap(Mutex::new(Arc::new(value)))
        }

        pub(crate) fn load(&self) -> Arc<T> {
            self.load_full()
        }

        pub(crate) fn load_full(&self) -> Arc<T> {
            self.0.lock().clone()
        }

        pub(crate) fn swap(&self, value: Arc<T>) -> Arc<T> {
            std::mem::replace(&mut *self.0.lock(), value)
        }
    }
}
