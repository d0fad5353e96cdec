//! The completion worker: one thread on which everything after a completion runs, never in a caller's future.

use std::sync::Arc;
use std::thread;

use hicache_core::{
    Completion, Direction, Error, ErrorKind, Outcome, PageBatch, PageKey, PageRequest, Result, StoreOptions,
};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::jobs::{Progress, Shared, VolumeList, load, store, watched};
use crate::set::Bell;

/// What the worker is asked for.
#[derive(Debug)]
pub(crate) enum Job {
    Load(Vec<PageRequest>, Completion<PageBatch>),
    Store(Vec<PageRequest>, StoreOptions, Completion<PageBatch>),
    Delete(Vec<PageKey>, oneshot::Sender<Result<Vec<Outcome>>>),
    Clear(oneshot::Sender<Result<u64>>),
    Close(oneshot::Sender<Result<()>>),
}

/// Starts the worker. It ends when the sender is gone and everything is done, or after a close.
///
/// # Errors
/// `Unavailable` if the system gives no thread.
pub(crate) fn start(shared: Arc<Shared>) -> Result<mpsc::UnboundedSender<Job>> {
    let unavailable = |error| Error::new(ErrorKind::Unavailable, "no completion worker").with_source(error);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        // A root whose disk hangs must not keep the syncs of the others waiting.
        .max_blocking_threads(4 * shared.roots.len())
        .thread_name("hicache-sync")
        .build()
        .map_err(unavailable)?;
    let (sender, receiver) = mpsc::unbounded_channel();
    thread::Builder::new()
        .name("hicache-store".into())
        .spawn(move || {
            runtime.block_on(run(&shared, receiver));
            // A snapshot or a sync that is stuck must not keep the thread.
            runtime.shutdown_background();
        })
        .map_err(unavailable)?;
    Ok(sender)
}

async fn run(shared: &Arc<Shared>, mut jobs: mpsc::UnboundedReceiver<Job>) {
    let mut running = Running::default();
    let mut bells = Bells::default();
    // When files of other sets are to be closed; nothing wakes the worker while none is open.
    let mut closing: Option<Instant> = None;
    let close = loop {
        bells.hang(&shared.volumes.now());
        let job = tokio::select! {
            job = jobs.recv() => job,
            () = bells.heard.notified() => {
                shared.volumes.now().iter().for_each(|volume| volume.woken());
                continue;
            }
            () = sleep_until(closing.unwrap_or_else(Instant::now)), if closing.is_some() => {
                closing = close_old_segments(shared);
                continue;
            }
            // A job that panicked has dropped its completion: its batch is answered `Abandoned`.
            Some(_) = running.own.join_next() => {
                closing = closing.or_else(|| close_old_segments(shared));
                continue;
            }
            Some(_) = running.foreign.join_next() => {
                closing = closing.or_else(|| close_old_segments(shared));
                continue;
            }
        };
        let shared = Arc::clone(shared);
        if job.is_some() {
            shared.volumes.now().iter().for_each(|volume| volume.catch_up());
        }
        match job {
            Some(Job::Load(requests, completion)) => {
                let (pages, foreign) = (requests.len(), is_foreign(&requests));
                running.set(foreign).spawn(async move {
                    let progress = Progress::begin();
                    watched(
                        &shared,
                        completion,
                        pages,
                        foreign,
                        &progress,
                        load(&shared, requests, &progress),
                    )
                    .await;
                });
            }
            Some(Job::Store(requests, options, completion)) => {
                let (pages, foreign) = (requests.len(), is_foreign(&requests));
                running.set(foreign).spawn(async move {
                    let progress = Progress::begin();
                    let work = store(&shared, requests, options, &progress);
                    watched(&shared, completion, pages, foreign, &progress, work).await;
                });
            }
            Some(Job::Delete(keys, answer)) => drop(answer.send(delete(&shared, &keys))),
            Some(Job::Clear(answer)) => {
                drop(answer.send(clear(&shared)));
            }
            Some(Job::Close(answer)) => break Some(answer),
            None => break None,
        }
    };
    jobs.close();
    while let Ok(job) = jobs.try_recv() {
        refuse(job);
    }
    let result = drain(shared, &mut running).await;
    if let Some(answer) = close {
        drop(answer.send(result));
    } else if let Err(error) = result {
        tracing::warn!(%error, "a store that was dropped did not end well");
    }
    // A batch with a caller's memory is answered when the device is done with it, store or no store. What is stuck in
    // memory of our own keeps it: the engine has it.
    while running.foreign.join_next().await.is_some() {}
}

/// Answers when to come again.
fn close_old_segments(shared: &Shared) -> Option<Instant> {
    shared.volumes.now().iter().filter_map(|volume| volume.close_old_segments()).min().map(Instant::from_std)
}

/// The bells that other processes ring.
#[derive(Default)]
struct Bells {
    of: Option<VolumeList>,
    hung: Vec<Bell>,
    heard: Arc<Notify>,
}

impl Bells {
    /// Hangs them, where that was not done yet: a root that was gone is opened anew.
    fn hang(&mut self, volumes: &VolumeList) {
        if self.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, volumes)) {
            return;
        }
        self.of = Some(Arc::clone(volumes));
        self.hung.clear();
        self.hung.extend(volumes.iter().filter_map(|volume| volume.hang_bell(Arc::clone(&self.heard))));
    }
}

/// What is under way.
#[derive(Default)]
struct Running {
    own: JoinSet<()>,
    /// With memory of a caller's.
    foreign: JoinSet<()>,
}

impl Running {
    fn set(&mut self, foreign: bool) -> &mut JoinSet<()> {
        if foreign { &mut self.foreign } else { &mut self.own }
    }
}

/// Answers a job that came behind the close.
fn refuse(job: Job) {
    let closed = || Error::new(ErrorKind::Closed, "the store is closed");
    match job {
        Job::Load(requests, completion) | Job::Store(requests, _, completion) => {
            drop(completion.answer(PageBatch::failed(requests, &closed())));
        }
        Job::Delete(_, answer) => drop(answer.send(Err(closed()))),
        Job::Clear(answer) => drop(answer.send(Err(closed()))),
        Job::Close(answer) => drop(answer.send(Ok(()))),
    }
}

async fn drain(shared: &Arc<Shared>, running: &mut Running) -> Result<()> {
    let drained = tokio::time::timeout(shared.io_timeout * 2, async {
        while running.own.join_next().await.is_some() {}
        while running.foreign.join_next().await.is_some() {}
    });
    let drained = drained.await.is_ok();
    let mut result = Ok(());
    if !drained {
        result = Err(Error::new(
            ErrorKind::Abandoned,
            "operations were still under way when the store was closed",
        ));
    }
    for volume in shared.volumes.now().iter() {
        volume.snapshot_idle().await;
        if let Err(error) = volume.close() {
            tracing::warn!(root = %volume.root().display(), %error, "no last snapshot; the journal has everything");
            result = result.and(Err(error));
        }
        if drained {
            volume.release();
        }
    }
    result
}

fn is_foreign(requests: &[PageRequest]) -> bool {
    requests.iter().any(|request| request.memory.is_foreign())
}

fn delete(shared: &Shared, keys: &[PageKey]) -> Result<Vec<Outcome>> {
    let concerned =
        (0..shared.roots.len()).filter(|&number| keys.iter().any(|key| shared.volume_of(key) == number));
    writable(shared, concerned)?;
    let volumes = shared.volumes.now();
    let mut outcomes = vec![Outcome::Absent; keys.len()];
    for (number, volume) in volumes.iter().enumerate() {
        let own: Vec<usize> = (0..keys.len()).filter(|&i| shared.volume_of(&keys[i]) == number).collect();
        let own_keys: Vec<PageKey> = own.iter().map(|&i| keys[i]).collect();
        for (i, outcome) in own.into_iter().zip(volume.delete(&own_keys)?) {
            outcomes[i] = outcome;
        }
    }
    Ok(outcomes)
}

fn clear(shared: &Shared) -> Result<u64> {
    writable(shared, 0..shared.roots.len())?;
    shared.volumes.now().iter().map(|volume| volume.clear()).sum()
}

/// Refuses where a journal would be written whose medium is cut off. These write little: they are no trial.
fn writable(shared: &Shared, mut volumes: impl Iterator<Item = usize>) -> Result<()> {
    let list = shared.volumes.now();
    volumes.try_for_each(|number| {
        let refusal = shared.breakers.of(number, Direction::Write).refusal();
        refusal.map_or(Ok(()), Err)?;
        list[number].ensure_there()
    })
}
