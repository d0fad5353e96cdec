//! Stores: a page goes out of the leased memory as it is.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hicache_core::{
    Answer, Error, ErrorKind, Outcome, PageBatch, PageKey, PageMemory, PageRequest, Result, StoreOptions,
};
use tokio::time::{Instant, timeout_at};

use crate::abreast::abreast;
use crate::attempts::Try;
use crate::body::Lent;
use crate::fault::{Fault, FaultKind};
use crate::keys::look;
use crate::known::Known;
use crate::metadata::PageMetadata;
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
    let mut pages = Vec::with_capacity(requests.len());
    let mut places = Vec::with_capacity(requests.len());
    for (i, request) in requests.into_iter().enumerate() {
        if let Err(error) = shared.check(&request.memory, None) {
            count(&shared.counts.failed_pages);
            answer.outcomes[i] = Outcome::Failed(error);
            answer.memory[i] = Some(request.memory);
        } else if stands_for[i] != i {
            count(&shared.counts.present_pages);
            answer.memory[i] = Some(request.memory);
        } else {
            places.push(i);
            pages.push(request);
        }
    }
    // One for everything that is to be done: waiting for others, asking, sending.
    let (of_pages, deadline) = (Arc::clone(shared), shared.store_deadline());
    let stored = abreast(shared.at_a_time(), pages, move |request| {
        let shared = Arc::clone(&of_pages);
        async move { store_page(&shared, request, options, deadline).await }
    });
    for (i, stored) in places.into_iter().zip(stored.await) {
        let Some((outcome, memory)) = stored else {
            count(&shared.counts.abandoned_pages);
            continue;
        };
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
    PageRequest { key, memory, name }: PageRequest,
    options: StoreOptions,
    deadline: Instant,
) -> (Outcome, Option<PageMemory>) {
    let bucket = &shared.config.bucket;
    let lock = shared.put_lock(&key);
    let Ok(_alone) = timeout_at(deadline, lock.lock()).await else {
        count(&shared.counts.failed_pages);
        let fault = Fault::new(FaultKind::Late, "another store of the page is under way");
        return (Outcome::Failed(fault.page_error("store", bucket, key)), Some(memory));
    };
    let mut known = shared.known.get(&key);
    if known.is_none() && !options.overwrite && memory.bytes() >= ASK_FROM_BYTES {
        // Where nothing can be found out, the PUT will tell.
        known = look(shared, &key, deadline.min(shared.load_deadline())).await.ok();
    }
    if known == Some(Known::Present) && !options.overwrite {
        count(&shared.counts.present_pages);
        return (Outcome::Done, Some(memory));
    }
    // What is there and is not ours, or not right, is replaced: nobody can load it.
    let replace = options.overwrite || known == Some(Known::Bad);
    let checksum = match memory.checksum() {
        Ok(checksum) => checksum,
        Err(error) => {
            count(&shared.counts.failed_pages);
            return (Outcome::Failed(error), Some(memory));
        }
    };
    let metadata = PageMetadata {
        bytes: memory.bytes() as u64,
        checksum,
        namespace: shared.layout.fingerprint().to_owned(),
        name: name.map(String::from),
    };
    let lent = Lent::new(memory);
    let asked = shared.known.ask(&key);
    let put = put(shared, &shared.layout.object(&key), &lent, &metadata, replace, deadline).await;
    let memory = lent.end(GRACE).await;
    if memory.is_none() {
        count(&shared.counts.abandoned_pages);
    }
    let fault = match put {
        Ok(stored) => {
            asked.changed(Known::Present);
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
    // It may have been stored all the same; but what was bad is to be replaced until that is sure.
    match known {
        Some(Known::Bad) => asked.changed(Known::Bad),
        _ => shared.known.forget(&[key]),
    }
    if memory.is_none() {
        let message = format!("a connection still reads the page: {}", fault.message);
        return (Outcome::Failed(Error::new(ErrorKind::Abandoned, message).with_key(key)), None);
    }
    count(match fault.kind {
        FaultKind::Refused => &shared.counts.refused_pages,
        _ => &shared.counts.failed_pages,
    });
    (Outcome::Failed(fault.page_error("store", bucket, key)), memory)
}

/// Puts the page; whether it was this that put it, and not there already.
async fn put(
    shared: &Shared,
    object: &str,
    lent: &Lent,
    metadata: &PageMetadata,
    mut replace: bool,
    deadline: Instant,
) -> Result<bool, Fault> {
    let mut attempts = shared.endpoints.attempts(deadline);
    let mut unsure = false;
    loop {
        let attempt = attempts.next().await?;
        let with_checksum = attempt.endpoint.sends_checksum.load(Ordering::Relaxed);
        let sent = attempt.endpoint.put_page(object, lent, metadata, replace, with_checksum);
        // A body that does not move is noticed after a part of the time, so that there is time for another try. One
        // that does goes on: a slow line is no fault of the store's.
        let fault = match attempt.while_it_moves(shared.store_stall(), || lent.moved(), sent).await {
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
            FaultKind::NotImplemented | FaultKind::Other
                if leaves_out(&attempt, with_checksum, &mut replace, &fault) =>
            {
                continue;
            }
            FaultKind::Connection | FaultKind::Stalled | FaultKind::Server | FaultKind::Unready => {
                unsure = true
            }
            _ => {}
        }
        attempts.failed(attempt, fault)?;
    }
}

/// A store that does not know a header refuses the whole request. Leaves out what it may not know, and says whether
/// there was something to leave out in the try that it refused.
fn leaves_out(attempt: &Try, with_checksum: bool, replace: &mut bool, fault: &Fault) -> bool {
    let refusals = ["InvalidArgument", "InvalidRequest", "NotImplemented"];
    let refuses = fault.status == Some(501)
        || fault.code.as_deref().is_some_and(|code| fault.status == Some(400) && refusals.contains(&code));
    if !refuses {
        return false;
    }
    if with_checksum {
        if attempt.endpoint.sends_checksum.swap(false, Ordering::Relaxed) {
            tracing::info!(
                code = fault.code,
                "the store does not take S3's CRC-64/NVMe header; it is left out"
            );
        }
        return true;
    }
    if fault.kind == FaultKind::NotImplemented && !*replace {
        tracing::info!("the store does not know If-None-Match; equal pages may be stored twice");
        *replace = true;
        return true;
    }
    false
}
