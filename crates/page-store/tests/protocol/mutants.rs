//! Changes of the protocol that the checker must find.

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mutant {
    // Slots and records.
    /// A slot is written again before the retirement of its page is.
    ReuseBeforeRetire,
    /// A put is written while its slot is.
    PutBeforeWhole,
    /// The number is only taken when the record is written.
    NumberAfterAppend,
    /// `published` is raised before the record is written.
    PublishedBeforeAppend,
    /// A reader takes whatever is in the slot.
    NoChecksum,
    /// After a mismatch the reader looks only if `published` was raised.
    RecheckTrustsPublished,
    // Following.
    /// `published` is remembered as it is after the look.
    PublishedReadAfter,
    /// What does not decode is passed over, also at the end.
    TornTailSkipped,
    /// A journal that is shorter than what was read, or holds something else, is followed all the same.
    TakenBackUnnoticed,
    /// An append that failed is taken back, and that is not published.
    TakenBackUnpublished,
    /// A file that is gone is taken for the end.
    GoneIsTheEnd,
    /// A set that began anew does not make the look begin again.
    RestartLooksOnce,
    /// A set that is gone does not make the look begin again.
    GoneLooksOnce,
    // Generations.
    /// The seal is written after the next journal has its first record.
    SealAfterFirstRecord,
    /// The seal is written before the next journal is there, and gone is the end.
    SealBeforeNext,
    /// Old generations are removed before the snapshot was read back.
    RemoveBeforeReadBack,
    SnapshotWithoutForgets,
    SnapshotWithoutClear,
    /// A snapshot keeps a forgetting only for the pages of other sets.
    OwnPagesDontCount,
    // Other sets.
    /// An overwrite says nothing about the copies of others.
    OverwriteWithoutForget,
    /// A writer does not retire its pages after somebody else's clear, and the clear is not kept. The first alone does no
    /// harm: it costs room, and the clear is kept for ever.
    ClearNotFollowed,
    // Adoption and continuation.
    RenameBeforePuts,
    RemoveBeforePuts,
    /// Pages that were removed are adopted, and then forgettings are kept for other sets only. The first alone does no harm:
    /// they stay invisible.
    AdoptInvisible,
    /// What the dead writer said about pages of others goes with its set.
    AdoptWithoutForgets,
    /// Unsealed journals stay so.
    ContinueWithoutSealing,
    /// Only a last journal that is torn or sealed makes the set begin a new generation.
    ContinueHeedsLastOnly,
    /// Who continues a set does not publish what its writer may have left unpublished.
    ContinueUnpublished,
    /// A page that is not in its slot and not in its journal any more is not looked for again.
    MovedPageIsAMiss,
    /// A segment number that a record names is given to a new segment.
    SegmentNumberAgain,
}
