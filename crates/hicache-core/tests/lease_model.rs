//! Model-checks the state of a slot: loom runs every interleaving, and every outcome that the memory model allows.
//!
//! The source of the state is compiled here once more, against loom's atomics. The mutants at the end show that loom
//! finds what it is there to find.
//!
//! Left out of runs under AddressSanitizer: it takes minutes there, and loom leaks what a mutant's panic unwinds past.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

/// What the state's source calls `super::sync`.
mod sync {
    pub(super) use loom::sync::atomic::{AtomicU32, Ordering};
}

#[path = "../src/region/slot_state.rs"]
mod slot_state;

/// The five calls of the state, so that mutants can take its place.
trait State: Send + Sync + 'static {
    fn new() -> Self;
    fn try_read(&self) -> bool;
    fn try_write(&self) -> bool;
    fn end_read(&self);
    fn end_write(&self);
    fn write_to_read(&self);
}

impl State for slot_state::SlotState {
    fn new() -> Self {
        Self::new()
    }
    fn try_read(&self) -> bool {
        self.try_read()
    }
    fn try_write(&self) -> bool {
        self.try_write()
    }
    fn end_read(&self) {
        self.end_read();
    }
    fn end_write(&self) {
        self.end_write();
    }
    fn write_to_read(&self) {
        self.write_to_read();
    }
}

/// A slot: its state and its bytes. Loom fails the model if two threads touch `bytes` and one of them writes, unless
/// the atomics order them.
struct Slot<S> {
    state: S,
    bytes: UnsafeCell<[u32; 2]>,
}

impl<S: State> Slot<S> {
    fn shared() -> Arc<Self> {
        Arc::new(Self { state: S::new(), bytes: UnsafeCell::new([0; 2]) })
    }

    /// Under a lease. Both words are always written together.
    fn look(&self) -> u32 {
        // SAFETY: the caller holds a lease of the slot; that it suffices is what loom checks.
        let bytes = self.bytes.with(|bytes| unsafe { *bytes });
        assert_eq!(bytes[0], bytes[1], "half a write was seen");
        bytes[0]
    }

    /// Under a write lease.
    fn put(&self, value: u32) {
        // SAFETY: as above, with a write lease.
        self.bytes.with_mut(|bytes| unsafe { *bytes = [value; 2] });
    }

    fn read(&self) -> Option<u32> {
        self.state.try_read().then(|| {
            let seen = self.look();
            self.state.end_read();
            seen
        })
    }

    fn write(&self, value: u32) -> bool {
        let taken = self.state.try_write();
        if taken {
            self.put(value);
            self.state.end_write();
        }
        taken
    }

    /// Writes, goes on reading, and sees its own value until it lets go.
    fn write_then_read(&self, value: u32) -> bool {
        let taken = self.state.try_write();
        if taken {
            self.put(value);
            self.state.write_to_read();
            assert_eq!(self.look(), value, "another wrote while this one went on reading");
            self.state.end_read();
        }
        taken
    }
}

fn writers_and_readers<S: State>() {
    loom::model(|| {
        let slot = Slot::<S>::shared();
        let (a, b) = (Arc::clone(&slot), Arc::clone(&slot));
        let writer = thread::spawn(move || a.write(1));
        let other = thread::spawn(move || b.write(2));
        let seen = slot.read();
        let (first, second) = (writer.join().unwrap(), other.join().unwrap());
        assert!(seen.is_none_or(|seen| seen <= 2));
        let last = slot.read().expect("nobody holds the slot any more");
        // The slot holds what was written, and the first to come is never refused by nobody.
        assert!(if last == 0 {
            seen.is_some() && !first && !second
        } else {
            [first, second][last as usize - 1]
        });
        assert!(slot.write(3), "a lease was not given back");
    });
}

fn readers_share_and_a_writer_waits<S: State>() {
    loom::model(|| {
        let slot = Slot::<S>::shared();
        assert!(slot.write(1));
        let (a, b) = (Arc::clone(&slot), Arc::clone(&slot));
        let reader = thread::spawn(move || a.read());
        let writer = thread::spawn(move || b.write(2));
        let seen = slot.read();
        let (other, written) = (reader.join().unwrap(), writer.join().unwrap());
        for seen in [seen, other].into_iter().flatten() {
            assert!(seen == 1 || (seen == 2 && written));
        }
        // Readers alone never refuse each other.
        assert!(written || (seen.is_some() && other.is_some()));
        assert!(slot.write(3), "a lease was not given back");
    });
}

fn a_write_that_becomes_a_read<S: State>() {
    loom::model(|| {
        let slot = Slot::<S>::shared();
        let (a, b) = (Arc::clone(&slot), Arc::clone(&slot));
        let first = thread::spawn(move || a.write_then_read(1));
        let second = thread::spawn(move || b.write(2));
        let seen = slot.read();
        let (first, second) = (first.join().unwrap(), second.join().unwrap());
        assert!(first || second || seen.is_some(), "everybody was refused by nobody");
        assert!(slot.write(3), "a lease was not given back");
    });
}

#[test]
fn a_writer_is_alone_and_its_bytes_are_seen() {
    writers_and_readers::<slot_state::SlotState>();
}

#[test]
fn readers_share() {
    readers_share_and_a_writer_waits::<slot_state::SlotState>();
}

#[test]
fn no_writer_gets_between_a_write_and_its_read() {
    a_write_that_becomes_a_read::<slot_state::SlotState>();
}

/// States with one mistake each.
mod mutants {
    use super::State;
    use super::sync::{AtomicU32, Ordering};

    const WRITING: u32 = u32::MAX;

    /// What is wrong.
    pub(super) enum Mistake {
        RelaxedEndOfWrite,
        RelaxedEndOfRead,
        RelaxedTake,
        CheckThenSet,
        FreeBetweenWriteAndRead,
    }

    macro_rules! mutant {
        ($name:ident) => {
            /// The state with the mistake of its name.
            pub(super) struct $name(AtomicU32);

            impl State for $name {
                fn new() -> Self {
                    Self(AtomicU32::new(0))
                }
                fn try_read(&self) -> bool {
                    let order = match Mistake::$name {
                        Mistake::RelaxedTake => Ordering::Relaxed,
                        _ => Ordering::Acquire,
                    };
                    let seen = self.0.load(Ordering::Relaxed);
                    if matches!(Mistake::$name, Mistake::CheckThenSet) {
                        if seen != WRITING {
                            self.0.store(seen + 1, Ordering::Release);
                        }
                        return seen != WRITING;
                    }
                    self.0
                        .fetch_update(order, Ordering::Relaxed, |seen| (seen != WRITING).then(|| seen + 1))
                        .is_ok()
                }
                fn try_write(&self) -> bool {
                    let order = match Mistake::$name {
                        Mistake::RelaxedTake => Ordering::Relaxed,
                        _ => Ordering::Acquire,
                    };
                    self.0.compare_exchange(0, WRITING, order, Ordering::Relaxed).is_ok()
                }
                fn end_read(&self) {
                    let order = match Mistake::$name {
                        Mistake::RelaxedEndOfRead => Ordering::Relaxed,
                        _ => Ordering::Release,
                    };
                    self.0.fetch_sub(1, order);
                }
                fn end_write(&self) {
                    let order = match Mistake::$name {
                        Mistake::RelaxedEndOfWrite => Ordering::Relaxed,
                        _ => Ordering::Release,
                    };
                    self.0.store(0, order);
                }
                fn write_to_read(&self) {
                    if matches!(Mistake::$name, Mistake::FreeBetweenWriteAndRead) {
                        self.0.store(0, Ordering::Release);
                        self.0.fetch_add(1, Ordering::Acquire);
                    } else {
                        self.0.store(1, Ordering::Release);
                    }
                }
            }
        };
    }

    mutant!(RelaxedEndOfWrite);
    mutant!(RelaxedEndOfRead);
    mutant!(RelaxedTake);
    mutant!(CheckThenSet);
    mutant!(FreeBetweenWriteAndRead);
}

#[test]
#[should_panic = "Causality violation"]
fn loom_finds_a_write_that_ends_relaxed() {
    writers_and_readers::<mutants::RelaxedEndOfWrite>();
}

#[test]
#[should_panic = "Causality violation"]
fn loom_finds_a_read_that_ends_relaxed() {
    readers_share_and_a_writer_waits::<mutants::RelaxedEndOfRead>();
}

#[test]
#[should_panic = "Causality violation"]
fn loom_finds_a_lease_taken_relaxed() {
    writers_and_readers::<mutants::RelaxedTake>();
}

#[test]
#[should_panic]
fn loom_finds_a_check_before_a_set() {
    readers_share_and_a_writer_waits::<mutants::CheckThenSet>();
}

#[test]
#[should_panic]
fn loom_finds_a_gap_between_write_and_read() {
    a_write_that_becomes_a_read::<mutants::FreeBetweenWriteAndRead>();
}
