//! Opening what a crash, a damaged disk or a clean close left behind.

mod fixture;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use fixture::{
    Bench, Got, PAGE, Page, config, copy_tree, files, flip, keys, limited, page, pages, pread, stat, verify,
};
use hicache_core::hashing::record_check;
use hicache_core::{ErrorKind, PageRequest, Storage, StoreOptions};
use hicache_page_store::PageStore;
use tempfile::TempDir;

/// Length of a record of a journal or a snapshot.
const RECORD: usize = 64;
/// Records of a new journal before the first page: its header and its pool.
const HEAD: usize = 2;

/// The files of a killed store that had these pages: a journal without a snapshot.
async fn killed(pages: &[Page]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let (live, image) = (directory.path().join("live"), directory.path().join("image"));
    let bench = Bench::open(config(&live)).await;
    bench.store(pages).await;
    copy_tree(&live, &image);
    bench.close().await;
    fs::remove_dir_all(live).unwrap();
    directory
}

/// The files of a closed store that had these pages: a snapshot and an empty journal.
async fn closed(pages: &[Page]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::open(config(&directory.path().join("image"))).await;
    bench.store(pages).await;
    bench.close().await;
    directory
}

/// Opens what is there, asks for the pages, goes on storing, and insists that the next open finds nothing to mend.
/// Answers what was found.
async fn reopen(root: &Path, asked: &[Page]) -> Vec<Got> {
    let bench = Bench::open(config(root)).await;
    let got = bench.load_any(asked, 3).await;
    assert!(
        !got.iter().any(|got| matches!(got, Got::Failed(kind) if *kind != ErrorKind::Corrupt)),
        "{got:?}"
    );
    let repaired = stat(root);
    assert_eq!(
        (repaired.bad_records, repaired.bad_snapshots, repaired.lost_pages),
        (0, 0, 0),
        "{repaired:?}"
    );
    let more = pages(9_000..9_020);
    bench.store(&more).await;
    bench.close().await;
    let clean = stat(root);
    assert_eq!((clean.bad_records, clean.bad_snapshots, clean.lost_pages), (0, 0, 0), "{clean:?}");
    assert_eq!(verify(root), clean.pages);
    let bench = Bench::open(config(root)).await;
    bench.load_all(&more).await;
    let again = bench.load_any(asked, 3).await;
    for (got, again) in got.iter().zip(&again) {
        let expected = if matches!(got, Got::Failed(_)) { Got::Absent } else { *got };
        assert_eq!(*again, expected);
    }
    bench.close().await;
    got
}

fn there(got: &[Got]) -> usize {
    got.iter().filter(|got| matches!(got, Got::Version(_))).count()
}

#[tokio::test]
async fn a_journal_cut_anywhere_gives_the_pages_before_the_cut() {
    let all = pages(0..40);
    let original = killed(&all).await;
    // The head of a batch is written last, so that it is the most recent.
    let in_order: Vec<_> = all.iter().rev().copied().collect();
    for cut in [0, 1, 63, 64, 65, 128, 129, 191, 192, 1000, 2048, 42 * 64 - 1, 42 * 64] {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("image");
        copy_tree(&original.path().join("image"), &root);
        let journal = files(&root, "journal").remove(0);
        assert_eq!(fs::metadata(&journal).unwrap().len(), 42 * 64);
        fs::OpenOptions::new().write(true).open(&journal).unwrap().set_len(cut).unwrap();
        let torn = cut % 64 != 0;
        assert_eq!(stat(&root).bad_records, u64::from(torn), "cut at {cut}");
        let got = reopen(&root, &in_order).await;
        let whole = (cut as usize / RECORD).saturating_sub(HEAD);
        assert_eq!(there(&got[..whole]), whole, "cut at {cut}");
        assert_eq!(there(&got[whole..]), 0, "cut at {cut}");
    }
}

#[tokio::test]
async fn a_flipped_bit_costs_only_what_it_hits() {
    let all = pages(0..40);
    let killed = killed(&all).await;
    let closed = closed(&all).await;
    // (which files, which byte, how many pages may be gone)
    let cases = [
        (&killed, "journal", 5, 40), // the header: nothing in the journal is believed
        (&killed, "journal", RECORD + 5, 40), // the pool
        (&killed, "journal", (HEAD + 3) * RECORD + 30, 1), // one page's record
        (&killed, "journal", (HEAD + 39) * RECORD + 63, 1),
        (&killed, "seg-", 7 * PAGE + 9, 1),
        (&closed, "snapshot", 20 * RECORD + 1, 40),
        (&closed, "journal", 3, 0),
        (&closed, "seg-", 9, 1),
    ];
    for (original, file, byte, most) in cases {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("image");
        copy_tree(&original.path().join("image"), &root);
        flip(&files(&root, file)[0], byte);
        let seen = stat(&root);
        assert_eq!(seen.bad_records + seen.bad_snapshots > 0, file != "seg-", "{file} {byte}: {seen:?}");
        let got = reopen(&root, &all).await;
        assert!(there(&got) >= 40 - most, "byte {byte} of {file} cost {} pages", 40 - there(&got));
        assert!(there(&got) < 40 || most == 0, "byte {byte} of {file} was not noticed");
    }
}

#[tokio::test]
async fn a_missing_file_costs_only_what_was_in_it() {
    let all = pages(0..600);
    let closed = closed(&all).await;
    let killed = killed(&all).await;
    // Three segments of 256 slots.
    let cases = [(&closed, "snapshot", 0), (&closed, "journal", 600), (&closed, "seg-", 600 - 256)];
    let cases = cases.into_iter().chain([(&killed, "journal", 0), (&killed, "seg-", 600 - 256)]);
    for (original, file, left) in cases {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("image");
        copy_tree(&original.path().join("image"), &root);
        if let Some(first) = files(&root, file).first() {
            fs::remove_file(first).unwrap();
        }
        let got = reopen(&root, &all).await;
        if std::ptr::eq(original, &killed) && file == "journal" {
            // The store had begun its second generation: what the snapshot has is there.
            assert!(there(&got) >= left);
        } else {
            assert_eq!(there(&got), left, "without a {file}");
        }
    }
}

#[tokio::test]
async fn a_segment_cut_short_loses_its_tail() {
    let all = pages(0..40);
    for (cut, left) in [(0, 0), (10 * PAGE as u64, 10), (10 * PAGE as u64 + 7, 10)] {
        let original = closed(&all).await;
        let root = original.path().join("image");
        fs::OpenOptions::new().write(true).open(&files(&root, "seg-")[0]).unwrap().set_len(cut).unwrap();
        assert_eq!(stat(&root).lost_pages, 40 - left);
        let got = reopen(&root, &all).await;
        assert_eq!(there(&got) as u64, left, "cut to {cut}");
    }
}

/// The record with which a generation ends.
fn seal(next: u64) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[0] = 4;
    record[20..28].copy_from_slice(&next.to_le_bytes());
    let check = record_check(&record[..60]);
    record[60..].copy_from_slice(&check.to_le_bytes());
    record
}

#[tokio::test]
async fn a_seal_that_leads_nowhere_begins_the_next_generation() {
    let all = pages(0..40);
    let original = killed(&all).await;
    let root = original.path().join("image");
    let journal = files(&root, "journal").remove(0);
    let mut raw = fs::read(&journal).unwrap();
    raw.extend_from_slice(&seal(1));
    fs::write(&journal, raw).unwrap();
    let bench = Bench::open(config(&root)).await;
    assert_eq!(stat(&root).generation, 1, "a sealed journal was continued");
    assert!(!journal.exists(), "a sealed journal was kept");
    bench.close().await;
    let got = reopen(&root, &all).await;
    assert_eq!(there(&got), 40);
}

/// Killed between sealing a generation and its snapshot: two journals, the older one whole.
#[tokio::test]
async fn two_generations_are_one_store() {
    let all = pages(0..40);
    let original = killed(&all).await;
    let root = original.path().join("image");
    let old = files(&root, "journal").remove(0);
    let mut raw = fs::read(&old).unwrap();
    let bench = Bench::open(config(&root)).await;
    bench.store_with(&[Page { version: 2, ..page(3) }, page(50)], true).await;
    bench.store.delete(&keys(&[page(4)])).await.unwrap();
    bench.close().await;
    let bench = Bench::open(config(&root)).await;
    bench.store_with(&[Page { version: 3, ..page(5) }, page(51)], true).await;
    copy_tree(&root, &original.path().join("both"));
    bench.close().await;
    // A leftover of a generation before the snapshot says nothing any more.
    let both = original.path().join("both");
    let new = files(&both, "journal").remove(0);
    fs::write(new.with_file_name(old.file_name().unwrap()), &raw).unwrap();
    let expect = [(3, Got::Version(2)), (4, Got::Absent), (5, Got::Version(3)), (6, Got::Version(1))];
    let got = reopen(&both, &all).await;
    for (number, expected) in expect {
        assert_eq!(got[number], expected, "page {number}");
    }
    assert_eq!(there(&got), 39);
    // Sealed, and the next one has begun, but has no snapshot.
    let bare = tempfile::tempdir().unwrap();
    let root = bare.path().join("bare");
    copy_tree(&killed(&all).await.path().join("image"), &root);
    for file in files(&root, "journal").into_iter().chain(files(&root, "snapshot")) {
        fs::remove_file(file).unwrap();
    }
    let mut next = raw[..HEAD * RECORD].to_vec();
    next[20] = 1;
    let check = record_check(&next[..60]);
    next[60..64].copy_from_slice(&check.to_le_bytes());
    raw.extend_from_slice(&seal(1));
    let set = stat(&both).directory;
    let set = root.join(set.strip_prefix(&both).unwrap());
    fs::write(set.join("journal-0000000000"), &raw).unwrap();
    fs::write(set.join("journal-0000000001"), &next).unwrap();
    let got = reopen(&root, &all).await;
    assert_eq!(there(&got), 40);
}

#[tokio::test]
async fn leftovers_aside_are_removed() {
    let all = pages(0..10);
    let original = closed(&all).await;
    let root = original.path().join("image");
    let set = stat(&root).directory;
    for name in ["snapshot.new", "names.new"] {
        fs::write(set.join(name), "half of something").unwrap();
    }
    assert_eq!(there(&reopen(&root, &all).await), 10);
    assert!(!set.join("snapshot.new").exists() && !set.join("names.new").exists());
}

#[tokio::test]
async fn damaged_names_cost_names_only() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::open(config(directory.path())).await;
    let requests = (0..10).map(|i| {
        let memory = bench.full(i, page(i as u64)).memory;
        PageRequest::named(&format!("name-{i}"), memory).unwrap()
    });
    let batch = bench.store.store(requests.collect(), StoreOptions::default()).await;
    assert!(batch.outcomes.iter().all(hicache_core::Outcome::is_done));
    drop(batch);
    bench.close().await;
    let names = files(directory.path(), "names").remove(0);
    flip(&names, 60);
    let cut = fs::metadata(&names).unwrap().len() - 3;
    fs::OpenOptions::new().write(true).open(&names).unwrap().set_len(cut).unwrap();
    let bench = Bench::open(config(directory.path())).await;
    assert_eq!(bench.store.list("name-", None, 100).await.unwrap().pages.len(), 8);
    assert_eq!(bench.store.list("", None, 100).await.unwrap().pages.len(), 10);
    let again = PageRequest::named("name-new", bench.full(0, page(0)).memory).unwrap();
    drop(bench.store.store(vec![again], StoreOptions::default()).await);
    assert_eq!(bench.store.list("name-", None, 100).await.unwrap().pages.len(), 9);
    bench.close().await;
}

/// Segments that were given back on purpose are not pages lost: a killed store that cleared, or that gave segments of
/// one size to another, is found undamaged.
#[tokio::test]
async fn given_back_is_not_lost() {
    let directory = tempfile::tempdir().unwrap();
    let (live, image) = (directory.path().join("live"), directory.path().join("image"));
    let large = |number| Page { number, version: 1, bytes: 4 * PAGE };
    let bench = Bench::new(fixture::open(limited(&live, 2 << 20), pread()).await, 64, 4 * PAGE);
    for turn in 0..3 {
        bench.store(&pages(turn * 100..turn * 100 + 100)).await;
        bench.store(&(1000 + turn * 200..1200 + turn * 200).map(large).collect::<Vec<_>>()).await;
        copy_tree(&live, &image);
        let seen = stat(&image);
        assert_eq!((seen.bad_records, seen.lost_pages), (0, 0), "{seen:?}");
        verify(&image);
        fs::remove_dir_all(&image).unwrap();
    }
    bench.store.clear().await.unwrap();
    bench.store(&pages(0..5)).await;
    copy_tree(&live, &image);
    let seen = stat(&image);
    assert_eq!((seen.bad_records, seen.lost_pages, seen.pages), (0, 0, 5), "{seen:?}");
    bench.close().await;
    let bench = Bench::open(limited(&image, 2 << 20)).await;
    bench.load_all(&pages(0..5)).await;
    // Numbers of segments that are gone are used again, for another size.
    bench.store(&(5000..5100).map(page).collect::<Vec<_>>()).await;
    bench.close().await;
    assert_eq!(stat(&image).bad_records, 0);
}

#[tokio::test]
async fn the_order_of_use_survives_a_close() {
    let directory = tempfile::tempdir().unwrap();
    let config = limited(directory.path(), 1 << 20);
    let bench = Bench::open(config.clone()).await;
    let slots = bench.store.slots(PAGE as u64).unwrap();
    // One by one, so that the order of use is plain.
    for number in 0..slots {
        bench.store(&[page(number)]).await;
    }
    assert_eq!(bench.store.stat().pages, slots);
    let mut order: Vec<u64> = (0..slots).collect();
    for touched in [7, 3, slots / 2, 0] {
        if touched % 2 == 0 {
            bench.load_all(&[page(touched)]).await;
        } else {
            assert_eq!(bench.store.exists(&keys(&[page(touched)])).await.unwrap(), [true]);
        }
        order.retain(|&number| number != touched);
        order.push(touched);
    }
    bench.close().await;
    let bench = Bench::open(config).await;
    let new = slots - 10;
    bench.store(&(10_000..10_000 + new).map(page).collect::<Vec<_>>()).await;
    let stay: Vec<_> = order[new as usize..].iter().map(|&number| page(number)).collect();
    let gone: Vec<_> = order[..new as usize].iter().map(|&number| page(number)).collect();
    bench.load_all(&stay).await;
    assert_eq!(bench.count(&gone).await, 0);
    bench.close().await;
}

#[tokio::test]
async fn generations_do_not_pile_up() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::open(limited(directory.path(), 1 << 20)).await;
    let mut most = 0;
    for round in 0..60 {
        // Overwrites, evictions and deletions, ten times what fits.
        let some: Vec<_> = (0..120).map(|i| Page { version: round, ..page(round * 40 + i) }).collect();
        bench.store_with(&some, true).await;
        bench.store.delete(&keys(&some[..20])).await.unwrap();
        most = most.max(files(directory.path(), "journal").len() + files(directory.path(), "snapshot").len());
    }
    let generation = stat(directory.path()).generation;
    assert!(generation > 10, "only {generation} generations");
    assert!(most <= 5, "{most} journals and snapshots at once");
    bench.close().await;
    assert_eq!(files(directory.path(), "journal").len() + files(directory.path(), "snapshot").len(), 2);
    let left = stat(directory.path());
    assert_eq!((left.bad_records, left.lost_pages), (0, 0));
    verify(directory.path());
}

/// Nobody waits for a store that is dropped, and nothing of it is missing afterwards.
#[tokio::test]
async fn a_dropped_store_finishes_what_was_begun() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let bench = Bench::open(config(directory.path())).await;
        let new = pages(round * 50..round * 50 + 50);
        drop(bench.store.store(bench.full_batch(&new), StoreOptions::default()));
        let weak: std::sync::Weak<PageStore> = Arc::downgrade(&bench.store);
        drop(bench);
        assert_eq!(weak.strong_count(), 0);
        fixture::released(directory.path()).await;
        let bench = Bench::open(config(directory.path())).await;
        bench.load_all(&pages(0..round * 50 + 50)).await;
        bench.close().await;
    }
}

/// Length is not content: a file that is made long without being written is neither read to its end nor believed.
#[tokio::test]
async fn files_that_were_made_very_long_cost_nothing() {
    for made_long in ["journal-", "snapshot-"] {
        let directory = closed(&pages(0..50)).await;
        let image = directory.path().join("image");
        let long = files(&image, made_long).remove(0);
        let file = fs::OpenOptions::new().write(true).open(&long).unwrap();
        if let Err(error) = file.set_len(8 << 40) {
            fixture::say(&format!("went without: a file of 8 TiB: {error}"));
            return;
        }
        drop(file);
        let began = std::time::Instant::now();
        let got = reopen(&image, &pages(0..50)).await;
        let whole = if made_long == "journal-" { 50 } else { 0 };
        assert!(there(&got) >= whole, "{made_long}: {}", there(&got));
        assert!(began.elapsed() < fixture::LONG, "{made_long} took {:?}", began.elapsed());
    }
}
