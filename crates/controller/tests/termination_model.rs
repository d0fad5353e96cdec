//! Model-checks the end of a prefetch: a batch that completes while it is terminated.
//!
//! The source is compiled here once more, against loom's atomics.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

/// What the source calls `super::sync`.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
}

#[path = "../src/progress.rs"]
#[allow(dead_code, unreachable_pub, reason = "a part of it is enough here")]
mod progress;

use progress::Progress;

/// What the word does, so that a mutant can take its place.
trait Word: Send + Sync + 'static {
    fn new() -> Self;
    fn advance(&self, pages: u64) -> bool;
    fn terminate(&self) -> (u64, bool);
}

impl Word for Progress {
    fn new() -> Self {
        Self::new()
    }
    fn advance(&self, pages: u64) -> bool {
        self.advance(pages)
    }
    fn terminate(&self) -> (u64, bool) {
        self.terminate()
    }
}

/// Pages whose bytes the worker writes, and whoever terminates reads as far as they count.
struct Pages([UnsafeCell<u32>; 2]);
// SAFETY: that the word orders the accesses is what loom checks.
unsafe impl Sync for Pages {}
// SAFETY: as above.
unsafe impl Send for Pages {}

fn what_counts_is_whole_and_stays<W: Word>() {
    loom::model(|| {
        let word = Arc::new(W::new());
        let pages = Arc::new(Pages([UnsafeCell::new(0), UnsafeCell::new(0)]));
        let (worker_word, worker_pages) = (Arc::clone(&word), Arc::clone(&pages));
        let worker = thread::spawn(move || {
            let mut counted = 0;
            for page in &worker_pages.0 {
                // SAFETY: nobody reads a page that has not been counted; loom checks it.
                page.with_mut(|page| unsafe { *page = 7 });
                if !worker_word.advance(1) {
                    break;
                }
                counted += 1;
            }
            (counted, worker_word.terminate())
        });
        let (complete, first) = word.terminate();
        for page in &pages.0[..complete as usize] {
            // SAFETY: it was counted.
            assert_eq!(page.with(|page| unsafe { *page }), 7);
        }
        let (counted, (seen, worker_first)) = worker.join().unwrap();
        assert_eq!(counted, complete, "a page was counted after the end");
        assert_eq!(seen, complete, "the two don't agree");
        assert!(first != worker_first, "one of them ends it");
    });
}

#[test]
fn termination_and_completion_agree() {
    what_counts_is_whole_and_stays::<Progress>();
}

/// Count and mark in two words, as the first version of SGLang's controller would have it without its lock.
struct TwoWords(loom::sync::atomic::AtomicU64, loom::sync::atomic::AtomicBool);

impl Word for TwoWords {
    fn new() -> Self {
        Self(loom::sync::atomic::AtomicU64::new(0), loom::sync::atomic::AtomicBool::new(false))
    }
    fn advance(&self, pages: u64) -> bool {
        let open = !self.1.load(loom::sync::atomic::Ordering::SeqCst);
        if open {
            self.0.fetch_add(pages, loom::sync::atomic::Ordering::SeqCst);
        }
        open
    }
    fn terminate(&self) -> (u64, bool) {
        let first = !self.1.swap(true, loom::sync::atomic::Ordering::SeqCst);
        (self.0.load(loom::sync::atomic::Ordering::SeqCst), first)
    }
}

#[test]
#[should_panic]
fn loom_finds_a_count_apart_from_the_mark() {
    what_counts_is_whole_and_stays::<TwoWords>();
}

/// A count that does not publish the bytes.
struct Relaxed(loom::sync::atomic::AtomicU64);

impl Word for Relaxed {
    fn new() -> Self {
        Self(loom::sync::atomic::AtomicU64::new(0))
    }
    fn advance(&self, pages: u64) -> bool {
        use loom::sync::atomic::Ordering::Relaxed;
        self.0.fetch_update(Relaxed, Relaxed, |seen| (seen >> 63 == 0).then_some(seen + pages)).is_ok()
    }
    fn terminate(&self) -> (u64, bool) {
        let seen = self.0.fetch_or(1 << 63, loom::sync::atomic::Ordering::Relaxed);
        (seen & !(1 << 63), seen >> 63 == 0)
    }
}

#[test]
#[should_panic]
fn loom_finds_a_count_that_does_not_publish() {
    what_counts_is_whole_and_stays::<Relaxed>();
}
