//! Stores: the near tier now, the far one in the background.

use std::collections::HashMap;
use std::sync::Arc;

use hicache_core::{Answer, ErrorKind, Outcome, PageBatch, PageKey, PageRequest, Result, StoreOptions};

use crate::counts::{add, count};
use crate::link::Health;
use crate::load::send;
use crate::part::{Answered, Part, Tier};
use crate::shared::Shared;

type Names = Vec<(PageKey, Option<Box<str>>)>;

/// Answers a store.
pub(crate) async fn store(
    shared: &Arc<Shared>,
    requests: Vec<PageRequest>,
    options: StoreOptions,
) -> PageBatch {
    let mut answer = PageBatch::abandoned(requests.len());
    let mut first = Part::new(if options.overwrite { Tier::Far } else { Tier::Near });
    let mut pages: Names = Vec::with_capacity(requests.len());
    for (i, request) in requests.into_iter().enumerate() {
        pages.push((request.key, request.name.clone()));
        match shared.check(&request.memory, None) {
            Ok(()) => {
                if let Err(error) = first.push(i, request.key, request.memory, request.name) {
                    answer.outcomes[i] = Outcome::Failed(error);
                }
            }
            Err(error) => {
                answer.outcomes[i] = Outcome::Failed(error);
                answer.memory[i] = Some(request.memory);
            }
        }
    }
    if options.overwrite {
        overwrite(shared, first, &pages, &mut answer).await;
    } else {
        keep(shared, first, &pages, &mut answer).await;
    }
    answer.outcomes.iter().for_each(|outcome| shared.answered(outcome));
    answer
}

/// Without overwrite: what the near tier took is queued for the far one; what it refused is offered to that at once.
async fn keep(shared: &Arc<Shared>, near: Part, pages: &Names, answer: &mut PageBatch) {
    // Of a page that is there already, the near tier's bytes are the ones to send, not these. So are the first's of
    // equal keys.
    let keys: Vec<PageKey> = pages.iter().map(|(key, _)| *key).collect();
    let there: Option<Vec<bool>> = shared.near.exists_now(&keys).and_then(Result::ok);
    let epoch = shared.epoch();
    let storing = shared.storing.begin(keys);
    let mut first: HashMap<PageKey, usize> = HashMap::new();
    let mut refused = Part::new(Tier::Far);
    for (i, outcome, memory) in near.store(&*shared.near, StoreOptions::default()).await {
        let (key, name) = &pages[i];
        if outcome.is_done() {
            count(&shared.counters.near_stored_pages);
            shared.absent.forget(key);
            if let Some(memory) = &memory {
                let is_first = *first.entry(*key).or_insert(i) == i;
                // Nor where another store of the key, or something that takes it away, came in between.
                let fresh = there.as_ref().is_some_and(|there| !there[i])
                    && shared.still_holds(epoch)
                    && !shared.storing.contested(key);
                if is_first {
                    send(shared, *key, name.clone(), memory, fresh);
                }
            }
        } else if outcome.error().is_some_and(|error| error.kind() != ErrorKind::Config)
            && shared.link.is_up()
            && let Some(memory) = memory
        {
            answer.outcomes[i] = outcome;
            if let Err(error) = refused.push(i, *key, memory, name.clone()) {
                answer.outcomes[i] = Outcome::Failed(error);
            }
            continue;
        }
        answer.outcomes[i] = outcome;
        answer.memory[i] = memory;
    }
    drop(storing);
    for (i, outcome, memory) in store_far(shared, refused, false).await {
        if outcome.is_done() {
            answer.outcomes[i] = outcome;
            shared.absent.forget(&pages[i].0);
        }
        answer.memory[i] = memory;
    }
}

/// With overwrite: the far tier, then the near one, with nothing of an older page on its way. What the far one refuses
/// is not replaced near either; what the near one refuses goes from there.
async fn overwrite(shared: &Arc<Shared>, far: Part, pages: &Names, answer: &mut PageBatch) {
    let _gate = shared.shut().await;
    for (key, _) in pages {
        shared.uploads.remove(key);
        shared.sent.forget(key);
    }
    let mut near = Part::new(Tier::Near);
    // Replaced there and not here: what is here is the old page.
    let mut stale = Vec::new();
    for (i, outcome, memory) in store_far(shared, far, true).await {
        let (key, name) = &pages[i];
        shared.absent.forget(key);
        let replaced = outcome.is_done();
        answer.outcomes[i] = outcome;
        match memory {
            Some(memory) if replaced => {
                if let Err(error) = near.push(i, *key, memory, name.clone()) {
                    answer.outcomes[i] = Outcome::Failed(error);
                    stale.push(i);
                }
            }
            memory => {
                answer.memory[i] = memory;
                if replaced {
                    stale.push(i);
                }
            }
        }
    }
    for (i, outcome, memory) in near.store(&*shared.near, StoreOptions { overwrite: true }).await {
        answer.memory[i] = memory;
        match outcome.is_done() {
            true => count(&shared.counters.near_stored_pages),
            false => stale.push(i),
        }
    }
    for i in stale {
        let deleted = shared.near.delete(&[pages[i].0]).await;
        let error = match deleted.as_deref() {
            Ok([Outcome::Failed(error)]) | Err(error) => error.clone(),
            Ok(_) => continue,
        };
        answer.outcomes[i] = Outcome::Failed(error);
    }
}

async fn store_far(shared: &Arc<Shared>, far: Part, overwrite: bool) -> Vec<Answered> {
    let stored = far.store(&*shared.far, StoreOptions { overwrite }).await;
    shared.heard(Health::of(stored.iter().map(|(_, outcome, _)| outcome)));
    let done = stored.iter().filter(|(_, outcome, _)| outcome.is_done()).count();
    add(&shared.counters.far_stored_pages, done as u64);
    stored
}
