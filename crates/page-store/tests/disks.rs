//! Real disks that are full, failing, read-only, removed and unmounted: each has its answer, nothing that was there is
//! lost, and the store goes on by itself when the disk does.

mod fixture;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use fixture::disk::Disk;
use fixture::{Bench, Got, PAGE, Page, in_time, limited, page, pages, pread, say, verify};
use hicache_core::{Error, ErrorKind, Outcome, Storage};
use hicache_page_store::{PageStore, PageStoreConfig};

const MIB: u64 = 1 << 20;
/// Longer than a root may be gone before a store says so.
const NOTICED: Duration = Duration::from_millis(1100);

fn kinds(outcomes: &[Outcome]) -> Vec<Option<ErrorKind>> {
    outcomes.iter().map(|outcome| outcome.error().map(Error::kind)).collect()
}

/// Stores a page that is not there, again and again, until one is answered so; all the answers.
async fn until(bench: &Bench, wanted: impl Fn(&Outcome) -> bool) -> Vec<Outcome> {
    let (begun, mut seen) = (Instant::now(), Vec::<Outcome>::new());
    for number in 7_000_000.. {
        assert!(begun.elapsed() < fixture::LONG, "never: {:?}", &seen[seen.len().saturating_sub(3)..]);
        seen.extend(in_time("a store", bench.try_store(&[page(number)], false)).await);
        if wanted(&seen[seen.len() - 1]) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    seen
}

async fn until_done(bench: &Bench) -> Vec<Outcome> {
    until(bench, Outcome::is_done).await
}

fn is(kind: ErrorKind) -> impl Fn(&Outcome) -> bool {
    move |outcome| outcome.error().is_some_and(|error| error.kind() == kind)
}

/// Every page is there and right, or was evicted.
async fn right_or_evicted(bench: &Bench, all: &[Page], evicted: u64) -> u64 {
    let there = in_time("loading", bench.count(all)).await;
    assert!(all.len() as u64 - there <= evicted, "{there} of {} there, {evicted} evicted", all.len());
    there
}

#[tokio::test]
async fn full_to_the_last_byte() {
    let Some(disk) = Disk::ext4(24 * MIB).or_else(|| Disk::tmpfs(24 * MIB)) else {
        say("went without: a disk to fill; the limit on file sizes stands for it in another test");
        return;
    };
    let config = || limited(&disk.root(), 1 << 30);
    let open = async || Bench::new(fixture::open(config(), pread()).await, 128, 4 * PAGE);
    let large = |numbers: std::ops::Range<u64>| {
        numbers.map(|number| Page { bytes: 4 * PAGE, ..page(number) }).collect::<Vec<_>>()
    };
    // The store itself: everything is done, by eviction.
    let bench = open().await;
    let all = large(0..4000);
    bench.store(&all).await;
    let stat = bench.store.stat();
    assert!(stat.evicted_pages > 1000, "{stat:?}");
    let there = right_or_evicted(&bench, &all, stat.evicted_pages).await;
    assert_eq!(there, stat.pages);
    // Somebody else, to the last byte.
    let other = disk.fill();
    let more = large(10_000..10_400);
    let outcomes = in_time("storing", bench.try_store(&more, false)).await;
    assert!(outcomes.iter().all(|o| o.is_done() || is(ErrorKind::NoSpace)(o)), "{outcomes:?}");
    let done: Vec<Page> = more.iter().zip(&outcomes).filter(|(_, o)| o.is_done()).map(|(p, _)| *p).collect();
    say(&format!("{there} pages, {} of 400 done on a disk with nothing left", done.len()));
    let stat = bench.store.stat();
    assert_eq!((stat.breaker_opened, stat.failed_pages), (0, 400 - done.len() as u64));
    let known: Vec<Page> = all.iter().chain(&done).copied().collect();
    right_or_evicted(&bench, &known, stat.evicted_pages).await;
    let pages_before = bench.store.stat().pages;
    assert!(pages_before > there / 2, "{pages_before} of {there} pages are left");
    // Closed and opened with nothing free: nothing is lost that was there.
    drop(bench.store.close().await);
    drop(bench);
    assert_eq!(verify(&disk.root()), pages_before);
    disk.fill();
    for tail in [false, true] {
        if tail {
            // As after a kill in the middle of a record.
            let journal = fixture::files(&disk.root(), "journal-").pop().unwrap();
            let torn = fs::OpenOptions::new().append(true).open(journal).unwrap();
            let _ = std::io::Write::write_all(&mut &torn, &[7; 40]);
        }
        let bench = open().await;
        let there = bench.store.stat().pages;
        // A segment, or two with their neighbours, went for a new journal.
        let least = if tail { pages_before / 2 } else { pages_before };
        assert!(there >= least, "{there} of {pages_before} pages after opening, tail {tail}");
        right_or_evicted(&bench, &known, known.len() as u64 - there).await;
        let outcomes = in_time("storing", bench.try_store(&large(20_000..20_050), false)).await;
        assert!(outcomes.iter().all(|o| o.is_done() || is(ErrorKind::NoSpace)(o)), "{outcomes:?}");
        drop(bench.store.close().await);
    }
    // With the file gone, stores work again by themselves.
    let bench = open().await;
    fs::remove_file(other).unwrap();
    let again = large(30_000..30_400);
    in_time("stores go on", async {
        while !bench.try_store(&again, false).await.iter().all(Outcome::is_done) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    bench.load_all(&again).await;
    bench.close().await;
    let bench = open().await;
    bench.load_all(&again).await;
    bench.close().await;
    verify(&disk.root());
}

#[tokio::test]
async fn a_file_system_that_the_kernel_made_read_only() {
    let Some(mut disk) = Disk::ext4(24 * MIB) else { return };
    let bench = Bench::open(limited(&disk.root(), 16 * MIB)).await;
    bench.store(&pages(0..200)).await;
    // What the kernel has not written by then it never does.
    sync(&disk.path());
    if !disk.break_read_only() {
        return;
    }
    let refused = until(&bench, is(ErrorKind::Unavailable)).await;
    assert_eq!(kinds(&refused[..refused.len() - 1]), vec![Some(ErrorKind::Io); refused.len() - 1]);
    let error = refused.last().unwrap().error().unwrap();
    let text = error.to_string();
    assert_eq!(error.errno(), Some(30), "{text}");
    assert!(text.contains(disk.root().to_str().unwrap()) && text.contains("Read-only"), "{text}");
    // What is there can be read, and deleting it is refused, not forgotten.
    bench.load_all(&pages(0..200)).await;
    let keys = fixture::keys(&pages(0..1));
    assert!(bench.store.delete(&keys).await.is_err());
    bench.load_all(&pages(0..1)).await;
    assert!(bench.store.close().await.is_err(), "there is no last snapshot");
    drop(bench);
    // Opened like this, an operator is told what to do.
    let root = disk.root();
    let config = || limited(&root, 16 * MIB);
    let error = PageStore::open(config(), vec![pread()]).await.unwrap_err();
    let text = error.to_string();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Unavailable, Some(30)), "{text}");
    assert!(text.contains(disk.root().to_str().unwrap()) && text.contains("mount it for writing"), "{text}");
    disk.unmount();
    // Its journal wants to be read first.
    assert!(disk.mount());
    disk.unmount();
    assert!(disk.mount_with("ro"));
    let error = PageStore::open(config(), vec![pread()]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    disk.unmount();
    assert!(disk.mount());
    let bench = Bench::open(config()).await;
    bench.load_all(&pages(0..200)).await;
    bench.store(&pages(300..310)).await;
    bench.close().await;
    disk.unmount();
}

/// Every call fails, those on the journal too. Then the content is there again, on another disk.
#[tokio::test]
async fn a_disk_that_dies_and_is_replaced() {
    let Some(mut disk) = Disk::ext4(24 * MIB) else { return };
    let bench = Bench::open(PageStoreConfig { io_timeout_ms: 300, ..limited(&disk.root(), 16 * MIB) }).await;
    bench.store(&pages(0..200)).await;
    sync(&disk.path());
    if !disk.shut_down() {
        return;
    }
    let refused = until(&bench, is(ErrorKind::Unavailable)).await;
    let error = refused.last().unwrap().error().unwrap();
    assert_eq!(error.errno(), Some(5), "{error}");
    assert_eq!(bench.load(&pages(0..2)).await, [Got::Failed(ErrorKind::Io); 2]);
    in_time("reading is given up", async {
        while bench.load(&pages(0..2)).await != [Got::Failed(ErrorKind::Unavailable); 2] {}
    })
    .await;
    assert!(disk.replace_by_copy());
    until_done(&bench).await;
    // What was synced was on the copy.
    in_time("reading", async {
        while bench.load(&pages(0..200)).await.iter().any(|got| matches!(got, Got::Failed(_))) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    bench.load_all(&pages(0..200)).await;
    assert!(bench.store.stat().stored_pages > 200, "counts go on");
    bench.close().await;
}

fn sync(path: &Path) {
    rustix::fs::syncfs(fs::File::open(path).unwrap()).unwrap();
}

#[tokio::test]
async fn a_disk_unmounted_underneath() {
    let Some(mut disk) = Disk::ext4(24 * MIB) else { return };
    let bench = Bench::open(PageStoreConfig { io_timeout_ms: 500, ..limited(&disk.root(), 16 * MIB) }).await;
    bench.store(&pages(0..200)).await;
    disk.detach();
    tokio::time::sleep(NOTICED).await;
    let outcomes = in_time("a store", bench.try_store(&pages(300..302), false)).await;
    let error = outcomes[0].error().expect("it must not go into a disk that nobody sees");
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{text}");
    assert!(text.contains(disk.root().to_str().unwrap()) && text.contains("unmounted"), "{text}");
    until(&bench, is(ErrorKind::Unavailable)).await;
    tokio::time::sleep(NOTICED).await;
    assert!(is(ErrorKind::Unavailable)(&bench.try_store(&pages(302..303), false).await[0]));
    bench.load_all(&pages(0..200)).await;
    let under = fs::read_dir(disk.path()).unwrap().count();
    assert_eq!(under, 0, "nothing is made below the mount point");
    // Nor where somebody made the root's directory on the disk below.
    fs::create_dir(disk.root()).unwrap();
    for _ in 0..6 {
        tokio::time::sleep(NOTICED).await;
        assert!(is(ErrorKind::Unavailable)(&bench.try_store(&pages(303..304), false).await[0]));
    }
    assert_eq!(fs::read_dir(disk.root()).unwrap().count(), 0, "another disk is not filled");
    assert!(bench.store.delete(&fixture::keys(&pages(0..1))).await.is_err());
    assert!(disk.mount());
    until_done(&bench).await;
    bench.load_all(&pages(0..200)).await;
    bench.store(&pages(300..310)).await;
    bench.close().await;
    assert!(verify(&disk.root()) >= 210);
}

/// Whatever is removed while the store has it open.
#[tokio::test]
async fn a_root_removed_underneath() {
    let set = |root: &Path| fixture::stat(root).directory;
    for what in ["root", "set", "lock", "journal"] {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("root");
        let config = PageStoreConfig { io_timeout_ms: 300, ..limited(&root, 16 * MIB) };
        let bench = Bench::open(config.clone()).await;
        bench.store(&pages(0..200)).await;
        match what {
            "root" => fs::remove_dir_all(&root).unwrap(),
            "set" => fs::remove_dir_all(set(&root)).unwrap(),
            "lock" => fs::remove_file(set(&root).join("LOCK")).unwrap(),
            _ => fs::remove_file(fixture::files(&root, "journal-").pop().unwrap()).unwrap(),
        }
        tokio::time::sleep(NOTICED).await;
        let first = in_time("a store", bench.try_store(&[page(1000)], false)).await.remove(0);
        bench.load_all(&pages(0..200)).await;
        if what == "journal" {
            assert!(first.is_done(), "{first:?}");
        } else {
            let text = first.error().expect(what).to_string();
            assert!(is(ErrorKind::Unavailable)(&first), "{what}: {text}");
            assert!(text.contains(root.to_str().unwrap()) && text.contains("removed"), "{what}: {text}");
        }
        if what == "root" {
            tokio::time::sleep(NOTICED).await;
            let still = bench.try_store(&[page(1001)], false).await.remove(0);
            assert!(is(ErrorKind::Unavailable)(&still) && !root.exists(), "{still:?}");
            fs::create_dir(&root).unwrap();
        }
        until_done(&bench).await;
        let kept = matches!(what, "lock" | "journal");
        let there = if kept { Got::Version(1) } else { Got::Absent };
        assert_eq!(bench.load(&pages(0..3)).await, [there; 3], "{what}");
        bench.store(&pages(2000..2100)).await;
        bench.load_all(&pages(2000..2100)).await;
        let stat = bench.store.stat();
        assert!(stat.stored_pages >= 301 && stat.breakers_open == 0, "{what}: {stat:?}");
        bench.close().await;
        // It was written where it is found again.
        verify(&root);
        let bench = Bench::open(config).await;
        bench.load_all(&pages(2000..2100)).await;
        assert_eq!(bench.load(&pages(0..3)).await, [there; 3], "{what}");
        bench.close().await;
    }
}
