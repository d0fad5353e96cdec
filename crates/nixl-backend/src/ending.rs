//! The end of the process. What NIXL keeps for the whole of it is destroyed then, while threads of ours may be in its
//! functions: those of engines and storages that nobody closed. They are kept out, and those inside are waited for.

use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One that hangs in the library does not keep the process.
const LONGEST: Duration = Duration::from_secs(3);

struct Inside {
    threads: usize,
    ending: bool,
}

static INSIDE: Mutex<Inside> = Mutex::new(Inside { threads: 0, ending: false });
static LEFT: Condvar = Condvar::new();
/// The process that loaded the library: a child of it has none of its threads.
static PROCESS: AtomicU32 = AtomicU32::new(0);

fn lock() -> MutexGuard<'static, Inside> {
    INSIDE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Held by a thread of ours while it may be in the library. Never two by one thread.
pub(crate) struct Entered(());

/// Enters the library. Once the process ends this does not return.
pub(crate) fn enter() -> Entered {
    let mut inside = lock();
    while inside.ending {
        inside = LEFT.wait(inside).unwrap_or_else(PoisonError::into_inner);
    }
    inside.threads += 1;
    Entered(())
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut inside = lock();
        inside.threads -= 1;
        if inside.ending {
            LEFT.notify_all();
        }
    }
}

/// To be called after each library or plugin that was loaded: of what is to be done at the end the last is done first,
/// so that this comes before what they have asked for by then.
pub(crate) fn wait_at_the_end() {
    PROCESS.store(process::id(), Ordering::SeqCst);
    // SAFETY: `at_the_end` is there as long as the process, does not unwind, and needs nothing that ends before it.
    if unsafe { libc::atexit(at_the_end) } != 0 {
        tracing::debug!("the end of the process will not wait for what is in NIXL");
    }
}

extern "C" fn at_the_end() {
    if PROCESS.load(Ordering::SeqCst) != process::id() {
        return;
    }
    let mut inside = lock();
    inside.ending = true;
    let _ = LEFT.wait_timeout_while(inside, LONGEST, |inside| inside.threads > 0);
}
