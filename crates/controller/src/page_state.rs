//! What a page of a pool may be doing, and what it may do next.

use std::fmt;

/// A state that pages of a pool have.
pub trait PageState: Copy + Eq + fmt::Debug + Send + 'static {
    /// All states; the first one is that of a free page.
    const ALL: &'static [Self];
    /// Given out, and nothing in it yet.
    const RESERVED: Self;
    /// Not in use any more, but a lost operation may still touch its memory.
    const ABANDONED: Self;

    /// Whether a page in this state may be in `next` afterwards.
    fn may_become(self, next: Self) -> bool;

    /// Its name, as metrics spell it.
    fn as_str(self) -> &'static str;

    /// Place in [`PageState::ALL`].
    fn index(self) -> usize {
        Self::ALL.iter().position(|state| *state == self).unwrap_or(0)
    }
}

/// What a page of host memory is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostState {
    /// Nobody's.
    Free,
    /// Given out, for a write or a prefetch.
    Reserved,
    /// Being written from the device.
    Writing,
    /// Being loaded to the device.
    Loading,
    /// The same page is on the device.
    Synced,
    /// The only copy but for storage.
    Backup,
    /// A lost operation may still touch it.
    Abandoned,
}

impl PageState for HostState {
    const ALL: &'static [Self] = &[
        Self::Free,
        Self::Reserved,
        Self::Writing,
        Self::Loading,
        Self::Synced,
        Self::Backup,
        Self::Abandoned,
    ];
    const RESERVED: Self = Self::Reserved;
    const ABANDONED: Self = Self::Abandoned;

    fn may_become(self, next: Self) -> bool {
        use HostState::{Abandoned, Backup, Free, Loading, Reserved, Synced, Writing};
        match self {
            Free => next == Reserved,
            // A prefetched page is whole without ever having been on the device.
            Reserved => matches!(next, Writing | Backup | Free | Abandoned),
            // A write that failed leaves nothing worth keeping.
            Writing => matches!(next, Synced | Free | Abandoned),
            Backup => matches!(next, Loading | Synced | Free | Abandoned),
            // A load that failed leaves the host's copy as it was.
            Loading => matches!(next, Synced | Backup),
            Synced => matches!(next, Backup | Free | Abandoned),
            Abandoned => next == Free,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Reserved => "reserved",
            Self::Writing => "writing",
            Self::Loading => "loading",
            Self::Synced => "synced",
            Self::Backup => "backup",
            Self::Abandoned => "abandoned",
        }
    }
}

/// What a page of device memory is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// Nobody's.
    Free,
    /// Given out, to be computed.
    Reserved,
    /// Being loaded from the host.
    Loading,
    /// In the tree, whole.
    Resident,
    /// A lost operation may still touch it.
    Abandoned,
}

impl PageState for DeviceState {
    const ALL: &'static [Self] =
        &[Self::Free, Self::Reserved, Self::Loading, Self::Resident, Self::Abandoned];
    const RESERVED: Self = Self::Reserved;
    const ABANDONED: Self = Self::Abandoned;

    fn may_become(self, next: Self) -> bool {
        use DeviceState::{Abandoned, Free, Loading, Reserved, Resident};
        match self {
            Free => next == Reserved,
            Reserved => matches!(next, Loading | Resident | Free | Abandoned),
            Loading => matches!(next, Resident | Free | Abandoned),
            Resident => matches!(next, Free | Abandoned),
            Abandoned => next == Free,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Reserved => "reserved",
            Self::Loading => "loading",
            Self::Resident => "resident",
            Self::Abandoned => "abandoned",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_page_can_only_be_given_out_and_only_given_out_pages_get_there() {
        fn check<S: PageState>() {
            let free = S::ALL[0];
            for &state in S::ALL {
                assert_eq!(free.may_become(state), state == S::RESERVED, "{state:?}");
                assert!(!state.may_become(state), "{state:?} to itself");
                assert_eq!(S::ALL[state.index()], state);
                // Nothing but a given out page starts anew, and what is abandoned is only ever freed.
                assert_eq!(state.may_become(S::RESERVED), state == free);
                assert!(!S::ABANDONED.may_become(state) || state == free);
            }
        }
        check::<HostState>();
        check::<DeviceState>();
    }
}
