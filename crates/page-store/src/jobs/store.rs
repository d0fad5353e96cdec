//! Stores: plan, make room, sum and write in parts, commit.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::future::join_all;
use hicache_core::{
    Direction, Error, ErrorKind, Outcome, PageBatch, PageKey, PageMemory, PageRequest, Result, StoreOptions,
};

use super::moves::{Move, Moved};
use super::{Permit, Progress, Shared, parts};
use crate::catalog::SlotId;
use crate::format::slot_bytes;
use crate::set::SegmentFile;
use crate::volume::{Commit, CommitOutcome, Volume};

/// Most pages that take slots at once.
const WAVE: usize = 128;

/// A page to be stored.
struct Storing {
    at: usize,
    key: PageKey,
    bytes: u32,
    memory: PageMemory,
    name: Option<Box<str>>,
}

/// What became of it.
struct Stored {
    at: usize,
    result: Result<()>,
    memory: Option<PageMemory>,
}

/// Stores pages; answers each.
pub(crate) async fn store(
    shared: &Shared,
    requests: Vec<PageRequest>,
    options: StoreOptions,
    progress: &Progress,
) -> PageBatch {
    let checked: Vec<Result<u32>> = requests.iter().map(|request| shared.check(request)).collect();
    let leaders = leaders(&requests, &checked, options);
    let mut outcomes: Vec<Outcome> = requests.iter().map(|_| Outcome::Done).collect();
    let mut memory: Vec<Option<PageMemory>> = requests.iter().map(|_| None).collect();
    let mut groups: BTreeMap<(usize, u32), Vec<Storing>> = BTreeMap::new();
    let present = if options.overwrite { vec![false; requests.len()] } else { present(shared, &requests) };
    let home = |at: usize| present[at].then(|| shared.volume_of(&requests[at].key));
    let homes: Vec<Option<usize>> = (0..requests.len()).map(home).collect();
    let (mut failed, mut there) = (0, 0);
    for (at, (request, checked)) in requests.into_iter().zip(checked).enumerate() {
        match checked {
            Ok(bytes) if leaders[at] == at && !present[at] => {
                let group = groups.entry((shared.volume_of(&request.key), slot_bytes(bytes))).or_default();
                group.push(Storing {
                    at,
                    key: request.key,
                    bytes,
                    memory: request.memory,
                    name: request.name,
                });
                continue;
            }
            Ok(_) => there += 1,
            Err(error) => {
                failed += 1;
                outcomes[at] = Outcome::Failed(error);
            }
        }
        memory[at] = Some(request.memory);
    }
    shared.volumes.now()[0].count(|counters| {
        counters.failed_pages += failed;
        counters.present_pages += there;
    });
    let (permits, refused) = admit(shared, &mut groups);
    let groups = groups.into_iter().map(|((number, size), pages)| {
        let permit = &permits[&number];
        async move {
            let _waiting = progress.wait_for(number, Direction::Write);
            store_in(shared, permit, number, size, pages, options, progress).await
        }
    });
    for stored in join_all(groups).await.into_iter().flatten().chain(refused) {
        memory[stored.at] = stored.memory;
        if let Err(error) = stored.result {
            outcomes[stored.at] = Outcome::Failed(error);
        }
    }
    // What was there already, another batch may have stored just now: the answer waits until it is on the disk as well.
    let volumes = shared.volumes.now();
    for (number, volume) in volumes.iter().enumerate().filter(|(_, volume)| volume.is_group()) {
        let here: Vec<usize> =
            (0..outcomes.len()).filter(|&at| homes[at] == Some(number) && outcomes[at].is_done()).collect();
        if !here.is_empty()
            && let Err(error) = volume.settle().await
        {
            here.into_iter().for_each(|at| outcomes[at] = Outcome::Failed(error.clone()));
        }
    }
    // Equal keys share the fate of the one that was stored.
    for at in 0..outcomes.len() {
        if leaders[at] != at && !present[at] && outcomes[at].is_done() {
            outcomes[at] = outcomes[leaders[at]].clone();
        }
    }
    PageBatch { outcomes, memory }
}

/// Stores pages of one size in one volume, if it is where it was; tells the permit what came of it.
async fn store_in(
    shared: &Shared,
    permit: &Permit<'_>,
    number: usize,
    size: u32,
    pages: Vec<Storing>,
    options: StoreOptions,
    progress: &Progress,
) -> Vec<Stored> {
    let mut there = shared.volumes.now()[number].ensure_there();
    if there.is_err() && permit.is_trial() {
        there = shared.bring_back(number).await;
    }
    if let Err(error) = there {
        let mut stored = Vec::with_capacity(pages.len());
        permit.root_is_gone(&error);
        shared.volumes.now()[number].count(|counters| counters.failed_pages += pages.len() as u64);
        fail(pages, &error, &mut stored);
        return stored;
    }
    let volume = Arc::clone(&shared.volumes.now()[number]);
    let stored = store_group(shared, &volume, size, pages, options, progress).await;
    for page in &stored {
        permit.saw(page.result.as_ref().copied());
    }
    // What fails may fail because the root is gone.
    if stored.iter().any(|page| page.result.is_err())
        && let Err(error) = volume.look_whether_there()
    {
        permit.root_is_gone(&error);
    }
    stored
}

/// Lets the batch through to its volumes, but for those whose medium takes no writes: their groups are answered.
fn admit<'a>(
    shared: &'a Shared,
    groups: &mut BTreeMap<(usize, u32), Vec<Storing>>,
) -> (BTreeMap<usize, Permit<'a>>, Vec<Stored>) {
    let mut pages: BTreeMap<usize, usize> = BTreeMap::new();
    for ((volume, _), group) in groups.iter() {
        *pages.entry(*volume).or_default() += group.len();
    }
    let (mut permits, mut refused) = (BTreeMap::new(), Vec::new());
    for (number, pages) in pages {
        match shared.breakers.of(number, Direction::Write).admit(pages) {
            Ok(permit) => _ = permits.insert(number, permit),
            Err(error) => {
                let theirs = groups.extract_if(.., |(volume, _), _| *volume == number);
                theirs.for_each(|(_, group)| fail(group, &error, &mut refused));
            }
        }
    }
    (permits, refused)
}

/// For each request the one of its key that is stored: of those that can be, the first, or with overwrite the last.
fn leaders(requests: &[PageRequest], checked: &[Result<u32>], options: StoreOptions) -> Vec<usize> {
    let mut leader: HashMap<&PageKey, usize> = HashMap::with_capacity(requests.len());
    for (at, (request, _)) in
        requests.iter().zip(checked).enumerate().filter(|(_, (_, checked))| checked.is_ok())
    {
        let chosen = leader.entry(&request.key).or_insert(at);
        if options.overwrite {
            *chosen = at;
        }
    }
    requests.iter().enumerate().map(|(at, request)| leader.get(&request.key).copied().unwrap_or(at)).collect()
}

fn present(shared: &Shared, requests: &[PageRequest]) -> Vec<bool> {
    let keys: Vec<&PageKey> = requests.iter().map(|request| &request.key).collect();
    shared.exists(&keys)
}

/// Stores pages of one size in one volume. From the end of the list to its front: where not all fit, the head of the
/// chain is what stays.
async fn store_group(
    shared: &Shared,
    volume: &Arc<Volume>,
    size: u32,
    mut pages: Vec<Storing>,
    options: StoreOptions,
    progress: &Progress,
) -> Vec<Stored> {
    let mut stored = Vec::with_capacity(pages.len());
    while !pages.is_empty() {
        volume.rotate_if_long().await;
        let released = volume.released();
        let slots = match volume.make_room(size, pages.len().min(WAVE) as u64) {
            Ok(0) => {
                // Every slot is in some operation's hands. Some will come back, unless those are stuck: then the
                // memory, which nobody has begun to use, goes back before the batch counts as lost itself.
                let wait = progress.last() + shared.io_timeout / 2;
                if tokio::time::timeout_at(wait.into(), released).await.is_ok() {
                    continue;
                }
                let error =
                    Error::new(ErrorKind::Unavailable, "every slot is in use by operations that are stuck")
                        .with_backend("page-store")
                        .with_retryable(true);
                volume.count(|counters| counters.failed_pages += pages.len() as u64);
                fail(pages, &error, &mut stored);
                return stored;
            }
            Ok(room) => volume.take(size, room as usize),
            Err(error) => {
                volume.count(|counters| counters.failed_pages += pages.len() as u64);
                fail(pages, &error, &mut stored);
                return stored;
            }
        };
        let wave = pages.split_off(pages.len() - slots.len().min(pages.len()));
        store_wave(shared, volume, wave, slots, options, progress, &mut stored).await;
    }
    stored
}

fn fail(pages: Vec<Storing>, error: &Error, stored: &mut Vec<Stored>) {
    stored.extend(pages.into_iter().map(|page| Stored {
        at: page.at,
        result: Err(error.clone()),
        memory: Some(page.memory),
    }));
}

async fn store_wave(
    shared: &Shared,
    volume: &Arc<Volume>,
    wave: Vec<Storing>,
    slots: Vec<(SlotId, Arc<SegmentFile>, u64)>,
    options: StoreOptions,
    progress: &Progress,
    stored: &mut Vec<Stored>,
) {
    let mut commits = Vec::with_capacity(wave.len());
    let mut moves = Vec::with_capacity(wave.len());
    for (page, (slot, segment, offset)) in wave.into_iter().zip(slots) {
        let tag = commits.len();
        moves.push(Move { tag, segment: Arc::clone(&segment), offset, memory: page.memory });
        let commit =
            Commit { key: page.key, pool: 0, slot, bytes: page.bytes, checksum: 0, name: page.name, segment };
        commits.push((page.at, commit));
    }
    let bytes = moves.iter().map(|page| page.memory.bytes()).sum();
    let batch = parts::Batch { bytes, alone: shared.is_alone() };
    let parts = parts::of_store(moves, batch).into_iter().map(|part| write_part(shared, part, progress));
    // Each part is summed when it is first polled, while the parts before it are being written.
    let mut written: Vec<Option<Written>> = commits.iter().map(|_| None).collect();
    for page in join_all(parts).await.into_iter().flatten() {
        let tag = page.moved.tag;
        written[tag] = Some(page);
    }
    let (mut ready, mut waiting, mut unused) = (Vec::new(), Vec::new(), Vec::new());
    let mut failed = 0;
    for ((at, mut commit), page) in commits.into_iter().zip(written) {
        let Some(page) = page else { continue };
        let result = page.moved.result.and_then(|()| volume.pool(commit.key.pool));
        let result = match (result, page.checksum) {
            (Ok(pool), Ok(checksum)) => {
                (commit.pool, commit.checksum) = (pool, checksum);
                waiting.push((at, page.moved.memory));
                ready.push(commit);
                continue;
            }
            (Err(error), _) | (_, Err(error)) => Err(error.with_key(commit.key)),
        };
        failed += 1;
        // A slot whose write was lost may still be written to: nobody gets it again.
        if !page.moved.lost {
            unused.push(commit.slot);
        }
        stored.push(Stored { at, result, memory: page.moved.memory });
    }
    volume.give_back(unused.into_iter());
    let pages = ready.len() as u64;
    let committed =
        if ready.is_empty() { Ok(Vec::new()) } else { volume.commit(ready, options.overwrite).await };
    if committed.is_err() {
        failed += pages;
    }
    volume.count(|counters| counters.failed_pages += failed);
    let result: Result<()> = committed.map(|_: Vec<CommitOutcome>| ());
    stored.extend(waiting.into_iter().map(|(at, memory)| Stored { at, result: result.clone(), memory }));
}

struct Written {
    moved: Moved,
    checksum: Result<u64>,
}

async fn write_part(shared: &Shared, moves: Vec<Move>, progress: &Progress) -> Vec<Written> {
    let mut checksums: HashMap<usize, Result<u64>> =
        moves.iter().map(|page| (page.tag, shared.checksum(&page.memory))).collect();
    let moved = shared.move_pages(Direction::Write, moves, progress).await;
    moved
        .into_iter()
        .map(|moved| {
            let checksum = checksums
                .remove(&moved.tag)
                .unwrap_or_else(|| Err(Error::new(ErrorKind::Unexpected, "a page came back twice")));
            Written { moved, checksum }
        })
        .collect()
}
