//! Cases: keys, and what is there.

use std::collections::BTreeSet;

use hicache_core::hashing::to_hex;
use hicache_core::{
    ErrorKind, ListCursor, ListedPage, MAX_TEXT_KEY_BYTES, Outcome, PageKey, PageRequest, PoolName,
    StoreOptions,
};

use super::run::{Failure, Verdict, refused};
use super::storage_ground::{Bench, Ground, PAGE, Page, complete, done};
use crate::content::numbered_key;

fn page(number: u64, version: u64) -> Page {
    Page::new(numbered_key(number), version)
}

pub(super) async fn no_overwrite(ground: &Ground) -> Verdict {
    let bench = ground.bench(2, PAGE)?;
    bench.store(&[page(0, 1)], false).await?;
    bench.store(&[page(0, 2), page(1, 2)], false).await?;
    bench.load(&[page(0, 1), page(1, 2)]).await
}

pub(super) async fn overwrite(ground: &Ground) -> Verdict {
    let bench = ground.bench(2, PAGE)?;
    for version in 1..=20 {
        bench.store(&[page(0, version)], true).await?;
        bench.load(&[page(0, version)]).await?;
    }
    bench.store(&[page(0, 99)], false).await?;
    bench.load(&[page(0, 20)]).await
}

pub(super) async fn overwrite_length(ground: &Ground) -> Verdict {
    let bench = ground.bench(1, PAGE)?;
    for (version, bytes) in [(1, PAGE), (2, 100), (3, 1), (4, PAGE)] {
        let page = Page { bytes, ..page(0, version) };
        bench.store(&[page], true).await?;
        bench.load(&[page]).await?;
    }
    Ok(())
}

pub(super) async fn duplicate_loads(ground: &Ground) -> Verdict {
    let bench = ground.bench(5, PAGE)?;
    bench.store(&[page(0, 1), page(1, 1)], false).await?;
    bench.load(&[page(0, 1), page(1, 1), page(0, 1), page(0, 1), page(1, 1)]).await?;
    bench.load_absent(&[page(2, 1), page(2, 1)]).await
}

pub(super) async fn duplicate_stores(ground: &Ground) -> Verdict {
    let bench = ground.bench(4, PAGE)?;
    bench.store(&[page(0, 1), page(0, 2), page(1, 3), page(0, 4)], false).await?;
    bench.load(&[page(0, 1), page(1, 3)]).await
}

pub(super) async fn duplicate_overwrites(ground: &Ground) -> Verdict {
    let bench = ground.bench(4, PAGE)?;
    bench.store(&[page(0, 1)], false).await?;
    bench.store(&[page(0, 2), page(0, 3), page(1, 4), page(0, 5)], true).await?;
    bench.load(&[page(0, 5), page(1, 4)]).await
}

pub(super) async fn pools(ground: &Ground) -> Verdict {
    let bench = ground.bench(3, PAGE)?;
    let digest = numbered_key(7).digest;
    let pools = [PoolName::KV, PoolName::new("swa")?, PoolName::new(&"p".repeat(PoolName::MAX_BYTES))?];
    let pages: Vec<_> =
        (1..).zip(pools).map(|(version, pool)| Page::new(PageKey::new(pool, digest), version)).collect();
    bench.store(&pages[..1], false).await?;
    bench.load_absent(&pages[1..]).await?;
    bench.store(&pages[1..], false).await?;
    bench.load(&pages).await?;
    if ground.traits.deletes {
        done_all(&ground.storage().delete(&[pages[1].key]).await?, 1)?;
        bench.load(&[pages[0], pages[2]]).await?;
        bench.load_absent(&pages[1..2]).await?;
    }
    Ok(())
}

fn done_all(outcomes: &[Outcome], len: usize) -> Verdict {
    ensure_eq!(outcomes.len(), len, "outcomes of a delete");
    ensure!(outcomes.iter().all(Outcome::is_done), "a delete of pages that are there: {outcomes:?}");
    Ok(())
}

async fn store_named(bench: &Bench, names: &[String]) -> Verdict {
    let mut requests = Vec::new();
    for (slot, name) in names.iter().enumerate() {
        let page = Page::new(PageKey::from_text(name)?, 1);
        let mut memory = bench.blank(slot, PAGE)?;
        page.content().fill(&mut memory)?;
        requests.push(PageRequest::named(name, memory)?);
    }
    let batch = bench.storage.store(requests, StoreOptions::default()).await;
    complete(&batch, names.len(), "store")?;
    (0..names.len()).try_for_each(|i| done(&batch, i, "store"))
}

pub(super) async fn text_keys(ground: &Ground) -> Verdict {
    let bench = ground.bench(5, PAGE)?;
    // The longest is of two-byte characters: the limit is in bytes.
    let names =
        ["a", "with space/and\nline", "../../etc/passwd", "日本語", &"ü".repeat(MAX_TEXT_KEY_BYTES / 2)];
    store_named(&bench, &names.map(str::to_owned)).await?;
    let keys = names.map(PageKey::from_text).into_iter().collect::<hicache_core::Result<Vec<_>>>()?;
    bench.load(&keys.iter().map(|key| Page::new(*key, 1)).collect::<Vec<_>>()).await?;
    for bad in [String::new(), "x".repeat(MAX_TEXT_KEY_BYTES + 1)] {
        refused(
            &PageRequest::named(&bad, bench.blank(0, PAGE)?),
            ErrorKind::Config,
            "a key of a bad length",
        )?;
    }
    Ok(())
}

pub(super) async fn exists(ground: &Ground) -> Verdict {
    let bench = ground.bench(3, PAGE)?;
    bench.store(&[page(0, 1), page(1, 1), page(3, 1)], false).await?;
    let keys: Vec<_> = [0, 1, 2, 3, 0].map(numbered_key).to_vec();
    let expected = vec![true, true, false, true, true];
    ensure_eq!(ground.storage().exists(&keys).await?, expected, "exists");
    ensure_eq!(ground.storage().exists_prefix(&keys).await?, 2, "exists_prefix");
    ensure_eq!(ground.storage().exists_prefix(&keys[..2]).await?, 2, "exists_prefix of what is there");
    ensure_eq!(ground.storage().exists_prefix(&keys[2..]).await?, 0, "exists_prefix after a miss");
    if let Some(now) = ground.storage().exists_now(&keys) {
        ensure_eq!(now?, expected, "exists_now");
    }
    Ok(())
}

pub(super) async fn delete(ground: &Ground) -> Verdict {
    let bench = ground.bench(4, PAGE)?;
    let pages: Vec<_> = (0..4).map(|number| page(number, 1)).collect();
    bench.store(&pages, false).await?;
    let outcomes = ground.storage().delete(&[numbered_key(1), numbered_key(9), numbered_key(3)]).await?;
    let seen = outcomes.iter().map(Outcome::is_done).collect::<Vec<_>>();
    ensure_eq!(seen, vec![true, false, true], "delete: done");
    ensure!(matches!(outcomes[1], Outcome::Absent), "delete of what is not there is {:?}", outcomes[1]);
    bench.load_absent(&[pages[1], pages[3]]).await?;
    bench.load(&[pages[0], pages[2]]).await?;
    let there = ground.storage().exists(&pages.iter().map(|page| page.key).collect::<Vec<_>>()).await?;
    ensure_eq!(there, vec![true, false, true, false], "exists after delete");
    // A deleted key is free for another version.
    bench.store(&[page(1, 2)], false).await?;
    bench.load(&[page(1, 2)]).await?;
    ensure_eq!(ground.storage().delete(&[]).await?.len(), 0, "delete of nothing");
    Ok(())
}

pub(super) async fn clear(ground: &Ground) -> Verdict {
    let bench = ground.bench(5, PAGE)?;
    let pages: Vec<_> = (0..5).map(|number| page(number, 1)).collect();
    ensure_eq!(ground.storage().clear().await?, 0, "clear of an empty storage");
    bench.store(&pages, false).await?;
    ensure_eq!(ground.storage().clear().await?, 5, "clear");
    bench.load_absent(&pages).await?;
    ensure_eq!(ground.storage().exists_prefix(&[pages[0].key]).await?, 0, "exists after clear");
    bench.store(&[page(0, 2)], false).await?;
    bench.load(&[page(0, 2)]).await?;
    ensure_eq!(ground.storage().clear().await?, 1, "clear again");
    Ok(())
}

/// All parts of a listing, each of at most `limit` pages.
pub(crate) async fn list_all(
    storage: &dyn hicache_core::Storage,
    prefix: &str,
    limit: usize,
) -> Result<Vec<ListedPage>, String> {
    let mut pages = Vec::new();
    let mut cursor: Option<ListCursor> = None;
    // Far more parts than any listing of a test has; a listing that goes round in circles ends here.
    for _ in 0..100_000 {
        let part = storage.list(prefix, cursor.as_ref(), limit).await.map_err(|error| error.to_string())?;
        if part.pages.len() > limit {
            return Err(format!("a part of at most {limit} pages has {}", part.pages.len()));
        }
        pages.extend(part.pages);
        cursor = part.next;
        if cursor.is_none() {
            return Ok(pages);
        }
    }
    Err("the listing has no end".to_owned())
}

pub(super) async fn list(ground: &Ground) -> Verdict {
    let bench = ground.bench(24, PAGE)?;
    let storage = &**ground.storage();
    ensure_eq!(list_all(storage, "", 10).await.map_err(Failure)?, Vec::new(), "list of an empty storage");
    let names: Vec<String> =
        (0..20).map(|i| format!("{}/{i}", if i < 13 { "model-a" } else { "model-b" })).collect();
    store_named(&bench, &names).await?;
    let hashed = [page(0, 1), page(1, 1)];
    bench.store(&hashed, false).await?;
    let text = |name: &String| ("text".to_owned(), name.clone(), PAGE as u64);
    let hex = |page: &Page| ("kv".to_owned(), to_hex(&page.key.digest), PAGE as u64);
    let all: BTreeSet<_> = names.iter().map(text).chain(hashed.iter().map(hex)).collect();
    for limit in [1, 7, 22, 1000] {
        for prefix in ["", "model-", "model-a/", "model-a/1", "nothing", &to_hex(&hashed[1].key.digest)[..20]]
        {
            let listed = list_all(storage, prefix, limit).await.map_err(Failure)?;
            let count = listed.len();
            let listed: BTreeSet<_> =
                listed.into_iter().map(|page| (page.pool, page.name, page.bytes)).collect();
            ensure_eq!(listed.len(), count, "pages listed twice with prefix {prefix:?} and limit {limit}");
            let expected: BTreeSet<_> =
                all.iter().filter(|(_, name, _)| name.starts_with(prefix)).cloned().collect();
            ensure_eq!(listed, expected, "list with prefix {prefix:?} and limit {limit}");
        }
    }
    let strange = ListCursor("not a cursor of any storage\0".to_owned());
    refused(&storage.list("", Some(&strange), 10).await, ErrorKind::Config, "a list from a strange cursor")
}

/// What the traits say that it can't do must be refused, and must not half happen.
pub(super) async fn unsupported(ground: &Ground) -> Verdict {
    let bench = ground.bench(1, PAGE)?;
    let storage = ground.storage();
    bench.store(&[page(0, 1)], false).await?;
    if !ground.traits.deletes {
        refused(&storage.delete(&[numbered_key(0)]).await, ErrorKind::Unsupported, "delete")?;
        refused(&storage.clear().await, ErrorKind::Unsupported, "clear")?;
    }
    if !ground.traits.lists {
        refused(&storage.list("", None, 10).await, ErrorKind::Unsupported, "list")?;
    }
    if !ground.traits.overwrites {
        let batch = bench.try_store(&[page(0, 2)], true).await?;
        ensure!(
            !batch.outcomes[0].is_done(),
            "an overwrite was answered done by a storage that does not overwrite"
        );
    }
    bench.load(&[page(0, 1)]).await
}
