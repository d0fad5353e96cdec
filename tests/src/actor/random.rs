//! Random work, all of it compared.

use std::ops::Range;
use std::time::{Duration, Instant};

use hicache_core::PageKey;
use hicache_testkit::numbered_key;
use serde_json::{Value, json};

use super::commands::{Actor, VERSIONS};
use super::owned::{BLOCK, Change};
use super::pages::{Counts, Page};
use super::{ActorArguments, Commands, Problem, Role};
use crate::scenarios::dice::Dice;

/// Numbers of keys that everybody stores and deletes begin here.
const FIRST_SHARED: u64 = 1 << 33;
/// How many they are.
const SHARED: u64 = 256;
/// Versions of them that are stored.
const SHARED_VERSIONS: u64 = 8;

/// Every page of the shared keys. One in four is longer than the others.
pub(super) fn shared_pages(arguments: &ActorArguments) -> Vec<Page> {
    let bytes = |key: u64| if key % 4 == 3 { 2 * arguments.page_bytes + 100 } else { arguments.page_bytes };
    (0..SHARED).map(|key| Page { number: FIRST_SHARED + key, version: 0, bytes: bytes(key) }).collect()
}

/// A stretch of at most `most` numbers somewhere in `0..end`.
fn stretch(dice: &mut Dice, end: u64, most: u64) -> Range<u64> {
    let first = dice.below(end);
    first..end.min(first + 1 + dice.below(most))
}

/// Works until the time is over or another command waits. In 1,000 steps of a writer `clears` are clears.
pub(super) async fn random(
    actor: &mut Actor,
    seconds: f64,
    seed: u64,
    clears: u64,
    more: &mut Commands,
) -> Result<Value, Problem> {
    let (end, mut dice) = (Instant::now() + Duration::from_secs_f64(seconds), Dice::new(seed));
    let (mut steps, mut loads, mut changes) = (0_u64, Counts::default(), Counts::default());
    let writes = actor.arguments.role == Role::Writer && actor.arguments.owner.is_some();
    while Instant::now() < end && !more.waiting() {
        steps += 1;
        if writes && dice.below(1000) < clears {
            if let Err(error) = actor.clear_owned().await {
                changes.fail(error.to_string());
            }
            continue;
        }
        let outcome = match dice.below(100) {
            0..50 => load(actor, &mut dice, &mut loads).await,
            50..60 => shared(actor, &mut dice, None, &mut loads).await,
            60..64 => look_around(actor, &mut dice).await,
            64..84 if writes => change(actor, &mut dice, Change::Store, &mut changes).await,
            84..88 if writes => change(actor, &mut dice, Change::Delete, &mut changes).await,
            88..94 if writes => shared(actor, &mut dice, Some(Change::Store), &mut changes).await,
            94..96 if writes => shared(actor, &mut dice, Some(Change::Delete), &mut changes).await,
            _ => load(actor, &mut dice, &mut loads).await,
        };
        if let Err(error) = outcome {
            changes.fail(error.to_string());
        }
    }
    Ok(json!({ "steps": steps, "loads": loads.json(), "changes": changes.json() }))
}

async fn load(actor: &mut Actor, dice: &mut Dice, counts: &mut Counts) -> Result<(), Problem> {
    let keys = actor.arguments.keys;
    actor.load_owned(stretch(dice, keys, BLOCK), counts).await.map(|_| ())
}

async fn change(
    actor: &mut Actor,
    dice: &mut Dice,
    change: Change,
    counts: &mut Counts,
) -> Result<(), Problem> {
    let ActorArguments { keys, owners, owner, .. } = actor.arguments;
    let own_blocks = keys / BLOCK / owners;
    let block = dice.below(own_blocks) * owners + owner.unwrap_or_default();
    let part = stretch(dice, BLOCK, BLOCK);
    actor.change(block * BLOCK + part.start..block * BLOCK + part.end, change, counts).await
}

async fn shared(
    actor: &mut Actor,
    dice: &mut Dice,
    change: Option<Change>,
    counts: &mut Counts,
) -> Result<(), Problem> {
    let part = stretch(dice, SHARED, 16);
    let mut pages = shared_pages(&actor.arguments)[part.start as usize..part.end as usize].to_vec();
    match change {
        None => {
            let got = actor.memory.load(&pages, |_| 0..VERSIONS).await?;
            counts.add_got(&got);
            actor.versions(&pages, &got)?;
        }
        Some(Change::Store) => {
            for page in &mut pages {
                page.version = dice.below(SHARED_VERSIONS);
            }
            let overwrite = dice.below(2) == 0;
            counts.add_outcomes(&actor.memory.store(&pages, overwrite).await?);
        }
        Some(Change::Delete) => {
            let keys: Vec<PageKey> = pages.iter().map(|page| numbered_key(page.number)).collect();
            counts.add_outcomes(&actor.storage.delete(&keys).await?);
        }
    }
    Ok(())
}

/// Calls that move no page.
async fn look_around(actor: &mut Actor, dice: &mut Dice) -> Result<(), Problem> {
    match dice.below(8) {
        0 => drop(actor.list().await?),
        1..4 => drop(actor.storage.stat()),
        _ => {
            let part = stretch(dice, SHARED, 64);
            let keys: Vec<PageKey> = part.map(|key| numbered_key(FIRST_SHARED + key)).collect();
            actor.storage.exists(&keys).await?;
        }
    }
    Ok(())
}
