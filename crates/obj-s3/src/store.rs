//! Stores: a page goes out of the leased memory as it is.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hicache_core::{
    Answer, Error, ErrorKind, Outcome, PageBatch, PageKey, PageMemory, PageRequest, Result, StoreOptions,
};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::attempts::Try;
use crate::body::Lent;
use crate::endpoint::PageMetadata;
use crate::fault::{Fault, FaultKind};
use crate::keys::is_there;
use crate::known::Known;
use crate::shared::{Shared, count};

/// Pages from this length on are asked for before they are sent, where nothing is known of them: the answer that they
/// are there costs less than sending them for nothing.
const ASK_FROM_BYTES: usize = 256 << 10;
/// How long a connection that failed may go on reading a page before its memory counts as lost.
const GRACE: Duration = Duration::from_secs(5);

/// Answers a store.
pub(crate) async fn store(
    shared: &Arc<Shared>,
    requests: Vec<PageRequest>,
    options: StoreOptions,
) -> PageBatch {
    if let Err(error) = shared.writable() {
        return PageBatch::failed(requests, &error);
    }
    let mut answer = PageBatch::abandoned(requests.len());
    let stands_for = stand_ins(shared, &requests, options);
    let mut pages = JoinSet::new();
    for (i, request) in requests.into_iter().enumerate() {
        if let Err(error) = shared.check(&request.memory, None) {
            count(&shared.counts.failed_pages);
            answer.outcomes[i] = Outcome::Failed(error);
            answer.memory[i] = Some(request.memory);
        } else if stands_for[i] != i {
            count(&shared.counts.present_pages);
            answer.memory[i] = Some(request.memory);
        } else {
            let shared = Arc::clone(shared);
            pages.spawn(async move {
                let (outcome, memory) =
                    store_page(&shared, request.key, request.name, request.memory, options).await;
                (i, outcome, memory)
            });
        }
    }
    while let Some(joined) = pages.join_next().await {
        let Ok((i, outcome, memory)) = joined else {
            count(&shared.counts.abandoned_pages);
            continue;
        };
        if outcome.error().is_some() {
            count(&shared.counts.failed_pages);
        }
        answer.outcomes[i] = outcome;
        answer.memory[i] = memory;
    }
    for (i, &stands) in stands_for.iter().enumerate().filter(|(i, stands)| i != *stands) {
        answer.outcomes[i] = answer.outcomes[stands].clone();
    }
    answer
}

/// For each page the one of an equal key that is stored: the first, or with overwrite the last, of those that can be.
fn stand_ins(shared: &Shared, requests: &[PageRequest], options: StoreOptions) -> Vec<usize> {
    let mut kept: HashMap<PageKey, usize> = HashMap::new();
    let good = |request: &PageRequest| shared.check(&request.memory, None).is_ok();
    for (i, request) in requests.iter().enumerate().filter(|(_, request)| good(request)) {
        match kept.entry(request.key) {
            Entry::Vacant(entry) => _ = entry.insert(i),
            Entry::Occupied(mut entry) if options.overwrite => _ = entry.insert(i),
            Entry::Occupied(_) => {}
        }
    }
    let stand_in = |(i, request): (usize, &PageRequest)| {
        if good(request) { kept.get(&request.key).copied().unwrap_or(i) } else { i }
    };
    requests.iter().enumerate().map(stand_in).collect()
}

async fn store_page(
    shared: &Shared,
    key: PageKey,
    name: Option<Box<str>>,
    memory: PageMemory,
    options: StoreOptions,
) -> (Outcome, Option<PageMemory>) {
    let lock = shared.put_lock(&key);
    let _alone = lock.lock().await;
    let unknown = shared.known.get(&key).is_none();
    if unknown && !options.overwrite && memory.bytes() >= ASK_FROM_BYTES {
        // Remembers what it finds. Where nothing can be found out, the PUT will tell.
        let _ = is_there(shared, &key).await;
    }
    let known = shared.known.get(&key);
    if known == Some(Known::Present) && !options.overwrite {
        count(&shared.counts.present_pages);
        return (Outcome::Done, Some(memory));
    }
    // What is there and is not ours, or not right, is replaced: nobody can load it.
    let replace = options.overwrite || known == Some(Known::Bad);
    let checksum = match memory.checksum() {
        Ok(checksum) => checksum,
        Err(error) => return (Outcome::Failed(error), Some(memory)),
    };
    let metadata = PageMetadata {
        bytes: memory.bytes() as u64,
        checksum,
        namespace: shared.layout.fingerprint().to_owned(),
        name: name.map(String::from),
    };
    let foreign = memory.is_foreign();
    let (lent, back) = Lent::new(memory);
    let put = put(shared, &shared.layout.object(&key), &lent, &metadata, replace).await;
    drop(lent);
    let memory = come_back(back, foreign).await;
    let fault = match put {
        Ok(stored) => {
            shared.known.set(key, Known::Present);
            match stored {
                true => {
                    count(&shared.counts.stored_pages);
                    shared.counts.written_bytes.fetch_add(metadata.bytes, Ordering::Relaxed);
                }
                false => count(&shared.counts.present_pages),
            }
            return (Outcome::Done, memory);
        }
        Err(fault) => fault,
    };
    if fault.kind == FaultKind::Refused {
        count(&shared.counts.refused_pages);
    }
    if memory.is_none() {
        count(&shared.counts.abandoned_pages);
        let message = format!("a connection still reads the page: {}", fault.message);
        return (Outcome::Failed(Error::new(ErrorKind::Abandoned, message).with_key(key)), None);
    }
    (Outcome::Failed(fault.page_error("store", &shared.config.bucket, key)), memory)
}

/// Waits until no connection reads the memory any more. Memory of somebody else is waited for however long it takes:
/// its owner must not be told to reuse what may still be read. Our own is given up after a while; its lease ends when
/// the connection does.
async fn come_back(back: oneshot::Receiver<PageMemory>, foreign: bool) -> Option<PageMemory> {
    match foreign {
        true => back.await.ok(),
        false => timeout(GRACE, back).await.ok()?.ok(),
    }
}

/// Puts the page; whether it was this that put it, and not there already.
async fn put(
    shared: &Shared,
    object: &str,
    lent: &Lent,
    metadata: &PageMetadata,
    mut replace: bool,
) -> Result<bool, Fault> {
    let mut attempts = shared.endpoints.attempts(shared.store_deadline());
    let mut unsure = false;
    loop {
        let attempt = attempts.next().await?;
        let sent = attempt.endpoint.put_page(object, lent.body(), metadata, replace);
        // A body that does not move is noticed after a part of the time, so that there is time for another try.
        let limit = Duration::from_millis(shared.config.store_timeout_ms / 3).max(shared.stall());
        let fault = match attempt.within(limit, sent).await {
            Ok(()) => {
                attempt.succeeded();
                return Ok(true);
            }
            Err(fault) => fault,
        };
        match fault.kind {
            FaultKind::Exists if !replace => {
                attempt.succeeded();
                // After a try whose answer was lost, what is there may well be what it put.
                return Ok(unsure);
            }
            FaultKind::NotImplemented | FaultKind::Other if leaves_out(&attempt, &mut replace, &fault) => {
                continue;
            }
            FaultKind::Connection | FaultKind::Stalled | FaultKind::Server => unsure = true,
            _ => {}
        }
        attempts.failed(attempt, fault)?;
    }
}

/// A store that does not know a header refuses the whole request. Leaves out what it may not know, and says whether
/// there was something to leave out.
fn leaves_out(attempt: &Try, replace: &mut bool, fault: &Fault) -> bool {
    let refusal = fault.status.is_some_and(|status| status == 501 || status == 400);
    if !refusal {
        return false;
    }
    if attempt.endpoint.sends_checksum.swap(false, Ordering::Relaxed) {
        tracing::info!(code = fault.code, "the store does not take S3's CRC-64/NVMe header; it is left out");
        return true;
    }
    if fault.kind == FaultKind::NotImplemented && !*replace {
        tracing::info!("the store does not know If-None-Match; equal pages may be stored twice");
        *replace = true;
        return true;
    }
    false
}
