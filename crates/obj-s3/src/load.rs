//! Loads: a body streams into the leased memory, and is compared as it comes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hicache_core::hashing::Checksum;
use hicache_core::{Access, Answer, Error, ErrorKind, Outcome, PageBatch, PageKey, PageMemory, PageRequest};
use http_body_util::BodyExt;
use tokio::time::Instant;

use crate::abreast::abreast;
use crate::answer::Body;
use crate::attempts::Try;
use crate::body::Moved;
use crate::fault::{Fault, FaultKind, shortened};
use crate::known::{Asked, Known};
use crate::shared::{Shared, count};

/// How often a page is got whose bytes are wrong, before it is said that it is corrupt: a wire can err too.
const CORRUPT_TRIES: u32 = 2;

/// Answers a load.
pub(crate) async fn load(shared: &Arc<Shared>, requests: Vec<PageRequest>) -> PageBatch {
    let mut answer = PageBatch::abandoned(requests.len());
    let mut pages = Vec::with_capacity(requests.len());
    let mut places = Vec::with_capacity(requests.len());
    for (i, request) in requests.into_iter().enumerate() {
        match shared.check(&request.memory, Some(Access::Write)) {
            Ok(()) => {
                places.push(i);
                pages.push((request.key, request.memory));
            }
            Err(error) => {
                count(&shared.counts.failed_pages);
                answer.outcomes[i] = Outcome::Failed(error);
                answer.memory[i] = Some(request.memory);
            }
        }
    }
    let (of_pages, deadline) = (Arc::clone(shared), shared.load_deadline());
    let loaded = abreast(shared.at_a_time(), pages, move |(key, mut memory)| {
        let shared = Arc::clone(&of_pages);
        async move {
            let outcome = load_page(&shared, key, &mut memory, deadline).await;
            (outcome, memory)
        }
    });
    for (i, loaded) in places.into_iter().zip(loaded.await) {
        // One that panicked stays `Abandoned`; its memory was dropped with it.
        let Some((outcome, memory)) = loaded else {
            count(&shared.counts.abandoned_pages);
            continue;
        };
        match &outcome {
            Outcome::Done => {
                count(&shared.counts.hit_pages);
                shared.counts.read_bytes.fetch_add(memory.bytes() as u64, Ordering::Relaxed);
            }
            Outcome::Absent => count(&shared.counts.missed_pages),
            // Counted where the reason is known.
            Outcome::Failed(_) => {}
        }
        answer.outcomes[i] = outcome;
        answer.memory[i] = Some(memory);
    }
    answer
}

/// What a try that went well found.
enum Got {
    Page,
    /// A page of another length.
    Length(u64),
    /// An object that no page of ours is.
    Foreign(String),
}

async fn load_page(shared: &Shared, key: PageKey, memory: &mut PageMemory, deadline: Instant) -> Outcome {
    if shared.known.get(&key) == Some(Known::Absent) {
        return Outcome::Absent;
    }
    let bucket = &shared.config.bucket;
    let object = shared.layout.object(&key);
    let mut attempts = shared.endpoints.attempts(deadline);
    let mut corrupt = 0;
    let mut asked = shared.known.ask(&key);
    let fault = loop {
        let attempt = match attempts.next().await {
            Ok(attempt) => attempt,
            Err(fault) => break fault,
        };
        asked = shared.known.ask(&key);
        let fault = match get(shared, &attempt, &object, memory).await {
            Ok(got) => {
                attempt.succeeded();
                return outcome(shared, key, memory, &object, got, &asked);
            }
            Err(fault) => fault,
        };
        match fault.kind {
            FaultKind::Corrupt => {
                corrupt += 1;
                count(&shared.counts.bad_bodies);
            }
            FaultKind::Body => count(&shared.counts.bad_bodies),
            _ => {}
        }
        let is_corrupt = fault.kind == FaultKind::Corrupt && corrupt >= CORRUPT_TRIES;
        if let Err(fault) = attempts.failed(attempt, fault.clone()) {
            break fault;
        }
        if is_corrupt {
            break fault;
        }
    };
    match fault.kind {
        FaultKind::Missing => {
            asked.learn(Known::Absent);
            return Outcome::Absent;
        }
        FaultKind::Corrupt => {
            asked.learn(Known::Bad);
            count(&shared.counts.corrupt_pages);
        }
        FaultKind::Refused => count(&shared.counts.refused_pages),
        _ => count(&shared.counts.failed_pages),
    }
    Outcome::Failed(fault.page_error("load", bucket, key))
}

fn outcome(
    shared: &Shared,
    key: PageKey,
    memory: &PageMemory,
    object: &str,
    got: Got,
    asked: &Asked<'_>,
) -> Outcome {
    match got {
        Got::Page => {
            asked.learn(Known::Present);
            Outcome::Done
        }
        Got::Length(bytes) => {
            count(&shared.counts.failed_pages);
            Outcome::Failed(
                Error::config("the page was stored with another length")
                    .with_backend(crate::NAME)
                    .with_key(key)
                    .with_bytes(memory.bytes() as u64, bytes),
            )
        }
        Got::Foreign(what) => {
            asked.learn(Known::Bad);
            count(&shared.counts.corrupt_pages);
            let message = format!("object {object:?} {what}; the next store of the page replaces it");
            Outcome::Failed(
                Error::new(ErrorKind::Corrupt, message)
                    .with_backend(crate::NAME)
                    .with_operation("load")
                    .with_key(key),
            )
        }
    }
}

async fn get(shared: &Shared, attempt: &Try, object: &str, memory: &mut PageMemory) -> Result<Got, Fault> {
    let moved = Moved::now();
    // One timer for all parts of the answer.
    let got = get_moving(shared, attempt, object, memory, &moved);
    attempt.while_it_moves(shared.stall(), || moved.at(), got).await
}

async fn get_moving(
    shared: &Shared,
    attempt: &Try,
    object: &str,
    memory: &mut PageMemory,
    moved: &Moved,
) -> Result<Got, Fault> {
    let (described, body) = attempt.endpoint.get(object).await?;
    moved.moves();
    let Some(page) = described.page else {
        return Ok(Got::Foreign("is not ours: it has none of our metadata".into()));
    };
    if page.namespace != shared.layout.fingerprint() {
        return Ok(Got::Foreign(format!("is of another namespace, {}", shortened(&page.namespace))));
    }
    if described.length.is_some_and(|length| length != page.bytes) {
        let length = described.length.unwrap_or_default();
        return Ok(Got::Foreign(format!("has {length} bytes and was stored with {}", page.bytes)));
    }
    if page.bytes != memory.bytes() as u64 {
        return Ok(Got::Length(page.bytes));
    }
    let checksum = receive(body, memory, moved).await?;
    if checksum == page.checksum {
        return Ok(Got::Page);
    }
    Err(Fault::new(
        FaultKind::Corrupt,
        format!("checksum {checksum:016x}, and {:016x} was stored", page.checksum),
    ))
}

/// Streams a body into the page's memory. Its checksum, if its length is the page's.
async fn receive(mut body: Body, memory: &mut PageMemory, moved: &Moved) -> Result<u64, Fault> {
    let bytes = memory.bytes();
    let mut checksum = Checksum::new();
    let mut at = 0;
    let wrong =
        |at: usize| Fault::new(FaultKind::Body, format!("{at} bytes came, and {bytes} were announced"));
    while let Some(frame) = body.frame().await {
        moved.moves();
        // The connection broke in the middle.
        let Ok(frame) = frame else { return Err(wrong(at)) };
        let Some(data) = frame.data_ref() else { continue };
        if at + data.len() > bytes {
            return Err(wrong(at + data.len()));
        }
        copy_at(memory, at, data)?;
        checksum.update(data);
        at += data.len();
    }
    if at == bytes { Ok(checksum.finish()) } else { Err(wrong(at)) }
}

/// Copies a part of a page to its place in the pieces.
fn copy_at(memory: &mut PageMemory, at: usize, mut data: &[u8]) -> Result<(), Fault> {
    let mut start = 0;
    for piece in memory.bytes_mut() {
        let piece = piece.map_err(|error| Fault::new(FaultKind::Other, error.to_string()))?;
        let end = start + piece.len();
        let from = at.max(start);
        if from < end && !data.is_empty() && at < end {
            let offset = at.saturating_sub(start);
            let part = data.len().min(piece.len() - offset);
            piece[offset..offset + part].copy_from_slice(&data[..part]);
            data = &data[part..];
        }
        start = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use aws_smithy_types::body::SdkBody;
    use hicache_core::{MemoryStorage, Region, Storage, hashing};

    use super::*;

    /// The length of a body is not always announced: one that ends too early or too late is no page, and the object may be right.
    #[tokio::test]
    async fn a_body_of_another_length_is_no_page() {
        let registered = MemoryStorage::new().register(&Region::allocate(1, 64).unwrap()).unwrap();
        let mut memory = registered.page(0, 40, Access::Write).unwrap();
        for bytes in [0, 1, 39, 40, 41] {
            let body = Body::Sdk(SdkBody::from(vec![7; bytes]));
            let seen = receive(body, &mut memory, &Moved::now()).await.map_err(|fault| fault.kind);
            let wanted = if bytes == 40 { Ok(hashing::checksum(&[7; 40])) } else { Err(FaultKind::Body) };
            assert_eq!(seen, wanted, "{bytes} bytes");
        }
    }

    #[test]
    fn parts_of_any_length_land_where_they_belong() {
        let registered = MemoryStorage::new().register(&Region::allocate(4, 64).unwrap()).unwrap();
        let whole: Vec<u8> = (0..40).collect();
        for frame in 1..=40 {
            let piece =
                |(slot, bytes): (usize, usize)| registered.piece(slot, 0, bytes, Access::Write).unwrap();
            let mut memory =
                PageMemory::from_pieces([1, 20, 3, 16].into_iter().enumerate().map(piece)).unwrap();
            let mut at = 0;
            for part in whole.chunks(frame) {
                copy_at(&mut memory, at, part).unwrap();
                at += part.len();
            }
            let mut seen = vec![0; 40];
            memory.copy_to(&mut seen).unwrap();
            assert_eq!(seen, whole, "frames of {frame}");
        }
    }
}
