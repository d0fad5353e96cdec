//! Threads that drive storage, apart from the thread that drives the controller.
//!
//! Each runs one job at a time to its end. A storage may block where it should return a future at once; its job is then
//! given up by whoever watches the clock, and another thread takes the place of the one that is stuck, which ends when
//! the call returns. So what blocks costs its own operation and holds up nobody else.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::PoisonError;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hicache_core::{Error, ErrorKind, Result};

use crate::sync::{Arc, Condvar, Mutex, later, lock};

/// So many threads may be stuck in calls that don't return. After that nothing is begun until one does.
const MOST_STUCK: usize = 16;

/// What a thread runs. It must not panic: what it would have reported is lost then.
pub(crate) type Job = Pin<Box<dyn Future<Output = Option<Again>> + Send>>;

/// What a job that is not over goes on with, after a pause in which its thread does other things.
pub(crate) struct Again {
    pub(crate) pause: Duration,
    pub(crate) job: Job,
}

/// A few threads, and the jobs that wait for them.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    name: &'static str,
}

struct Shared {
    queue: Mutex<Queue>,
    ready: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(u64, Job)>,
    /// Jobs that pause, in no order: there are few.
    pausing: Vec<(Instant, u64, Job)>,
    running: HashSet<u64>,
    /// Jobs that were given up, whose threads are still in them.
    stuck: HashSet<u64>,
    stopped: bool,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Workers {
    /// # Errors
    /// `Unavailable` if there are no threads to be had.
    pub(crate) fn start(name: &'static str, threads: usize) -> Result<Self> {
        let shared = Arc::new(Shared { queue: Mutex::default(), ready: Condvar::new() });
        let workers = Self { shared, name };
        (0..threads).try_for_each(|_| workers.add_thread())?;
        Ok(workers)
    }

    fn add_thread(&self) -> Result<()> {
        let none = |source: std::io::Error| {
            Error::new(ErrorKind::Unavailable, "no threads for storage").with_source(source)
        };
        // For the bounds on waits, which it drives while it waits.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(none)?;
        let shared = Arc::clone(&self.shared);
        let work = move || {
            while let Some((id, job)) = shared.next() {
                let again = catch_unwind(AssertUnwindSafe(|| runtime.block_on(job))).unwrap_or(None);
                let mut queue = lock(&shared.queue);
                queue.running.remove(&id);
                if let Some(Again { pause, job }) = again.filter(|_| !queue.stopped) {
                    queue.pausing.push((later(Instant::now(), pause), id, job));
                    shared.ready.notify_one(); // Whoever waits, waits no longer than that.
                }
                if queue.stuck.remove(&id) {
                    break; // Another one is here in its place.
                }
            }
        };
        std::thread::Builder::new().name(self.name.to_owned()).spawn(work).map_err(none)?;
        Ok(())
    }

    /// Queues a job; `id` names it to [`Workers::give_up`].
    ///
    /// # Errors
    /// `Unavailable`, with the job dropped, while too many threads are stuck.
    pub(crate) fn run(&self, id: u64, job: Job) -> Result<()> {
        let mut queue = lock(&self.shared.queue);
        if queue.stuck.len() >= MOST_STUCK {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!("{MOST_STUCK} calls to storage don't return; nothing is asked of it until one does"),
            ));
        }
        queue.waiting.push_back((id, job));
        drop(queue);
        self.shared.ready.notify_one();
        Ok(())
    }

    /// The thread that runs this job is stuck: another one takes its place. Nothing if it is not running.
    pub(crate) fn give_up(&self, id: u64) {
        {
            let mut queue = lock(&self.shared.queue);
            if !queue.running.contains(&id) || !queue.stuck.insert(id) {
                return; // It has come back.
            }
        }
        if let Err(error) = self.add_thread() {
            tracing::warn!(%error, "a thread for storage is stuck and could not be replaced");
            // It goes on when it returns.
            lock(&self.shared.queue).stuck.remove(&id);
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let waiting = {
            let mut queue = lock(&self.shared.queue);
            queue.stopped = true;
            (std::mem::take(&mut queue.waiting), std::mem::take(&mut queue.pausing))
        };
        // Never waits: what is with storage ends by itself, and its memory with it.
        self.shared.ready.notify_all();
        drop(waiting);
    }
}

impl Shared {
    /// The next job; `None` at the end.
    fn next(&self) -> Option<(u64, Job)> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.stopped {
                return None;
            }
            let now = Instant::now();
            let due = queue.pausing.iter().position(|(until, _, _)| *until <= now);
            let due = due.map(|place| queue.pausing.swap_remove(place)).map(|(_, id, job)| (id, job));
            if let Some((id, job)) = due.or_else(|| queue.waiting.pop_front()) {
                queue.running.insert(id);
                return Some((id, job));
            }
            let next = queue.pausing.iter().map(|(until, _, _)| until.saturating_duration_since(now)).min();
            queue = match next {
                None => self.ready.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(pause) => {
                    self.ready.wait_timeout(queue, pause).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

/// A job that is over when `work` is.
pub(crate) fn once(work: impl Future<Output = ()> + Send + 'static) -> Job {
    Box::pin(async move {
        work.await;
        None
    })
}

/// A future that answers `None` in place of a panic.
pub(crate) struct Caught<T>(Pin<Box<dyn Future<Output = T> + Send>>);

/// Keeps what `future` panics of from whoever waits for it.
pub(crate) fn caught<T>(future: impl Future<Output = T> + Send + 'static) -> Caught<T> {
    Caught(Box::pin(future))
}

impl<T> Future for Caught<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(context))) {
            Ok(poll) => poll.map(Some),
            Err(_) => Poll::Ready(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn a_job_that_panics_and_one_that_is_stuck_hold_up_nobody() {
        let workers = Workers::start("test", 1).unwrap();
        workers.run(1, once(async { panic!("on purpose") })).unwrap();
        let ((release, stuck), (told, tell)) = (channel::<()>(), channel());
        let (begun, after) = (told.clone(), told.clone());
        let job = async move {
            begun.send(2).unwrap();
            assert!(stuck.recv().is_ok());
        };
        workers.run(2, once(job)).unwrap();
        workers.run(3, once(async move { after.send(3).unwrap() })).unwrap();
        assert_eq!(tell.recv_timeout(LONG).unwrap(), 2);
        assert!(tell.recv_timeout(Duration::from_millis(50)).is_err(), "its only thread is stuck");
        workers.give_up(2);
        assert_eq!(tell.recv_timeout(LONG).unwrap(), 3);
        release.send(()).unwrap();
        // The thread that comes back ends: one is left, so that jobs follow each other.
        while !lock(&workers.shared.queue).stuck.is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        workers.run(4, once(async move { told.send(4).unwrap() })).unwrap();
        assert_eq!(tell.recv_timeout(LONG).unwrap(), 4);
    }

    #[test]
    fn stuck_threads_are_not_replaced_for_ever() {
        let workers = Workers::start("test", 1).unwrap();
        let mut releases = Vec::new();
        for id in 0..MOST_STUCK as u64 {
            let ((release, stuck), (begun, begins)) = (channel::<()>(), channel());
            let job = async move {
                begun.send(()).unwrap();
                assert!(stuck.recv().is_err());
            };
            workers.run(id, once(job)).unwrap();
            begins.recv_timeout(LONG).unwrap();
            workers.give_up(id);
            releases.push(release);
        }
        assert_eq!(workers.run(99, once(async {})).unwrap_err().kind(), ErrorKind::Unavailable);
        releases.clear();
        while workers.run(100, once(async {})).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_job_that_pauses_leaves_its_thread_to_others() {
        let workers = Workers::start("test", 1).unwrap();
        let (told, tell) = channel();
        let (first, second) = (told.clone(), told.clone());
        let begun = Instant::now();
        let pause = Duration::from_millis(80);
        let job: Job = Box::pin(async move {
            first.send(1).unwrap();
            Some(Again { pause, job: once(async move { second.send(3).unwrap() }) })
        });
        workers.run(1, job).unwrap();
        workers.run(2, once(async move { told.send(2).unwrap() })).unwrap();
        assert_eq!([(); 3].map(|()| tell.recv_timeout(LONG).unwrap()), [1, 2, 3]);
        assert!(begun.elapsed() >= pause);
    }
}
