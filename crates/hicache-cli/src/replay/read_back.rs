//! Every page of a list, reading only.

use hicache::PageKey;
use serde::Serialize;

use super::{Lane, Tally};
use crate::exit::Failure;
use crate::progress::Progress;

/// What was there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ReadBack {
    /// Pages asked for.
    pub(crate) pages: u64,
    /// Loaded, and right.
    pub(crate) hit_pages: u64,
    /// Loaded or not, with wrong bytes.
    pub(crate) corrupt_pages: u64,
    /// Not there.
    pub(crate) missing_pages: u64,
    /// Neither: the load failed.
    pub(crate) failed_pages: u64,
}

/// Loads all `keys`, a batch at a time, and compares every byte.
///
/// # Errors
/// What makes going on pointless. Pages that fail are counted.
pub(crate) async fn read_back(
    lane: &mut Lane,
    keys: impl Iterator<Item = PageKey>,
    progress: &Progress,
) -> Result<ReadBack, Failure> {
    let mut keys = keys.fuse();
    let mut tally = Tally::default();
    let mut pages = 0;
    loop {
        let batch: Vec<PageKey> = keys.by_ref().take(lane.batch_pages()?).collect();
        if batch.is_empty() {
            break;
        }
        lane.load(&batch, &mut tally).await?;
        pages += batch.len() as u64;
        progress.advance(batch.len() as u64);
    }
    Ok(ReadBack {
        pages,
        hit_pages: tally.right_pages,
        corrupt_pages: tally.corrupt_pages,
        missing_pages: tally.absent_pages,
        failed_pages: tally.failed_pages,
    })
}
