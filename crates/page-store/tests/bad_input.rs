//! What callers, configurations, directories and file systems may get wrong: each has its answer.

mod fixture;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use fixture::disk::Mounted;
use fixture::{
    Bench, Got, PAGE, Page, config, du, in_time, keys, limited, namespace, page, pages, pread, say, uring,
};
use hicache_core::{
    Access, Engine, EngineCapabilities, ErrorKind, Namespace, Outcome, PageKey, PageRequest, Storage,
    StoreOptions,
};
use hicache_page_store::{PageStore, PageStoreConfig};
use hicache_testkit::ThreadEngine;

async fn refusal(config: PageStoreConfig) -> (ErrorKind, String) {
    let error = PageStore::open(config, vec![pread()]).await.expect_err("it must be refused");
    (error.kind(), error.to_string())
}

#[tokio::test]
async fn keys_and_memory_that_can_not_be() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::open(config(directory.path())).await;
    for bad in [String::new(), "x".repeat(513), "ü".repeat(257)] {
        assert_eq!(PageKey::from_text(&bad).unwrap_err().kind(), ErrorKind::Config);
        assert_eq!(PageRequest::named(&bad, bench.blank(0, 1)).unwrap_err().kind(), ErrorKind::Config);
    }
    let longest = PageRequest::named(&"x".repeat(512), bench.full(0, page(1)).memory).unwrap();
    let batch = bench.store.store(vec![longest], StoreOptions::default()).await;
    assert!(batch.outcomes[0].is_done());
    drop(batch);
    assert_eq!(bench.store.list("xxx", None, 10).await.unwrap().pages[0].name.len(), 512);
    // Twice the same memory, and memory that is too small.
    let held = bench.blank(1, PAGE);
    assert_eq!(bench.registration.page(1, PAGE, Access::Read).unwrap_err().kind(), ErrorKind::Busy);
    drop(held);
    assert_eq!(bench.registration.page(0, 3 * PAGE, Access::Read).unwrap_err().kind(), ErrorKind::Config);
    // Memory leased for reading is good enough to store from, and not to load into.
    let reading = |number| {
        let memory = bench.registration.page(number as usize, PAGE, Access::Read).unwrap();
        PageRequest::new(page(number).key(), memory)
    };
    let batch = bench.store.store(vec![reading(5)], StoreOptions::default()).await;
    assert!(batch.outcomes[0].is_done());
    drop(batch);
    let batch =
        bench.store.load(vec![reading(5), PageRequest::new(page(5).key(), bench.blank(6, PAGE))]).await;
    assert_eq!(batch.outcomes[0].error().unwrap().kind(), ErrorKind::Config);
    assert!(batch.outcomes[1].is_done() && batch.memory[0].is_some());
    drop(batch);
    // Memory of another store.
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Bench::open(config(elsewhere.path())).await;
    let batch = bench
        .store
        .store(vec![other.full(0, page(7)), bench.full(0, page(8))], StoreOptions::default())
        .await;
    assert_eq!(batch.outcomes[0].error().unwrap().kind(), ErrorKind::Config);
    assert!(batch.outcomes[1].is_done());
    drop(batch);
    other.close().await;
    bench.close().await;
}

#[tokio::test]
async fn another_length_is_told_and_costs_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::new(fixture::open(config(directory.path()), pread()).await, 4, 4 * PAGE);
    bench.store(&[page(1)]).await;
    for bytes in [1, PAGE - 1, PAGE + 1, 4 * PAGE] {
        let batch = bench.store.load(vec![PageRequest::new(page(1).key(), bench.blank(0, bytes))]).await;
        let error = batch.outcomes[0].error().unwrap();
        assert_eq!((error.kind(), error.bytes()), (ErrorKind::Config, Some((bytes as u64, PAGE as u64))));
        drop(batch);
        // Without overwrite the page that is there is there.
        bench.store(&[Page { bytes, version: 2, ..page(1) }]).await;
        bench.load_all(&[page(1)]).await;
    }
    let longer = Page { bytes: 4 * PAGE, version: 3, ..page(1) };
    bench.store_with(&[longer], true).await;
    bench.load_all(&[longer]).await;
    assert_eq!(bench.load(&[page(1)]).await, [Got::Failed(ErrorKind::Config)]);
    assert_eq!(bench.store.stat().pages, 1);
    bench.close().await;
}

#[tokio::test]
async fn batches_of_none_and_of_ten_thousand() {
    let directory = tempfile::tempdir().unwrap();
    let engines = [Some(pread()), uring()];
    for engine in engines.into_iter().flatten() {
        let bench = Bench::new(fixture::open(config(directory.path()), engine).await, 10_000, 512);
        assert!(bench.store.load(Vec::new()).await.outcomes.is_empty());
        assert!(bench.store.store(Vec::new(), StoreOptions::default()).await.outcomes.is_empty());
        assert!(bench.store.exists(&[]).await.unwrap().is_empty());
        assert!(bench.store.delete(&[]).await.unwrap().is_empty());
        let many: Vec<_> = (0..10_000).map(|number| Page { bytes: 512, ..page(number) }).collect();
        bench.store(&many).await;
        bench.load_all(&many).await;
        assert_eq!(bench.store.exists_prefix(&keys(&many)).await.unwrap(), 10_000);
        let outcomes = bench.store.delete(&keys(&many)).await.unwrap();
        assert!(outcomes.iter().all(Outcome::is_done));
        assert_eq!(bench.store.stat().pages, 0);
        bench.close().await;
    }
}

#[tokio::test]
async fn duplicates_in_a_batch() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::open(config(directory.path())).await;
    let twice = [page(1), Page { version: 2, ..page(1) }, page(2)];
    bench.store(&twice).await;
    bench.load_all(&[page(1), page(1), page(2)]).await;
    bench.store_with(&[Page { version: 3, ..page(1) }, Page { version: 4, ..page(1) }], true).await;
    bench.load_all(&[Page { version: 4, ..page(1) }]).await;
    // Of another length each.
    let short = Page { bytes: 100, ..page(3) };
    bench.store(&[short, page(3)]).await;
    bench.load_all(&[short]).await;
    bench.store_with(&[short, page(3)], true).await;
    bench.load_all(&[page(3)]).await;
    let outcomes = bench.store.delete(&keys(&[page(1), page(1)])).await.unwrap();
    assert!(outcomes[0].is_done() && matches!(outcomes[1], Outcome::Absent));
    assert_eq!(bench.store.stat().pages, 2);
    bench.close().await;
}

/// Everything under a directory, with lengths.
fn listing(path: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        found.push((entry.path(), entry.metadata().unwrap().len()));
        found.extend(listing(&entry.path()));
    }
    found.sort();
    found
}

#[tokio::test]
async fn manifests_that_contradict_or_are_newer_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    Bench::open(config(root)).await.close().await;
    let manifest = root.join(namespace().fingerprint().to_string()).join("MANIFEST");
    let good = fs::read_to_string(&manifest).unwrap();
    let other = good.replace("\"tests\"", "\"another model\"");
    let newer = good.replace("\"format_version\": 1", "\"format_version\": 2");
    assert!(other != good && newer != good);
    let cases = [(other.as_str(), "was renamed"), (&newer, "has format 2")];
    for (text, message) in cases {
        fs::write(&manifest, text).unwrap();
        let before = listing(root);
        let (kind, why) = refusal(config(root)).await;
        assert_eq!(kind, ErrorKind::Config);
        assert!(why.contains(message) && why.contains("MANIFEST"), "{why}");
        assert_eq!(listing(root), before, "something was opened or changed");
    }
    fs::write(&manifest, good).unwrap();
    // A directory under the name of another namespace.
    let stranger = PageStoreConfig { namespace: Namespace::new("stranger"), ..config(root) };
    let moved = root.join(stranger.namespace.fingerprint().to_string());
    fs::rename(manifest.parent().unwrap(), &moved).unwrap();
    let (kind, why) = refusal(stranger).await;
    assert!(kind == ErrorKind::Config && why.contains(&namespace().fingerprint().to_string()), "{why}");
    // Files in the way of what would be made.
    fs::remove_dir_all(&moved).unwrap();
    fs::write(root.join(namespace().fingerprint().to_string()), "a file").unwrap();
    assert_eq!(refusal(config(root)).await.0, ErrorKind::Io);
}

#[tokio::test]
async fn roots_that_can_not_be() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path().join("here");
    let link = directory.path().join("link");
    fs::create_dir(&here).unwrap();
    std::os::unix::fs::symlink(&here, &link).unwrap();
    fs::write(directory.path().join("file"), "").unwrap();
    let at = |name: &str| directory.path().join(name);
    let cases: [(&[PathBuf], &str); 12] = [
        (&[], "roots is empty"),
        (&[PathBuf::new()], "empty"),
        (&[at("file")], "not a directory"),
        (&[at("here"), at("here")], "twice"),
        (&[at("here"), at("here/.")], "twice"),
        (&[at("here"), at("link")], "twice"),
        (&[at("new"), at("new")], "twice"),
        (&[at("new"), at("here/../new")], "twice"),
        (&[at("link/deep"), at("here/deep")], "twice"),
        (&[at("here"), at("here/deep")], "inside"),
        (&[at("link/deep/deeper"), at("here")], "inside"),
        (&[at("new/a"), at("new")], "inside"),
    ];
    for (roots, message) in cases {
        let before = listing(directory.path());
        let (kind, why) = refusal(PageStoreConfig { roots: roots.to_vec(), ..config(&here) }).await;
        assert!(kind == ErrorKind::Config && why.contains(message), "{roots:?}: {why}");
        assert_eq!(listing(directory.path()), before, "something was made");
    }
    // Not to be written, even by root.
    let (kind, why) = refusal(config(Path::new("/proc/hicache"))).await;
    assert!(kind == ErrorKind::Io && why.contains("/proc/hicache"), "{why}");
    let (kind, why) = refusal(config(&at("file/below"))).await;
    assert!(kind == ErrorKind::Io && why.contains("file/below"), "{why}");
    // Beside each other under one parent, one through a link: fine.
    let beside = PageStoreConfig { roots: vec![at("link"), at("here-too")], ..config(&here) };
    Bench::open(beside).await.close().await;
}

#[tokio::test]
async fn settings_that_can_not_be_name_their_field() {
    let directory = tempfile::tempdir().unwrap();
    let good = config(directory.path());
    let cases = [
        (PageStoreConfig { segment_bytes: 0, ..good.clone() }, "segment_bytes is 0"),
        (PageStoreConfig { io_timeout_ms: 0, ..good.clone() }, "io_timeout_ms is 0"),
        (PageStoreConfig { staging_bytes: 0, ..good.clone() }, "staging_bytes is 0"),
        (PageStoreConfig { page_bytes: Some(0), ..good.clone() }, "page_bytes is 0"),
        (PageStoreConfig { page_bytes: Some(1 << 32), ..good.clone() }, "page_bytes is 4294967296"),
        (PageStoreConfig { namespace: Namespace::new(""), ..good.clone() }, "namespace.model"),
    ];
    for (bad, message) in cases {
        let (kind, why) = refusal(bad).await;
        assert!(kind == ErrorKind::Config && why.contains(message), "{why}");
        assert!(listing(directory.path()).is_empty());
    }
    assert_eq!(PageStore::open(good.clone(), Vec::new()).await.unwrap_err().kind(), ErrorKind::Config);
    let all = ThreadEngine::new().unwrap().capabilities().clone();
    let wide = ThreadEngine::with_capabilities(EngineCapabilities { alignment: 8192, ..all }).unwrap();
    let refused = PageStore::open(good.clone(), vec![wide as Arc<dyn Engine>]).await.unwrap_err();
    assert!(refused.kind() == ErrorKind::Config && refused.to_string().contains("8192"), "{refused}");
    // As large as numbers are: no overflow anywhere.
    let largest = PageStoreConfig {
        capacity_bytes: Some(u64::MAX),
        segment_bytes: 1 << 20,
        io_timeout_ms: u64::MAX,
        staging_bytes: 1 << 20,
        ..good.clone()
    };
    let bench = Bench::open(largest).await;
    bench.store(&pages(0..300)).await;
    bench.load_all(&pages(0..300)).await;
    assert!(bench.store.slots(PAGE as u64).unwrap() > 300);
    assert!(bench.store.slots(0).is_err() && bench.store.slots(1 << 32).is_err());
    let stat = bench.store.stat();
    assert!(stat.slots.is_some() && stat.capacity_bytes.is_some());
    bench.close().await;
    let none = PageStoreConfig { capacity_bytes: Some(0), ..good };
    let bench = Bench::open(none).await;
    let outcomes = bench.try_store(&[page(999)], false).await;
    assert_eq!(outcomes[0].error().unwrap().kind(), ErrorKind::Config);
    // Refused, so nothing was given up for it.
    bench.load_all(&pages(0..300)).await;
    bench.close().await;
}

/// One namespace, opened by many at once: each has a set of its own, and nobody sees half a manifest.
#[tokio::test]
async fn many_open_the_same_new_root_at_once() {
    for _ in 0..20 {
        let directory = tempfile::tempdir().unwrap();
        let opening = (0..8).map(|_| PageStore::open(config(directory.path()), vec![pread()]));
        let opening: Vec<_> = opening.collect();
        let stores = in_time("opening", futures::future::join_all(opening)).await;
        let stores: Vec<_> = stores.into_iter().map(Result::unwrap).collect();
        assert_eq!(hicache_page_store::inspect::sets(directory.path()).unwrap().len(), 8);
        for store in stores {
            store.close().await.unwrap();
        }
    }
}

async fn works_in(root: &Path, what: &str) {
    for engine in [Some(pread()), uring()].into_iter().flatten() {
        let name = engine.capabilities().name;
        let bench = Bench::new(fixture::open(limited(root, 2 << 20), engine).await, 64, PAGE);
        let slots = bench.store.slots(PAGE as u64).unwrap();
        assert!(slots > 300, "{slots}");
        bench.store(&pages(0..slots + 200)).await;
        // Indirect blocks, where there are such, were not foreseen.
        let there = bench.count(&pages(0..slots + 200)).await;
        assert!(there <= slots && there * 100 >= slots * 98, "{what}, {name}: {there} of {slots}");
        assert!(du(root) <= 2 << 20);
        bench.close().await;
        let bench = Bench::open(limited(root, 2 << 20)).await;
        assert_eq!(bench.store.stat().pages, there);
        bench.store.clear().await.unwrap();
        bench.close().await;
        say(&format!("works in {what} over {name}"));
    }
}

#[tokio::test]
async fn file_systems_without_direct_io_or_fallocate() {
    let directory = tempfile::tempdir().unwrap();
    let ramfs = directory.path().join("ramfs");
    if let Some(mounted) = Mounted::new(&ramfs, &["-t", "ramfs", "none"]) {
        works_in(&ramfs.join("root"), "ramfs").await;
        drop(mounted);
    }
    let image = directory.path().join("image");
    fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    let made = Command::new("mkfs.ext2").args(["-q", "-F"]).arg(&image).status();
    if !made.is_ok_and(|status| status.success()) {
        say("skipped: no mkfs.ext2");
        return;
    }
    let ext2 = directory.path().join("ext2");
    let arguments = ["-o", "loop", image.to_str().unwrap()];
    if let Some(mounted) = Mounted::new(&ext2, &arguments) {
        works_in(&ext2.join("root"), "ext2").await;
        drop(mounted);
    }
}

/// The disk is smaller than the capacity: that is the limit then, pages are evicted, and the store never stops.
#[tokio::test]
async fn a_disk_that_is_full_before_the_capacity_is() {
    let directory = tempfile::tempdir().unwrap();
    for size in ["3m", "4100k", "5000k", "8m"] {
        let at = directory.path().join(size);
        let Some(mounted) = Mounted::new(&at, &["-t", "tmpfs", "-o", &format!("size={size}"), "none"]) else {
            return;
        };
        let bench = Bench::open(limited(&at.join("root"), 64 << 20)).await;
        for round in 0..8 {
            let new = pages(round * 1000..round * 1000 + 1000);
            in_time("storing", bench.store(&new)).await;
            bench.load_all(&new[900..]).await;
        }
        assert!(bench.store.stat().evicted_pages > 4000);
        // Somebody else takes the rest of the disk.
        let other = fs::File::create(at.join("other")).unwrap();
        let _ = std::io::Write::write_all(&mut &other, &vec![1; 8 << 20]);
        let outcomes = in_time("storing", bench.try_store(&pages(90_000..90_500), false)).await;
        let done = outcomes.iter().filter(|outcome| outcome.is_done()).count();
        let kinds =
            outcomes.iter().filter_map(Outcome::error).all(|error| error.kind() == ErrorKind::NoSpace);
        assert!(kinds, "{outcomes:?}");
        say(&format!(
            "{size}: {} pages; {done} of 500 done on a disk with nothing left",
            bench.store.stat().pages
        ));
        drop(other);
        fs::remove_file(at.join("other")).unwrap();
        bench.store(&pages(91_000..91_500)).await;
        bench.close().await;
        fixture::verify(&at.join("root"));
        drop(mounted);
    }
}
