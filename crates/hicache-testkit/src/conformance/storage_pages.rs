//! Cases: pages and their memory.

use std::sync::Arc;

use hicache_core::{Access, ErrorKind, OwnerId, PageRequest, Region, Registration, StoreOptions};

use super::run::{Failure, Verdict};
use super::storage_ground::{Bench, Ground, PAGE, Page, complete, done, failed, holds, in_pieces};
use crate::content::numbered_key;

const KEEP: StoreOptions = StoreOptions { overwrite: false };

fn numbered(count: u64) -> Vec<Page> {
    (0..count).map(|number| Page::new(numbered_key(number), number)).collect()
}

fn short(count: u64, bytes: usize) -> Vec<Page> {
    numbered(count).into_iter().map(|page| Page { bytes, ..page }).collect()
}

pub(super) async fn empty_batch(ground: &Ground) -> Verdict {
    complete(&ground.storage().store(Vec::new(), KEEP).await, 0, "store")?;
    complete(&ground.storage().load(Vec::new()).await, 0, "load")?;
    ensure_eq!(ground.storage().exists(&[]).await?, Vec::<bool>::new(), "exists of nothing");
    ensure_eq!(ground.storage().exists_prefix(&[]).await?, 0, "exists_prefix of nothing");
    Ok(())
}

pub(super) async fn one_page(ground: &Ground) -> Verdict {
    let bench = ground.bench(1, PAGE)?;
    bench.store(&numbered(1), false).await?;
    bench.load(&numbered(1)).await
}

async fn round_trip(bench: &Bench, pages: &mut [Page]) -> Verdict {
    bench.store(pages, false).await?;
    bench.load(pages).await?;
    // In another order, so that an answer by position and not by key is found out.
    pages.reverse();
    bench.load(pages).await
}

pub(super) async fn batch_of_128(ground: &Ground) -> Verdict {
    round_trip(&ground.bench(128, PAGE)?, &mut numbered(128)).await
}

pub(super) async fn batch_of_10_000(ground: &Ground) -> Verdict {
    round_trip(&ground.bench(10_000, 512)?, &mut short(10_000, 512)).await
}

pub(super) async fn miss(ground: &Ground) -> Verdict {
    let bench = ground.bench(3, PAGE)?;
    let pages = numbered(3);
    bench.load_absent(&pages).await?;
    bench.store(&pages[1..2], false).await?;
    let batch = bench.try_load(&pages).await?;
    for absent in [0, 2] {
        let outcome = &batch.outcomes[absent];
        ensure!(matches!(outcome, hicache_core::Outcome::Absent), "page {absent} is {outcome:?}");
    }
    done(&batch, 1, "load between misses")?;
    holds(&batch, 1, &pages[1], "load between misses")
}

pub(super) async fn odd_lengths(ground: &Ground) -> Verdict {
    for (number, bytes) in [1, 2, 511, 512, 4095, 4096, 4097, 65_537, 1 << 20].into_iter().enumerate() {
        let bench = ground.bench(1, bytes)?;
        let page = Page { bytes, ..Page::new(numbered_key(number as u64), 1) };
        let named = |Failure(reason)| Failure(format!("{bytes} bytes: {reason}"));
        bench.store(&[page], false).await.map_err(named)?;
        bench.load(&[page]).await.map_err(named)?;
    }
    Ok(())
}

pub(super) async fn mixed_lengths(ground: &Ground) -> Verdict {
    let lengths = [1, 512, 4096, 5000, 65_536];
    let mut pages = numbered(60);
    for (i, page) in pages.iter_mut().enumerate() {
        page.bytes = lengths[i % lengths.len()];
    }
    round_trip(&ground.bench(60, 65_536)?, &mut pages).await
}

const CUTS: [&[usize]; 5] = [&[PAGE], &[2048, 2048], &[1, 4095], &[1000, 96, 3000], &[512, 512, 1024, 2048]];

async fn store_and_load_cut(ground: &Ground, stored: &[&[usize]], loaded: &[&[usize]]) -> Verdict {
    let pages = numbered(stored.len() as u64);
    let bench = ground.bench(4 * pages.len(), 2 * PAGE)?;
    let mut requests = Vec::new();
    for (i, page) in pages.iter().enumerate() {
        let mut memory = in_pieces(&bench, 4 * i, stored[i])?;
        page.content().fill(&mut memory)?;
        requests.push(PageRequest::new(page.key, memory));
    }
    let batch = bench.storage.store(requests, KEEP).await;
    complete(&batch, pages.len(), "store")?;
    for i in 0..pages.len() {
        done(&batch, i, "store")?;
    }
    drop(batch);
    let mut requests = Vec::new();
    for (i, page) in pages.iter().enumerate() {
        let mut memory = in_pieces(&bench, 4 * i, loaded[i])?;
        memory.copy_from(&[0xa5; PAGE])?;
        requests.push(PageRequest::new(page.key, memory));
    }
    let batch = bench.storage.load(requests).await;
    complete(&batch, pages.len(), "load")?;
    for (i, page) in pages.iter().enumerate() {
        done(&batch, i, "load")?;
        holds(&batch, i, page, "load")?;
        let pieces = batch.memory[i].as_ref().map(|memory| memory.pieces().len());
        ensure_eq!(pieces, Some(loaded[i].len()), "pieces of page {i} that came back");
    }
    Ok(())
}

pub(super) async fn several_pieces(ground: &Ground) -> Verdict {
    store_and_load_cut(ground, &CUTS, &CUTS).await
}

pub(super) async fn pieces_differ(ground: &Ground) -> Verdict {
    let mut turned = CUTS;
    turned.rotate_left(2);
    store_and_load_cut(ground, &CUTS, &turned).await
}

pub(super) async fn wrong_length(ground: &Ground) -> Verdict {
    let bench = ground.bench(4, 2 * PAGE)?;
    let pages = numbered(4);
    bench.store(&pages, false).await?;
    let mut asked = pages.clone();
    asked[1].bytes = PAGE - 1;
    asked[3].bytes = PAGE + 1;
    let batch = bench.try_load(&asked).await?;
    for (i, page) in pages.iter().enumerate() {
        if page.bytes == asked[i].bytes {
            done(&batch, i, "load beside a wrong length")?;
            holds(&batch, i, page, "load beside a wrong length")?;
        } else {
            failed(&batch, i, ErrorKind::Config, "load of another length")?;
        }
    }
    drop(batch);
    // The mistake was the caller's: the page is still there.
    bench.load(&pages).await
}

pub(super) async fn store_from_read_lease(ground: &Ground) -> Verdict {
    let bench = ground.bench(2, PAGE)?;
    let page = numbered(1)[0];
    drop(bench.full(0, page)?);
    let memory = bench.registration.page(0, PAGE, Access::Read)?;
    let batch = bench.storage.store(vec![PageRequest::new(page.key, memory)], KEEP).await;
    complete(&batch, 1, "store")?;
    done(&batch, 0, "store from a read lease")?;
    drop(batch);
    bench.load(&[page]).await
}

pub(super) async fn load_into_read_lease(ground: &Ground) -> Verdict {
    let bench = ground.bench(2, PAGE)?;
    let pages = numbered(2);
    bench.store(&pages, false).await?;
    let memory = bench.registration.page(0, PAGE, Access::Read)?;
    let before = memory.checksum()?;
    let requests =
        vec![PageRequest::new(pages[0].key, memory), PageRequest::new(pages[1].key, bench.blank(1, PAGE)?)];
    let batch = bench.storage.load(requests).await;
    complete(&batch, 2, "load")?;
    failed(&batch, 0, ErrorKind::Config, "load into a read lease")?;
    let after = batch.memory[0].as_ref().map(hicache_core::PageMemory::checksum).transpose()?;
    ensure_eq!(after, Some(before), "memory that may only be read");
    done(&batch, 1, "load beside a read lease")?;
    holds(&batch, 1, &pages[1], "load beside a read lease")
}

pub(super) async fn another_owner(ground: &Ground) -> Verdict {
    let bench = ground.bench(2, PAGE)?;
    let foreign = foreign_bench(&bench)?;
    let pages = numbered(2);
    let requests = vec![foreign.full(0, pages[0])?, bench.full(1, pages[1])?];
    let batch = bench.storage.store(requests, KEEP).await;
    complete(&batch, 2, "store")?;
    failed(&batch, 0, ErrorKind::Config, "store from memory of another owner")?;
    done(&batch, 1, "store beside memory of another owner")?;
    drop(batch);
    bench.load_absent(&pages[..1]).await?;
    bench.store(&pages[..1], false).await?;
    let request =
        |bench: &Bench, i: usize| Ok::<_, Failure>(PageRequest::new(pages[i].key, bench.blank(i, PAGE)?));
    let batch = bench.storage.load(vec![request(&bench, 0)?, request(&foreign, 1)?]).await;
    complete(&batch, 2, "load")?;
    failed(&batch, 1, ErrorKind::Config, "load into memory of another owner")?;
    done(&batch, 0, "load beside memory of another owner")?;
    holds(&batch, 0, &pages[0], "load beside memory of another owner")
}

/// Memory that the storage has not registered.
fn foreign_bench(bench: &Bench) -> Result<Bench, Failure> {
    let region = Region::allocate(bench.region.slots(), PAGE)?;
    let registration = Registration::new(OwnerId::new(), Arc::clone(&region), Box::new(()));
    Ok(Bench { storage: Arc::clone(&bench.storage), region, registration })
}

/// Of equal keys one is kept. If that one is refused, none of the others may say `Done` for a page that is not there.
pub(super) async fn refused_duplicate(ground: &Ground) -> Verdict {
    let bench = ground.bench(2, PAGE)?;
    let foreign = foreign_bench(&bench)?;
    let (first, second) = (Page::new(numbered_key(0), 1), Page::new(numbered_key(0), 2));
    let batch = bench.storage.store(vec![foreign.full(0, first)?, bench.full(1, second)?], KEEP).await;
    complete(&batch, 2, "store")?;
    failed(&batch, 0, ErrorKind::Config, "store from memory of another owner")?;
    let stored = batch.outcomes[1].is_done();
    drop(batch);
    ensure!(stored, "a page that could be stored failed because its duplicate was refused");
    bench.load(&[second]).await?;
    if !ground.traits.overwrites {
        return Ok(());
    }
    let (first, second) = (Page::new(numbered_key(1), 1), Page::new(numbered_key(1), 2));
    let requests = vec![bench.full(0, first)?, foreign.full(1, second)?];
    let batch = bench.storage.store(requests, StoreOptions { overwrite: true }).await;
    complete(&batch, 2, "store")?;
    failed(&batch, 1, ErrorKind::Config, "store from memory of another owner")?;
    done(&batch, 0, "overwrite beside a refused duplicate")?;
    drop(batch);
    bench.load(&[first]).await
}
