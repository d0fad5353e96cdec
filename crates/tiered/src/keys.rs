//! What is there, and taking it away.

use std::sync::Arc;

use hicache_core::hashing::parse_hex32;
use hicache_core::{Error, ListCursor, ListedPage, Listing, Outcome, PageKey, PoolName, Result};

use crate::link::Health;
use crate::shared::Shared;

/// How listings of the two tiers are told apart.
const NEAR: &str = "near ";
const FAR: &str = "far ";

/// Asks the far tier about keys that the near one has not; `None` if it does not say. `remembered` is whether it
/// answers without asking anybody, which says nothing of its health.
async fn far_has<T>(
    shared: &Arc<Shared>,
    asked: impl Future<Output = Result<T>>,
    remembered: bool,
) -> Option<T> {
    match asked.await {
        Ok(found) => {
            shared.heard((!remembered).then_some(Health::Good));
            Some(found)
        }
        Err(error) => {
            tracing::debug!(%error, "the far tier does not say what it has");
            shared.heard(Some(Health::of_error(error.kind())));
            None
        }
    }
}

/// Which of the keys may be in the far tier: none if it is cut off, and none that it lacked a moment ago.
fn askable(shared: &Arc<Shared>, keys: &[PageKey], near: &[bool]) -> Vec<bool> {
    if near.contains(&false) {
        shared.try_far();
    }
    let up = shared.link.is_up();
    keys.iter().zip(near).map(|(key, near)| up && !near && !shared.absent.has(key)).collect()
}

/// The far tier has said that it has not got it.
fn is_absent(shared: &Shared, key: PageKey) {
    shared.sent.forget(&key);
    shared.absent.add(key);
}

pub(crate) async fn exists(shared: &Arc<Shared>, keys: &[PageKey]) -> Result<Vec<bool>> {
    let mut there = shared.near.exists(keys).await?;
    let asked = askable(shared, keys, &there);
    let asked: Vec<usize> = (0..keys.len()).filter(|&i| asked[i]).collect();
    if asked.is_empty() {
        return Ok(there);
    }
    let far_keys: Vec<PageKey> = asked.iter().map(|&i| keys[i]).collect();
    let remembered = shared.far.exists_now(&far_keys).is_some();
    // A far tier that fails has none of them, and nothing is remembered of that.
    let found = far_has(shared, shared.far.exists(&far_keys), remembered).await.unwrap_or_default();
    for (i, found) in asked.into_iter().zip(found) {
        there[i] = found;
        if !found {
            is_absent(shared, keys[i]);
        }
    }
    Ok(there)
}

pub(crate) async fn exists_prefix(shared: &Arc<Shared>, keys: &[PageKey]) -> Result<usize> {
    let near = shared.near.exists(keys).await?;
    let asked = askable(shared, keys, &near);
    // Up to the first key that neither can have.
    let known_end = (0..keys.len()).find(|&i| !near[i] && !asked[i]).unwrap_or(keys.len());
    let asked: Vec<usize> = (0..known_end).filter(|&i| asked[i]).collect();
    let Some(&first) = asked.first() else { return Ok(known_end) };
    let far_keys: Vec<PageKey> = asked.iter().map(|&i| keys[i]).collect();
    // It asks about what it does not remember, up to the first miss.
    let unasked = far_keys.iter().map(|key| shared.far_remembers(key)).find(|known| *known != Some(true));
    let remembered = unasked != Some(None);
    match far_has(shared, shared.far.exists_prefix(&far_keys), remembered).await {
        None => Ok(first),
        Some(found) => {
            let Some(&missing) = asked.get(found) else { return Ok(known_end) };
            is_absent(shared, keys[missing]);
            Ok(missing)
        }
    }
}

pub(crate) async fn delete(shared: &Arc<Shared>, keys: &[PageKey]) -> Result<Vec<Outcome>> {
    let _gate = shared.shut().await;
    for key in keys {
        shared.uploads.remove(key);
        shared.sent.forget(key);
    }
    let near = shared.near.delete(keys).await?;
    let far = shared.far.delete(keys).await?;
    let outcomes = near.into_iter().zip(far).map(|pair| match pair {
        (Outcome::Failed(error), _) | (_, Outcome::Failed(error)) => Outcome::Failed(error),
        (Outcome::Absent, Outcome::Absent) => Outcome::Absent,
        _ => Outcome::Done,
    });
    Ok(outcomes.collect())
}

/// Answers how many pages the tier that had more of them had: nobody counts those that were in both.
pub(crate) async fn clear(shared: &Arc<Shared>) -> Result<u64> {
    let _gate = shared.shut().await;
    shared.uploads.clear();
    shared.sent.forget_all();
    let near = shared.near.clear().await?;
    let far = shared.far.clear().await?;
    Ok(near.max(far))
}

/// The near tier's pages, then those of the far tier that the near one has not.
pub(crate) async fn list(
    shared: &Arc<Shared>,
    prefix: &str,
    cursor: Option<&ListCursor>,
    limit: usize,
) -> Result<Listing> {
    let strange =
        |text: &str| Error::config(format!("{text:?} is no cursor of this storage; start without one"));
    let (tier, inner) = match cursor.map(|cursor| cursor.0.as_str()) {
        None => (NEAR, None),
        Some(text) => match (text.strip_prefix(NEAR), text.strip_prefix(FAR)) {
            (Some(inner), _) => (NEAR, Some(inner)),
            (_, Some(inner)) => (FAR, Some(inner)),
            _ => return Err(strange(text)),
        },
    };
    let inner = inner.filter(|inner| !inner.is_empty()).map(|inner| ListCursor(inner.to_owned()));
    if tier == NEAR {
        let mut listing = shared.near.list(prefix, inner.as_ref(), limit).await?;
        listing.next = Some(match listing.next {
            Some(next) => ListCursor(format!("{NEAR}{}", next.0)),
            None => ListCursor(FAR.to_owned()),
        });
        return Ok(listing);
    }
    let mut listing = shared.far.list(prefix, inner.as_ref(), limit).await?;
    listing.next = listing.next.map(|next| ListCursor(format!("{FAR}{}", next.0)));
    let keys: Vec<Option<PageKey>> = listing.pages.iter().map(key_of).collect();
    let known: Vec<PageKey> = keys.iter().flatten().copied().collect();
    let near = shared.near.exists(&known).await?;
    let mut near = near.into_iter();
    let mut only_far = keys.iter().map(|key| key.is_none() || !near.next().unwrap_or(false));
    listing.pages.retain(|_| only_far.next().unwrap_or(true));
    Ok(listing)
}

/// The key of a listed page: its name is a hash in hexadecimal, or the text that was hashed.
fn key_of(page: &ListedPage) -> Option<PageKey> {
    let pool = PoolName::new(&page.pool).ok()?;
    match parse_hex32(&page.name) {
        Ok(digest) => Some(PageKey::new(pool, digest)),
        Err(_) => PageKey::from_text(&page.name).ok(),
    }
}
