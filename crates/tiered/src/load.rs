//! Loads: the near tier, then the far one for what is missing.

use std::sync::Arc;

use hicache_core::{
    Access, Answer, ErrorKind, Outcome, PageBatch, PageKey, PageMemory, PageRequest, StoreOptions,
};

use crate::counts::{add, count};
use crate::link::Health;
use crate::part::{Part, Tier};
use crate::shared::Shared;
use crate::uploads::Waiting;

/// Answers a load.
pub(crate) async fn load(shared: &Arc<Shared>, requests: Vec<PageRequest>) -> PageBatch {
    let mut answer = PageBatch::abandoned(requests.len());
    let epoch = shared.epoch();
    let mut near = Part::new(Tier::Near);
    let mut pages: Vec<(PageKey, Option<Box<str>>)> = Vec::with_capacity(requests.len());
    for (i, request) in requests.into_iter().enumerate() {
        pages.push((request.key, request.name));
        match shared.check(&request.memory, Some(Access::Write)) {
            Ok(()) => {
                if let Err(error) = near.push(i, request.key, request.memory, None) {
                    answer.outcomes[i] = Outcome::Failed(error);
                }
            }
            Err(error) => {
                answer.outcomes[i] = Outcome::Failed(error);
                answer.memory[i] = Some(request.memory);
            }
        }
    }
    let mut far = Part::new(Tier::Far);
    for (i, outcome, memory) in near.load(&*shared.near).await {
        if outcome.is_done() {
            count(&shared.counters.near_hit_pages);
        } else if let Some(memory) = memory {
            match ask_far(shared, &outcome, &pages[i].0) {
                true => {
                    if let Err(error) = far.push(i, pages[i].0, memory, None) {
                        answer.outcomes[i] = Outcome::Failed(error);
                        continue;
                    }
                }
                false => answer.memory[i] = Some(memory),
            }
            answer.outcomes[i] = outcome;
            continue;
        }
        answer.outcomes[i] = outcome;
        answer.memory[i] = memory;
    }
    if !far.is_empty() {
        load_far(shared, far, &pages, epoch, &mut answer).await;
    }
    for (i, outcome) in answer.outcomes.iter().enumerate() {
        match outcome {
            Outcome::Done => add(
                &shared.counters.read_bytes,
                answer.memory[i].as_ref().map_or(0, |memory| memory.bytes() as u64),
            ),
            Outcome::Absent => count(&shared.counters.missed_pages),
            Outcome::Failed(_) => shared.answered(outcome),
        }
    }
    answer
}

/// Whether the far tier may have what the near one has not.
fn ask_far(shared: &Arc<Shared>, near: &Outcome, key: &PageKey) -> bool {
    // A page of another length is the caller's mistake, and there all the same.
    if near.error().is_some_and(|error| error.kind() == ErrorKind::Config) {
        return false;
    }
    let asks = shared.link.is_up() && !shared.absent.has(key);
    if !asks {
        count(&shared.counters.far_skipped_pages);
        shared.try_far();
    }
    asks
}

async fn load_far(
    shared: &Arc<Shared>,
    far: Part,
    pages: &[(PageKey, Option<Box<str>>)],
    epoch: u64,
    answer: &mut PageBatch,
) {
    // What the far tier remembers to be missing it answers without asking anybody: that says nothing of its health.
    let remembered: Vec<usize> =
        far.places().iter().copied().filter(|&i| shared.far_remembers(&pages[i].0) == Some(false)).collect();
    let loaded = far.load(&*shared.far).await;
    let asked = loaded
        .iter()
        .filter(|(i, outcome, _)| !(matches!(outcome, Outcome::Absent) && remembered.contains(i)));
    shared.heard(Health::of(asked.map(|(_, outcome, _)| outcome)));
    for (i, outcome, memory) in loaded {
        let (key, name) = &pages[i];
        match outcome {
            Outcome::Done => {
                count(&shared.counters.far_hit_pages);
                if let Some(memory) = &memory {
                    if shared.still_holds(epoch) {
                        shared.sent.add(*key);
                    }
                    fill(shared, *key, name.clone(), memory, epoch);
                }
                // What was wrong with the near copy, if there was one, is of no concern any more.
                if answer.outcomes[i].error().is_some_and(|error| error.kind() == ErrorKind::Corrupt) {
                    count(&shared.counters.corrupt_pages);
                }
                answer.outcomes[i] = Outcome::Done;
            }
            Outcome::Absent => {
                shared.sent.forget(key);
                shared.absent.add(*key);
            }
            Outcome::Failed(error) => {
                if error.kind() == ErrorKind::Corrupt {
                    // The next store shall replace it there.
                    shared.sent.forget(key);
                }
                match error.kind() {
                    // The page is there and can't be had: that is said, unless the near tier has said worse.
                    ErrorKind::Corrupt | ErrorKind::Config if answer.outcomes[i].error().is_none() => {
                        answer.outcomes[i] = Outcome::Failed(error);
                    }
                    _ => {
                        tracing::debug!(%error, "the far tier failed a page");
                        count(&shared.counters.far_failed_pages);
                        if memory.is_none() {
                            // Its memory is lost too, and only that explains why.
                            answer.outcomes[i] = Outcome::Failed(error);
                        }
                    }
                }
            }
        }
        answer.memory[i] = memory;
    }
}

/// Keeps near what came from afar, behind the caller's back.
fn fill(shared: &Arc<Shared>, key: PageKey, name: Option<Box<str>>, memory: &PageMemory, epoch: u64) {
    let Some(staged) = shared.staging.copy(memory) else {
        count(&shared.counters.unfilled_pages);
        return;
    };
    let shared = Arc::clone(shared);
    let running = shared.calls.background();
    tokio::spawn(async move {
        let gate = shared.gate().await;
        // A page that was deleted or replaced since must not come back.
        let done = shared.still_holds(epoch) && {
            let (memory, slot) = staged.into_parts();
            let mut part = Part::new(Tier::Near);
            let pushed = memory.is_some_and(|memory| part.push(0, key, memory, name).is_ok());
            let stored = part.store(&*shared.near, StoreOptions::default()).await;
            let done = pushed && stored.iter().all(|(_, outcome, _)| outcome.is_done());
            drop(stored);
            drop(slot);
            done
        };
        count(if done { &shared.counters.filled_pages } else { &shared.counters.unfilled_pages });
        drop(gate);
        drop(running);
    });
}

/// Queues a page for the far tier; `copy` is made from `memory` if there is room.
pub(crate) fn send(
    shared: &Arc<Shared>,
    key: PageKey,
    name: Option<Box<str>>,
    memory: &PageMemory,
    copy: bool,
) {
    if shared.sent.has(&key) {
        return;
    }
    let staged = if copy { shared.staging.copy(memory) } else { None };
    let waiting = Waiting { bytes: memory.bytes(), name, staged, tries: 0 };
    if !shared.uploads.push(key, waiting) {
        count(&shared.counters.unsent_pages);
    }
    shared.try_far();
}
