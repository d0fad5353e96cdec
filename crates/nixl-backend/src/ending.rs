//! The end of the process. What NIXL keeps for the whole of it is destroyed then, while threads of ours may be in its
//! functions: those of engines and storages that nobody closed. They are kept out, and those inside are waited for.
//!
//! There is no lock: a child of a fork would get it as some thread held it.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{process, thread};

/// One that hangs in the library does not keep the process.
const LONGEST: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(1);

/// Threads of ours that may be in the library.
static INSIDE: AtomicUsize = AtomicUsize::new(0);
static ENDING: AtomicBool = AtomicBool::new(false);
/// The process that loaded the library last: a child of it has none of its threads.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// Held by a thread of ours while it may be in the library. Never two by one thread.
pub(crate) struct Entered(());

/// Enters the library. Once the process ends this does not return.
pub(crate) fn enter() -> Entered {
    // First counted, then looked at, as the end first says so and then counts: one of the two sees the other.
    INSIDE.fetch_add(1, Ordering::SeqCst);
    if ENDING.load(Ordering::SeqCst) {
        INSIDE.fetch_sub(1, Ordering::SeqCst);
        loop {
            thread::park();
        }
    }
    Entered(())
}

impl Drop for Entered {
    fn drop(&mut self) {
        // In a child of a fork the count may have begun anew since.
        let _ = INSIDE.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |inside| inside.checked_sub(1));
    }
}

/// To be called after each library or plugin that was loaded: of what is to be done at the end the last is done first,
/// so that this comes before what they have asked for by then.
pub(crate) fn wait_at_the_end() {
    let own = process::id();
    let loaded_by = PROCESS.swap(own, Ordering::SeqCst);
    if loaded_by != own && loaded_by != 0 {
        INSIDE.store(0, Ordering::SeqCst); // The parent's.
    }
    // SAFETY: `at_the_end` is there as long as the process, does not unwind, and needs nothing that ends before it.
    if unsafe { libc::atexit(at_the_end) } != 0 {
        tracing::debug!("the end of the process will not wait for what is in NIXL");
    }
}

extern "C" fn at_the_end() {
    if PROCESS.load(Ordering::SeqCst) != process::id() {
        return;
    }
    ENDING.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    while INSIDE.load(Ordering::SeqCst) > 0 && begun.elapsed() < LONGEST {
        thread::sleep(PAUSE);
    }
}
