//! Cases: threads, dropped handles, close.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hicache_core::{ErrorKind, Outcome, PageRequest, StorageStat, StoreOptions};

use super::run::{Failure, Verdict, leases_end, on_thread, refused, region_ends, together};
use super::storage_ground::{Bench, Ground, PAGE, Page, complete, failed};
use crate::content::{mix, numbered_key};

fn pages(numbers: std::ops::Range<u64>) -> Vec<Page> {
    numbers.map(|number| Page::new(numbered_key(number), 1)).collect()
}

pub(super) async fn counts(ground: &Ground) -> Verdict {
    let bench = ground.bench(8, PAGE)?;
    let before = ground.storage().stat();
    bench.store(&pages(0..6), false).await?;
    bench.store(&pages(4..8), false).await?;
    bench.load(&pages(0..5)).await?;
    bench.load_absent(&pages(20..23)).await?;
    let after = ground.storage().stat();
    let grown = |count: fn(&StorageStat) -> u64| count(&after) - count(&before);
    let bytes = PAGE as u64;
    ensure_eq!(after.pages, 8, "pages");
    ensure_eq!(after.page_bytes, 8 * bytes, "page_bytes");
    ensure_eq!(grown(|stat| stat.stored_pages), 8, "stored_pages");
    ensure_eq!(grown(|stat| stat.present_pages), 2, "present_pages");
    ensure_eq!(grown(|stat| stat.hit_pages), 5, "hit_pages");
    ensure_eq!(grown(|stat| stat.missed_pages), 3, "missed_pages");
    ensure_eq!(grown(|stat| stat.read_bytes), 5 * bytes, "read_bytes");
    ensure_eq!(grown(|stat| stat.written_bytes), 8 * bytes, "written_bytes");
    let bad =
        grown(|stat| stat.corrupt_pages + stat.failed_pages + stat.abandoned_pages + stat.evicted_pages);
    ensure_eq!(bad, 0, "pages counted as corrupt, failed, abandoned or evicted");
    let wrong = Page { bytes: PAGE - 1, ..pages(0..1)[0] };
    failed(&bench.try_load(&[wrong]).await?, 0, ErrorKind::Config, "load of another length")?;
    let last = ground.storage().stat();
    ensure_eq!(last.failed_pages, after.failed_pages + 1, "failed_pages after a load of another length");
    ensure_eq!(
        (last.hit_pages, last.missed_pages),
        (after.hit_pages, after.missed_pages),
        "hits and misses after it"
    );
    if ground.traits.deletes {
        ground.storage().delete(&[numbered_key(0)]).await?;
        ensure_eq!(ground.storage().stat().pages, 7, "pages after a delete");
    }
    Ok(())
}

const KEYS: u64 = 12;
const BATCH: usize = 4;
const THREADS: u64 = 4;
const ROUNDS: u64 = 60;

/// Every thread stores versions of the same few keys and loads them. Each loaded page must be, whole, one version
/// that was submitted before its load was answered; when all is quiet, every key must still be there.
pub(super) async fn threads(ground: &Ground) -> Verdict {
    // Versions are drawn from one counter, so a version at or above it was never stored.
    let versions = Arc::new(AtomicU64::new(1));
    let mut running = Vec::new();
    for thread in 0..THREADS {
        let bench = ground.bench(BATCH, PAGE)?;
        let versions = Arc::clone(&versions);
        running.push(on_thread(move || hammer(&bench, thread, &versions)));
    }
    let mut loaded = 0;
    // The threads are started as their futures are first polled, so they are polled together.
    for result in together(running).await {
        loaded += result?;
    }
    ensure!(loaded > 0, "no page was ever found by {THREADS} threads of {ROUNDS} rounds");
    let bench = ground.bench(1, PAGE)?;
    for number in 0..KEYS {
        let batch = bench.try_load(&[Page::new(numbered_key(number), 0)]).await?;
        let outcome = &batch.outcomes[0];
        ensure!(outcome.is_done(), "key {number} was stored and never deleted, and is {outcome:?}");
    }
    Ok(())
}

fn hammer(bench: &Bench, thread: u64, versions: &AtomicU64) -> Result<u64, Failure> {
    let mut loaded = 0;
    for round in 0..ROUNDS {
        let choice = |i: usize| mix(thread << 32 | round << 8 | i as u64) % KEYS;
        let mut chosen: Vec<_> = (0..BATCH).map(|i| Page::new(numbered_key(choice(i)), 0)).collect();
        for page in &mut chosen {
            page.version = versions.fetch_add(1, Ordering::Relaxed);
        }
        let batch = bench
            .storage
            .store(bench.full_batch(&chosen)?, StoreOptions { overwrite: round % 2 == 0 })
            .wait();
        complete(&batch, BATCH, "store")?;
        ensure!(batch.outcomes.iter().all(Outcome::is_done), "store beside others: {:?}", batch.outcomes);
        drop(batch);
        let batch = bench.storage.load(bench.blank_batch(&chosen)?).wait();
        let submitted = versions.load(Ordering::Relaxed);
        complete(&batch, BATCH, "load")?;
        for (i, page) in chosen.iter().enumerate() {
            let outcome = &batch.outcomes[i];
            ensure!(outcome.is_done(), "a page that was stored before and is never deleted: {outcome:?}");
            let Some(memory) = &batch.memory[i] else { continue };
            let whole = (1..submitted).any(|version| {
                let content = Page { version, ..*page }.content();
                content.check_page(memory).is_ok_and(|check| check.is_ok())
            });
            ensure!(whole, "thread {thread}, round {round}: page {i} is no version that was ever stored");
            loaded += 1;
        }
    }
    Ok(loaded)
}

pub(super) async fn dropped_transfers(ground: &Ground) -> Verdict {
    let bench = ground.bench(32, PAGE)?;
    let all = pages(0..32);
    drop(bench.storage.store(bench.full_batch(&all)?, StoreOptions::default()));
    leases_end(&bench.region).await?;
    // What was begun is finished, whoever waits for it.
    bench.load(&all).await?;
    drop(bench.storage.load(bench.blank_batch(&all)?));
    leases_end(&bench.region).await?;
    for _ in 0..50 {
        // Answered or not when it is dropped: both happen here.
        drop(bench.storage.load(bench.blank_batch(&all)?));
        leases_end(&bench.region).await?;
    }
    bench.load(&all).await
}

pub(super) async fn dropped_handles(ground: &Ground) -> Verdict {
    let all = pages(0..32);
    for round in 0..10 {
        let Bench { storage, region, registration } = {
            let bench = ground.bench(32, PAGE)?;
            let transfer = if round % 2 == 0 {
                bench.storage.store(bench.full_batch(&all)?, StoreOptions::default())
            } else {
                bench.storage.load(bench.blank_batch(&all)?)
            };
            drop(transfer);
            bench
        };
        let weak = Arc::downgrade(&region);
        drop((registration, region));
        region_ends(&weak).await?;
        drop(storage);
    }
    ground.bench(32, PAGE)?.load(&all).await
}

pub(super) async fn close(ground: &Ground) -> Verdict {
    let bench = ground.bench(2, PAGE)?;
    let storage = ground.storage();
    bench.store(&pages(0..2), false).await?;
    storage.close().await?;
    for load in [true, false] {
        let (what, batch) = match load {
            true => ("load after close", bench.try_load(&pages(0..2)).await?),
            false => ("store after close", bench.try_store(&pages(0..2), false).await?),
        };
        failed(&batch, 0, ErrorKind::Closed, what)?;
        failed(&batch, 1, ErrorKind::Closed, what)?;
    }
    leases_end(&bench.region).await?;
    let key = [numbered_key(0)];
    refused(&storage.exists(&key).await, ErrorKind::Closed, "exists after close")?;
    refused(&storage.exists_prefix(&key).await, ErrorKind::Closed, "exists_prefix after close")?;
    if let Some(now) = storage.exists_now(&key) {
        refused(&now, ErrorKind::Closed, "exists_now after close")?;
    }
    refused(&storage.register(&bench.region), ErrorKind::Closed, "register after close")?;
    if ground.traits.deletes {
        refused(&storage.delete(&key).await, ErrorKind::Closed, "delete after close")?;
        refused(&storage.clear().await, ErrorKind::Closed, "clear after close")?;
    }
    if ground.traits.lists {
        refused(&storage.list("", None, 1).await, ErrorKind::Closed, "list after close")?;
    }
    // A second close and a look at the counts are answered, whatever they say.
    let _ = storage.close().await;
    let _ = storage.stat();
    Ok(())
}

pub(super) async fn close_drains(ground: &Ground) -> Verdict {
    let bench = ground.bench(64, PAGE)?;
    let all = pages(0..64);
    let mut requests = bench.full_batch(&all)?;
    let mut begun = Vec::new();
    while !requests.is_empty() {
        let rest: Vec<PageRequest> = requests.split_off(requests.len().min(8));
        begun.push(bench.storage.store(requests, StoreOptions::default()));
        requests = rest;
    }
    let closed = bench.storage.close().await;
    ensure!(closed.is_ok(), "close of a healthy storage: {closed:?}");
    for transfer in begun {
        let batch = transfer.await;
        complete(&batch, 8, "store before close")?;
        // Submitted before close, so drained, not refused.
        ensure!(
            batch.outcomes.iter().all(Outcome::is_done),
            "stores submitted before close: {:?}",
            batch.outcomes
        );
    }
    leases_end(&bench.region).await
}
