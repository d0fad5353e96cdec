//! Loads: find, pin, read, verify.

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use hicache_core::{
    Access, Direction, Error, ErrorKind, Outcome, PageBatch, PageKey, PageMemory, PageRequest,
};

use super::moves::{Move, Moved};
use super::parts::{self, LoadParts};
use super::{Permit, Progress, Shared, VolumeList};
use crate::catalog::SlotId;
use crate::volume::{Counters, Source, Volume};

/// A page on its way.
struct Loading {
    key: PageKey,
    volume: usize,
    source: Source,
    checksum: u64,
    bytes: u32,
}

/// What is answered, page by page, and which pages were replaced while they were read.
struct Answers {
    outcomes: Vec<Outcome>,
    memory: Vec<Option<PageMemory>>,
    replaced: Vec<usize>,
}

/// A page that its writer replaces or moves while it is read is looked up so often.
const MOST_LOOKUPS: usize = 3;

/// Loads pages; answers each.
pub(crate) async fn load(shared: &Shared, requests: Vec<PageRequest>, progress: &Progress) -> PageBatch {
    let keys: Vec<PageKey> = requests.iter().map(|request| request.key).collect();
    let (mut batch, mut replaced) = load_once(shared, requests, progress).await;
    for _ in 1..MOST_LOOKUPS {
        let again = std::mem::take(&mut replaced);
        let requests = again.iter().filter_map(|&i| Some(PageRequest::new(keys[i], batch.memory[i].take()?)));
        let requests: Vec<PageRequest> = requests.collect();
        if requests.is_empty() {
            break;
        }
        let (part, still) = load_once(shared, requests, progress).await;
        for ((&i, outcome), memory) in again.iter().zip(part.outcomes).zip(part.memory) {
            (batch.outcomes[i], batch.memory[i]) = (outcome, memory);
        }
        replaced = still.into_iter().map(|at| again[at]).collect();
    }
    let volumes = shared.volumes.now();
    for i in replaced {
        volumes[shared.volume_of(&keys[i])].count(|counters| counters.missed_pages += 1);
    }
    batch
}

/// Loads pages once. Those that were replaced while they were read are `Absent`, with their memory, and listed.
async fn load_once(
    shared: &Shared,
    requests: Vec<PageRequest>,
    progress: &Progress,
) -> (PageBatch, Vec<usize>) {
    let volumes = shared.volumes.now();
    let count = requests.len();
    let mut outcomes: Vec<Outcome> = (0..count).map(|_| Outcome::Absent).collect();
    let mut memory: Vec<Option<PageMemory>> = Vec::with_capacity(count);
    let mut failed = 0;
    let mut by_volume: Vec<Vec<(usize, PageKey, u32)>> = vec![Vec::new(); volumes.len()];
    for (i, request) in requests.into_iter().enumerate() {
        let checked = shared.check(&request).and_then(|bytes| match request.memory.access() {
            Access::Write => Ok(bytes),
            Access::Read => {
                Err(Error::config("a load needs memory leased for writing").with_key(request.key))
            }
        });
        match checked {
            Ok(bytes) => by_volume[shared.volume_of(&request.key)].push((i, request.key, bytes)),
            Err(error) => {
                failed += 1;
                outcomes[i] = Outcome::Failed(error);
            }
        }
        memory.push(Some(request.memory));
    }
    volumes[0].count(|counters| counters.failed_pages += failed);

    let mut loading: Vec<Option<Loading>> = (0..count).map(|_| None).collect();
    let mut permits: Vec<Option<Permit<'_>>> = volumes.iter().map(|_| None).collect();
    let mut flights = FuturesUnordered::new();
    let mut held = None;
    let fly = |number, part| async move {
        let _waiting = progress.wait_for(number, Direction::Read);
        shared.move_pages(Direction::Read, part, progress).await
    };
    for (number, pages) in by_volume.into_iter().enumerate() {
        let volume = &volumes[number];
        let keys: Vec<PageKey> = pages.iter().map(|page| page.1).collect();
        let mut moves = Vec::with_capacity(pages.len());
        let (mut wrong, mut missed, mut failed) = (Vec::new(), 0, 0);
        for ((i, key, bytes), found) in pages.into_iter().zip(volume.locate(&keys)) {
            let found = match found {
                Ok(Some(found)) => found,
                Ok(None) => {
                    missed += 1;
                    continue;
                }
                Err(error) => {
                    failed += 1;
                    outcomes[i] = Outcome::Failed(error.with_key(key));
                    continue;
                }
            };
            if found.bytes != bytes {
                failed += 1;
                wrong.extend(found.source.pinned());
                outcomes[i] = Outcome::Failed(
                    Error::config("the page was stored with another length")
                        .with_key(key)
                        .with_bytes(u64::from(bytes), u64::from(found.bytes)),
                );
                continue;
            }
            let Some(page) = memory[i].take() else { continue };
            loading[i] =
                Some(Loading { key, volume: number, source: found.source, checksum: found.checksum, bytes });
            moves.push(Move { tag: i, segment: found.segment, offset: found.offset, memory: page });
        }
        volume.unpin(wrong.into_iter(), |counters| {
            counters.failed_pages += failed;
            counters.missed_pages += missed;
        });
        if moves.is_empty() {
            continue;
        }
        match shared.breakers.of(number, Direction::Read).admit(moves.len()) {
            Ok(permit) => permits[number] = Some(permit),
            Err(error) => {
                let slots = moves.iter().filter_map(|page| loading[page.tag].take()?.source.pinned());
                volume.unpin(slots, |_| ());
                for page in moves {
                    outcomes[page.tag] = Outcome::Failed(error.clone());
                    memory[page.tag] = Some(page.memory);
                }
                continue;
            }
        }
        let bytes = moves.iter().map(|page| page.memory.bytes()).sum();
        let batch = parts::Batch { bytes, alone: shared.is_alone() };
        let LoadParts { first, held: rest } = parts::of_load(moves, batch);
        first.into_iter().for_each(|part| flights.push(fly(number, part)));
        // Of several volumes the others are what moves meanwhile.
        if volumes.len() == 1 && !rest.is_empty() {
            held = Some((number, rest));
        } else if !rest.is_empty() {
            flights.push(fly(number, rest));
        }
    }
    let mut answers = Answers { outcomes, memory, replaced: Vec::new() };
    // All parts but the one held back are under way after the first poll; each is verified while others still move.
    while let Some(moved) = flights.next().await {
        let mut landed = vec![moved];
        if held.is_some() {
            landed.extend(std::iter::from_fn(|| flights.next().now_or_never().flatten()));
        }
        if flights.is_empty()
            && let Some((number, last)) = held.take()
        {
            flights.push(fly(number, last));
            // Polled once, it is with the engine.
            landed.extend(flights.next().now_or_never().flatten());
        }
        for moved in landed {
            finish(shared, &volumes, moved, &permits, &mut loading, &mut answers);
        }
    }
    let Answers { outcomes, memory, replaced } = answers;
    (PageBatch { outcomes, memory }, replaced)
}

fn finish(
    shared: &Shared,
    volumes: &VolumeList,
    moved: Vec<Moved>,
    permits: &[Option<Permit<'_>>],
    loading: &mut [Option<Loading>],
    answers: &mut Answers,
) {
    let Answers { outcomes, memory, replaced } = answers;
    let mut counts: Vec<(Vec<SlotId>, Counters)> = vec![Default::default(); volumes.len()];
    for page in moved {
        let Some(Loading { key, volume, source, checksum, bytes }) = loading[page.tag].take() else {
            continue;
        };
        let (slots, counters) = &mut counts[volume];
        slots.extend(source.pinned());
        let verified = verify(shared, &page, checksum, source);
        if page.memory.is_some()
            && verified.as_ref().is_err_and(|error| was_replaced(&volumes[volume], &key, source, error))
        {
            replaced.push(page.tag);
            memory[page.tag] = page.memory;
            continue;
        }
        if let Some(permit) = &permits[volume] {
            permit.saw(verified.as_ref().copied());
        }
        outcomes[page.tag] = match verified {
            Ok(()) => {
                counters.hit_pages += 1;
                counters.foreign_hit_pages += u64::from(matches!(source, Source::Other { .. }));
                counters.read_bytes += u64::from(bytes);
                Outcome::Done
            }
            Err(error) => {
                match error.kind() {
                    ErrorKind::Corrupt => {
                        counters.corrupt_pages += 1;
                        tracing::warn!(%key, "a page does not fit its checksum; it is dropped");
                        if let Source::Own(slot) = source {
                            volumes[volume].drop_corrupt(&key, slot);
                        }
                    }
                    ErrorKind::Abandoned => counters.abandoned_pages += 1,
                    _ => counters.failed_pages += 1,
                }
                Outcome::Failed(error.with_key(key))
            }
        };
        memory[page.tag] = page.memory;
    }
    for (volume, (slots, seen)) in volumes.iter().zip(counts) {
        if !slots.is_empty() || seen != Counters::default() {
            volume.unpin(slots.into_iter(), |counters| counters.add(&seen));
        }
    }
}

/// Whether a page of another set was replaced, moved or given up by its writer while it was read.
fn was_replaced(volume: &Volume, key: &PageKey, source: Source, error: &Error) -> bool {
    let Source::Other { set, put } = source else { return false };
    // A segment that was cut before it was removed reads short.
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Io) && !volume.is_corrupt_elsewhere(key, set, &put)
}

fn verify(shared: &Shared, page: &Moved, checksum: u64, source: Source) -> hicache_core::Result<()> {
    page.result.clone()?;
    let Some(memory) = &page.memory else {
        return Err(Error::new(ErrorKind::Abandoned, "the memory of the page did not come back"));
    };
    // Nothing but the checksum tells whether another's slot still had the page.
    let others = matches!(source, Source::Other { .. });
    if !others && !shared.verify && !shared.must_verify(memory) {
        return Ok(());
    }
    let seen = page.sum.map_or_else(|| shared.checksum(memory), Ok)?;
    if seen != checksum {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("checksum {seen:016x} where {checksum:016x} was stored"),
        ));
    }
    Ok(())
}
