//! Calls that run on the threads of a runtime, to their end, whoever waits for them.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::error::{Error, ErrorKind, Result};
use crate::fork_mark::ForkMark;
use crate::storage::{PageBatch, PageRequest};
use crate::transfer::Transfer;

/// What a storage with a runtime of its own takes calls with: each is run there to its end, is refused after `close` and
/// in a forked child, and is waited for when the storage closes.
#[derive(Debug)]
pub struct Calls {
    name: &'static str,
    handle: Handle,
    running: watch::Sender<usize>,
    closed: AtomicBool,
    fork: ForkMark,
}

/// Something that is under way, until it is dropped.
#[derive(Debug)]
pub struct Call(watch::Sender<usize>);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

impl Calls {
    /// Calls of the storage of this name, on the threads of that runtime.
    pub fn new(name: &'static str, handle: Handle) -> Self {
        Self {
            name,
            handle,
            running: watch::Sender::new(0),
            closed: AtomicBool::new(false),
            fork: ForkMark::new(),
        }
    }

    /// The runtime.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Refuses what comes after `close`, or in a child.
    ///
    /// # Errors
    /// `Closed`.
    pub fn open(&self) -> Result<()> {
        if self.fork.is_child() {
            return Err(ForkMark::refusal("storage"));
        }
        if self.closed.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Closed, "the storage is closed").with_backend(self.name));
        }
        Ok(())
    }

    /// Counts something that nobody called for.
    pub fn background(&self) -> Call {
        self.running.send_modify(|running| *running += 1);
        Call(self.running.clone())
    }

    /// Begins a call.
    fn begin(&self) -> Result<Call> {
        // A child must not touch what follows: a thread of its parent may have had the lock.
        self.open()?;
        let call = self.background();
        // Again, now that it counts: whoever closes has not seen it, or waits for it.
        self.open()?;
        Ok(call)
    }

    /// Answers a batch.
    pub fn submit<W: Future<Output = PageBatch> + Send + 'static>(
        &self,
        requests: Vec<PageRequest>,
        work: impl FnOnce(Vec<PageRequest>) -> W,
    ) -> Transfer<PageBatch> {
        let call = match self.begin() {
            Ok(call) => call,
            Err(error) => return Transfer::ready(PageBatch::failed(requests, &error)),
        };
        let (completion, transfer) = Transfer::channel(requests.len());
        let work = work(requests);
        self.handle.spawn(async move {
            // Nobody waits: its memory is free with it.
            drop(completion.answer(work.await));
            drop(call);
        });
        transfer
    }

    /// Runs `work` to its end.
    ///
    /// # Errors
    /// Those of `work`; `Closed`; `Abandoned` if it panics.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let call = self.begin()?;
        let task = self.handle.spawn(async move {
            let result = work.await;
            drop(call);
            result
        });
        task.await.unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::Abandoned, "the operation was lost").with_source(error))
        })
    }

    /// Takes no more calls. Whether it took some until now: not in a child, nor after it was closed.
    pub fn close(&self) -> bool {
        !self.fork.is_child() && !self.closed.swap(true, Ordering::SeqCst)
    }

    /// Waits until nothing is under way.
    pub async fn idle(&self) {
        // An error would mean that the sender is gone, and it is ours.
        let _ = self.running.subscribe().wait_for(|&running| running == 0).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::key::PageKey;
    use crate::region::Access;
    use crate::{MemoryStorage, Outcome, Region, Storage, StoreOptions};

    #[tokio::test]
    async fn calls_go_on_when_nobody_waits_and_closing_waits_for_them() {
        let calls = Calls::new("test", Handle::current());
        let storage = std::sync::Arc::new(MemoryStorage::new());
        let registered = storage.register(&Region::allocate(1, 4096).unwrap()).unwrap();
        let page =
            || PageRequest::new(PageKey::kv([1; 32]), registered.page(0, 4096, Access::Write).unwrap());
        let slow = |requests: Vec<PageRequest>| {
            let storage = storage.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(30)).await;
                storage.store(requests, StoreOptions::default()).await
            }
        };
        drop(calls.submit(vec![page()], slow));
        let begun = std::time::Instant::now();
        assert!(calls.close() && !calls.close());
        calls.idle().await;
        assert!(begun.elapsed() >= Duration::from_millis(30) && storage.stat().pages == 1);
        let refused = calls.submit(vec![page()], slow).await;
        assert!(matches!(&refused.outcomes[0], Outcome::Failed(error) if error.kind() == ErrorKind::Closed));
        assert!(refused.memory[0].is_some());
        assert_eq!(calls.run(async { Ok(()) }).await.unwrap_err().kind(), ErrorKind::Closed);
    }

    #[tokio::test]
    async fn a_call_that_panics_is_lost_and_does_not_count_any_more() {
        let calls = Calls::new("test", Handle::current());
        let lost = calls.run(async { if calls_panic() { panic!("on purpose") } else { Ok(()) } }).await;
        assert_eq!(lost.unwrap_err().kind(), ErrorKind::Abandoned);
        calls.idle().await;
    }

    fn calls_panic() -> bool {
        true
    }
}
