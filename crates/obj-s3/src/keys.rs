//! What is there, and taking it away.

use std::sync::Arc;

use hicache_core::hashing::to_hex;
use hicache_core::{Error, ErrorKind, ListCursor, ListedPage, Listing, Outcome, PageKey, PoolName, Result};
use tokio::time::Instant;

use crate::abreast::abreast;
use crate::endpoint::Part;
use crate::fault::{Fault, FaultKind};
use crate::known::{Asked, Known};
use crate::shared::{Shared, count};

/// Keys that are asked for together at first; then twice as many each time. Of 128 keys all are asked for in 5 rounds,
/// and never more than twice as many as are there, and 8.
const FIRST_WINDOW: usize = 8;
/// Most that one request deletes.
const MOST_DELETED: usize = 1000;

/// What is at a page's place, from what is known or by asking.
pub(crate) async fn look(shared: &Shared, key: &PageKey, deadline: Instant) -> Result<Known, Fault> {
    if let Some(known) = shared.known.get(key) {
        return Ok(known);
    }
    let object = shared.layout.object(key);
    let mut attempts = shared.endpoints.attempts(deadline);
    loop {
        let attempt = attempts.next().await?;
        let asked = shared.known.ask(key);
        count(&shared.counts.heads);
        let known = match attempt.within(shared.stall(), attempt.endpoint.head(&object)).await {
            Ok(described) => {
                let fingerprint = shared.layout.fingerprint();
                let page = described.page.filter(|page| page.namespace == fingerprint);
                let whole =
                    page.is_some_and(|page| described.length.is_none_or(|length| length == page.bytes));
                if whole { Known::Present } else { Known::Bad }
            }
            Err(fault) if fault.kind == FaultKind::Missing => Known::Absent,
            Err(fault) => {
                attempts.failed(attempt, fault)?;
                continue;
            }
        };
        attempt.succeeded();
        asked.learn(known);
        return Ok(known);
    }
}

/// Asks for all of `keys`, many at a time.
async fn ask(shared: &Arc<Shared>, keys: &[PageKey]) -> Vec<Result<bool, Fault>> {
    let known: Vec<Option<Known>> = keys.iter().map(|key| shared.known.get(key)).collect();
    let unknown = keys.iter().zip(&known).filter(|(_, known)| known.is_none()).map(|(key, _)| *key);
    let (of_keys, deadline) = (Arc::clone(shared), shared.load_deadline());
    let asked = abreast(shared.at_a_time(), unknown.collect(), move |key| {
        let shared = Arc::clone(&of_keys);
        async move { look(&shared, &key, deadline).await }
    });
    let mut asked = asked.await.into_iter();
    let lost = || Err(Fault::new(FaultKind::Other, "the question was lost"));
    let mut next = || asked.next().flatten().unwrap_or_else(lost);
    known
        .into_iter()
        .map(|known| known.map_or_else(&mut next, Ok).map(|known| known == Known::Present))
        .collect()
}

pub(crate) async fn exists(shared: &Arc<Shared>, keys: &[PageKey]) -> Result<Vec<bool>> {
    let answers = ask(shared, keys).await.into_iter();
    answers.map(|answer| answer.map_err(|fault| error(shared, "exists", &fault))).collect()
}

/// In windows that double, and end with the one in which the first miss is.
pub(crate) async fn exists_prefix(shared: &Arc<Shared>, keys: &[PageKey]) -> Result<usize> {
    let mut found = 0;
    let mut window = FIRST_WINDOW;
    while found < keys.len() {
        // What is known costs nothing, and a known miss ends it.
        match shared.known.get(&keys[found]) {
            Some(Known::Present) => {
                found += 1;
                continue;
            }
            Some(_) => return Ok(found),
            None => {}
        }
        let end = (found + window).min(keys.len());
        for answer in ask(shared, &keys[found..end]).await {
            match answer {
                Ok(true) => found += 1,
                Ok(false) => return Ok(found),
                Err(fault) => return Err(error(shared, "exists", &fault)),
            }
        }
        window *= 2;
    }
    Ok(found)
}

fn error(shared: &Shared, operation: &'static str, fault: &Fault) -> Error {
    if fault.kind == FaultKind::Refused {
        count(&shared.counts.refused_pages);
    }
    fault.error(operation, &shared.config.bucket, false)
}

pub(crate) async fn delete(shared: &Arc<Shared>, keys: &[PageKey]) -> Result<Vec<Outcome>> {
    shared.writable()?;
    // Before, since answers that are on their way may be old ones then, and after, however it ends: what failed may have
    // been done all the same.
    shared.known.forget(keys);
    let asked: Vec<Asked<'_>> = keys.iter().map(|key| shared.known.ask(key)).collect();
    let outcomes = delete_now(shared, keys).await;
    for (i, key) in keys.iter().enumerate() {
        match outcomes.as_ref().map(|outcomes| &outcomes[i]) {
            Ok(Outcome::Done | Outcome::Absent) => asked[i].changed(Known::Absent),
            Ok(Outcome::Failed(_)) | Err(_) => shared.known.forget(std::slice::from_ref(key)),
        }
    }
    outcomes
}

async fn delete_now(shared: &Arc<Shared>, keys: &[PageKey]) -> Result<Vec<Outcome>> {
    // A store says of every key that it is deleted, so those that are there are found out before. Nothing remembered
    // will do: another machine may have deleted them.
    let mut outcomes = vec![Outcome::Absent; keys.len()];
    let asked = keys.iter().map(|key| async move { there_now(shared, key).await });
    let there = futures::future::join_all(asked).await;
    let mut objects = Vec::new();
    for (i, there) in there.into_iter().enumerate() {
        if there.map_err(|fault| error(shared, "delete", &fault))? {
            objects.push((i, shared.layout.object(&keys[i])));
        }
    }
    for part in objects.chunks(MOST_DELETED) {
        let names: Vec<String> = part.iter().map(|(_, object)| object.clone()).collect();
        let failed = delete_objects(shared, &names).await.map_err(|fault| error(shared, "delete", &fault))?;
        for (i, object) in part {
            let failure = failed.iter().find(|(name, _)| name == object);
            outcomes[*i] = match failure {
                None => Outcome::Done,
                Some((_, reason)) => Outcome::Failed(
                    Error::new(ErrorKind::Io, format!("the store did not delete it: {reason}"))
                        .with_backend(crate::NAME)
                        .with_operation("delete")
                        .with_key(keys[*i]),
                ),
            };
        }
    }
    Ok(outcomes)
}

/// Whether any object is there, ours or not, whatever is known.
async fn there_now(shared: &Shared, key: &PageKey) -> Result<bool, Fault> {
    let object = shared.layout.object(key);
    let mut attempts = shared.endpoints.attempts(shared.store_deadline());
    loop {
        let attempt = attempts.next().await?;
        count(&shared.counts.heads);
        match attempt.within(shared.stall(), attempt.endpoint.head(&object)).await {
            Ok(_) => {
                attempt.succeeded();
                return Ok(true);
            }
            Err(fault) if fault.kind == FaultKind::Missing => {
                attempt.succeeded();
                return Ok(false);
            }
            Err(fault) => attempts.failed(attempt, fault)?,
        }
    }
}

async fn delete_objects(shared: &Shared, names: &[String]) -> Result<Vec<(String, String)>, Fault> {
    let mut attempts = shared.endpoints.attempts(shared.store_deadline());
    loop {
        let attempt = attempts.next().await?;
        match attempt.within(shared.store_stall(), attempt.endpoint.delete(names)).await {
            Ok(failed) => {
                attempt.succeeded();
                return Ok(failed);
            }
            Err(fault) => attempts.failed(attempt, fault)?,
        }
    }
}

async fn list_part(shared: &Shared, start: &str, after: Option<&str>, most: usize) -> Result<Part, Fault> {
    let mut attempts = shared.endpoints.attempts(shared.store_deadline());
    loop {
        let attempt = attempts.next().await?;
        match attempt.within(shared.store_stall(), attempt.endpoint.list(start, after, most)).await {
            Ok(part) => {
                attempt.succeeded();
                return Ok(part);
            }
            Err(fault) => attempts.failed(attempt, fault)?,
        }
    }
}

pub(crate) async fn clear(shared: &Arc<Shared>) -> Result<u64> {
    shared.writable()?;
    // As for some keys: before, and after, however it ends.
    shared.known.forget_all();
    let cleared = clear_now(shared).await;
    shared.known.forget_all();
    cleared
}

async fn clear_now(shared: &Arc<Shared>) -> Result<u64> {
    let mut cleared = 0;
    let mut after: Option<String> = None;
    loop {
        let part = list_part(shared, shared.layout.start(), after.as_deref(), MOST_DELETED).await;
        let part = part.map_err(|fault| error(shared, "clear", &fault))?;
        let next = next_after(&part, after.as_deref());
        // The manifest stays, and so does what is not ours.
        let pages: Vec<String> = part
            .objects
            .into_iter()
            .map(|(object, _)| object)
            .filter(|object| shared.layout.page(object).is_some())
            .collect();
        if !pages.is_empty() {
            let failed =
                delete_objects(shared, &pages).await.map_err(|fault| error(shared, "clear", &fault))?;
            if let Some((object, reason)) = failed.first() {
                let message = format!(
                    "the store did not delete {} objects, {object:?} for one: {reason}",
                    failed.len()
                );
                return Err(Error::new(ErrorKind::Io, message)
                    .with_backend(crate::NAME)
                    .with_operation("clear"));
            }
            cleared += pages.len() as u64;
        }
        match next {
            Some(next) => after = Some(next),
            None => return Ok(cleared),
        }
    }
}

/// Where the next part of a listing begins; `None` if this was the last one, or the store does not go on from where it
/// is told to.
fn next_after(part: &Part, after: Option<&str>) -> Option<String> {
    let last = part.objects.last().filter(|_| part.more).map(|(object, _)| object.as_str())?;
    after.is_none_or(|after| last > after).then(|| last.to_owned())
}

/// Deletes everything of the namespace, the manifest included.
pub(crate) async fn remove_namespace(shared: &Arc<Shared>) -> Result<()> {
    clear(shared).await?;
    let deleted = delete_objects(shared, &[shared.layout.manifest()]).await;
    deleted.map(drop).map_err(|fault| error(shared, "clear", &fault))
}

pub(crate) async fn list(
    shared: &Arc<Shared>,
    prefix: &str,
    cursor: Option<&ListCursor>,
    limit: usize,
) -> Result<Listing> {
    if limit == 0 {
        return Err(Error::config("a listing of at most 0 pages says nothing; ask for at least 1"));
    }
    // Any name may be one, also one that is no page: a part of a listing can end with it.
    if let Some(cursor) = cursor.filter(|cursor| !cursor.0.starts_with(shared.layout.start())) {
        return Err(Error::config(format!("{:?} is no cursor of this storage; start without one", cursor.0)));
    }
    let mut listing = Listing::default();
    let mut after = cursor.map(|cursor| cursor.0.clone());
    loop {
        let part = list_part(shared, shared.layout.start(), after.as_deref(), 1000).await;
        let part = part.map_err(|fault| error(shared, "list", &fault))?;
        let next = next_after(&part, after.as_deref());
        let objects = part.objects.into_iter();
        let mut pages: Vec<(String, PageKey, u64)> = objects
            .filter_map(|(object, bytes)| shared.layout.page(&object).map(|key| (object, key, bytes)))
            .collect();
        // Only of pages whose text matters is the text asked for, and no more than can be shown.
        let is_hash = |key: &PageKey| key.pool != PoolName::TEXT;
        pages.retain(|(_, key, _)| !is_hash(key) || to_hex(&key.digest).starts_with(prefix));
        for chunk in pages.chunks(64) {
            let names = chunk.iter().map(|(object, key, _)| async move {
                if is_hash(key) { Ok(Some(to_hex(&key.digest))) } else { text_of(shared, object, key).await }
            });
            let names = futures::future::join_all(names).await;
            for ((object, key, bytes), name) in chunk.iter().zip(names) {
                let name = name.map_err(|fault| error(shared, "list", &fault))?;
                let Some(name) = name.filter(|name| name.starts_with(prefix)) else { continue };
                if listing.pages.len() == limit {
                    listing.next = after.map(ListCursor);
                    return Ok(listing);
                }
                listing.pages.push(ListedPage { pool: key.pool.to_string(), name, bytes: *bytes });
                after = Some(object.clone());
            }
        }
        match next {
            Some(next) => after = Some(next),
            None => return Ok(listing),
        }
    }
}

/// The text that a page was stored under, else its hash; `None` if it went meanwhile.
async fn text_of(shared: &Shared, object: &str, key: &PageKey) -> Result<Option<String>, Fault> {
    let mut attempts = shared.endpoints.attempts(shared.store_deadline());
    loop {
        let attempt = attempts.next().await?;
        count(&shared.counts.heads);
        match attempt.within(shared.stall(), attempt.endpoint.head(object)).await {
            Ok(described) => {
                attempt.succeeded();
                let name = described.page.and_then(|page| page.name);
                return Ok(Some(name.unwrap_or_else(|| to_hex(&key.digest))));
            }
            Err(fault) if fault.kind == FaultKind::Missing => {
                attempt.succeeded();
                return Ok(None);
            }
            Err(fault) => attempts.failed(attempt, fault)?,
        }
    }
}
