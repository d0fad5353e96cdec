//! All requests of a workload, some at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hicache::PageKey;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::chain::{Workload, keys};
use super::{Acknowledged, Lane, Tally};
use crate::exit::Failure;
use crate::progress::Progress;

/// How a workload is played.
#[derive(Debug)]
pub(crate) struct Play {
    workload: Workload,
    /// How many times as fast as the workload's own time; `None` for as fast as it goes.
    speed: Option<f64>,
    acknowledged: Option<Acknowledged>,
    progress: Progress,
    /// Index of the first request that no lane has taken.
    next: AtomicUsize,
    begun: Instant,
}

impl Play {
    /// Begins now.
    pub(crate) fn new(workload: &Workload, speed: Option<f64>, acknowledged: Option<Acknowledged>) -> Self {
        let progress = Progress::new("replay", workload.pages, "pages");
        let (workload, next) = (workload.clone(), AtomicUsize::new(0));
        Self { workload, speed, acknowledged, progress, next, begun: Instant::now() }
    }
}

/// Plays it: each lane takes the next request as soon as it has served one. The tally's right pages are the hits.
///
/// Dropping the future stops it: what the storage has begun it finishes by itself.
///
/// # Errors
/// What makes going on pointless. Pages that fail are counted.
pub(crate) async fn play(play: Play, lanes: Vec<Lane>) -> Result<Tally, Failure> {
    let play = Arc::new(play);
    let mut tasks = JoinSet::new();
    for lane in lanes {
        tasks.spawn(serve_all(Arc::clone(&play), lane));
    }
    let mut sum = Tally::default();
    while let Some(ended) = tasks.join_next().await {
        sum += ended.map_err(|error| Failure::failed(format!("a request died: {error}")))??;
    }
    Ok(sum)
}

async fn serve_all(play: Arc<Play>, mut lane: Lane) -> Result<Tally, Failure> {
    let mut tally = Tally::default();
    while let Some(request) = play.workload.requests.get(play.next.fetch_add(1, Ordering::Relaxed)) {
        if let Some(speed) = play.speed
            && let Ok(after) = Duration::try_from_secs_f64(request.timestamp_ms as f64 / 1e3 / speed)
            && let Some(due) = play.begun.checked_add(after)
        {
            tokio::time::sleep_until(due).await;
        }
        serve(&play, &mut lane, &keys(request), &mut tally).await?;
    }
    Ok(tally)
}

async fn serve(play: &Play, lane: &mut Lane, keys: &[PageKey], tally: &mut Tally) -> Result<(), Failure> {
    let stored = match lane.exists(keys).await {
        Ok(there) => there.iter().take_while(|there| **there).count(),
        Err(error) => {
            tally.failed_pages += keys.len() as u64;
            lane.troubles().add(format_args!("exists: {error}"));
            0
        }
    };
    // `exists` is a hint and the load decides: what it does not bring ends the prefix.
    let mut loaded = 0;
    while loaded < stored {
        let batch = &keys[loaded..stored.min(loaded + lane.batch_pages()?)];
        let mut batch_tally = Tally::default();
        let right = lane.load(batch, &mut batch_tally).await?;
        // Right pages behind a gap are no use to a request.
        batch_tally.right_pages = right as u64;
        *tally += batch_tally;
        play.progress.advance(right as u64);
        loaded += right;
        if right < batch.len() {
            break;
        }
    }
    while loaded < keys.len() {
        let batch = &keys[loaded..keys.len().min(loaded + lane.batch_pages()?)];
        let done = lane.store(batch, tally).await?;
        if let Some(acknowledged) = &play.acknowledged {
            acknowledged.append(&done)?;
        }
        play.progress.advance(batch.len() as u64);
        loaded += batch.len();
    }
    Ok(())
}
