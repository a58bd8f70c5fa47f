//! Bugs that the simulation must find, each behind a switch that only its builds have (`--cfg lumen_sim`). Elsewhere every
//! question is answered by a constant, and what hangs on it is not compiled.

/// What is done wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A vote is told to be saved before it is synced.
    VoteNotSynced,
    /// Entries are told to be durable before they are synced.
    EntriesNotSynced,
    /// What a new leader voids comes back after a restart.
    TruncationNotLogged,
    /// What a new leader voids stays in memory.
    TruncationKeepsTail,
    /// The log lets go of the segment with the last vote, and does not note it again.
    VoteGoesWithSegment,
    /// A snapshot says that it holds what is applied, not what is in the files.
    SnapshotSaysApplied,
    /// The members are not in a snapshot.
    SnapshotWithoutMembers,
    /// A snapshot that came is noted, and the database stays as it was.
    SnapshotNotInstalled,
    /// Writes have no names, so that one that is sent twice is done twice.
    WritesWithoutNames,
    /// The requests of a node's next life have the names of those of its last.
    LivesNotToldApart,
    /// A leader answers what is newest without asking whether it still leads.
    ReadWithoutQuorum,
    /// A reader does not wait until what it must see is applied.
    ReadBeforeApplied,
    /// A reader with a token does not wait for it.
    TokenIgnored,
    /// One node leaves out the writes of some entries.
    EntriesLeftOut,
    /// What was noted as committed is all that is there.
    CommittedTooFar,
    /// The files say that they hold less than they do.
    PlaceTooOld,
    /// The last entry is taken for a torn one at each start.
    LastEntryDropped,
    /// A node that did not get an answer asks again under another name.
    AsksUnderAnotherName,
}

#[cfg(all(test, lumen_sim))]
impl Bug {
    /// All of them.
    pub(crate) const ALL: [Bug; 18] = [
        Bug::VoteNotSynced,
        Bug::EntriesNotSynced,
        Bug::TruncationNotLogged,
        Bug::TruncationKeepsTail,
        Bug::VoteGoesWithSegment,
        Bug::SnapshotSaysApplied,
        Bug::SnapshotWithoutMembers,
        Bug::SnapshotNotInstalled,
        Bug::WritesWithoutNames,
        Bug::LivesNotToldApart,
        Bug::ReadWithoutQuorum,
        Bug::ReadBeforeApplied,
        Bug::TokenIgnored,
        Bug::EntriesLeftOut,
        Bug::CommittedTooFar,
        Bug::PlaceTooOld,
        Bug::LastEntryDropped,
        Bug::AsksUnderAnotherName,
    ];
}

#[cfg(lumen_sim)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants one in what runs on this thread from now on, or none.
#[cfg(all(test, lumen_sim))]
pub(crate) fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether it is planted.
#[cfg(lumen_sim)]
pub(crate) fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether it is planted: never.
#[cfg(not(lumen_sim))]
pub(crate) const fn is(_: Bug) -> bool {
    false
}
