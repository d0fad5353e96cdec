//! The faults: how each strikes, and how it ends.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use hicache_core::{Direction, Storage};
use hicache_testkit::{EngineFault, FaultPlan};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::super::fixture::{files, flip, page, stat};
use super::ground::Ground;

/// What a root lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Medium {
    Folder,
    /// A file system that the store fills.
    Small,
    Ext4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// The store is open.
    Running,
    /// The process is dead; the next one finds it.
    Closed,
}

/// False where the fault can't be had on this machine.
type Strike = for<'a> fn(&'a mut Ground) -> Pin<Box<dyn Future<Output = bool> + 'a>>;

pub(crate) struct Fault {
    pub(super) name: &'static str,
    pub(super) medium: Medium,
    pub(super) when: When,
    /// Whether the store has no page when it strikes.
    pub(super) empty: bool,
    /// Whether operations are called in a forked child.
    pub(super) forked: bool,
    /// Whether it hits other stores of the process too.
    pub(super) alone: bool,
    /// The store's `io_timeout_ms`.
    pub(super) patience_ms: u64,
    pub(super) strike: Strike,
    pub(super) mend: fn(&mut Ground),
}

/// A fault of a folder, as most are.
const fn fault(name: &'static str, when: When, strike: Strike) -> Fault {
    Fault {
        name,
        medium: Medium::Folder,
        when,
        empty: false,
        forked: false,
        alone: false,
        patience_ms: 20_000,
        strike,
        mend: |_| (),
    }
}

macro_rules! strike {
    (|$ground:ident| $body:expr) => {
        |$ground| {
            Box::pin(async move {
                $body;
                true
            })
        }
    };
}

const NOTHING: Strike = |_| Box::pin(std::future::ready(true));

const EIO: EngineFault = EngineFault::Fail { errno: 5, after_moving: false };

fn healthy(ground: &mut Ground) {
    ground.engine.set_plan(FaultPlan::none());
    ground.engine.release_lost();
}

fn every(ground: &Ground, direction: Direction, fault: EngineFault) {
    ground.engine.set_plan(FaultPlan::every(direction, fault));
}

/// The one file of the set whose name begins so, of the highest number.
fn newest(ground: &Ground, prefix: &str) -> PathBuf {
    files(&ground.root, prefix).pop().expect(prefix)
}

fn manifest(ground: &Ground) -> PathBuf {
    stat(&ground.root).directory.parent().unwrap().join("MANIFEST")
}

fn cut(path: PathBuf, bytes: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(bytes).unwrap();
}

pub(super) fn open_files(current: Option<u64>) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: current.or(maximum), maximum }).unwrap();
}

/// So long that the next store looks.
async fn noticed() {
    tokio::time::sleep(Duration::from_millis(1100)).await;
}

pub(super) const FAULTS: &[Fault] = &[
    fault("none", When::Running, NOTHING),
    Fault {
        medium: Medium::Small,
        mend: |ground| fs::remove_file(ground.disk.as_ref().unwrap().path().join("other")).unwrap(),
        ..fault(
            "somebody else filled the disk",
            When::Running,
            strike!(|ground| _ = ground.disk.as_ref().unwrap().fill()),
        )
    },
    Fault {
        medium: Medium::Small,
        empty: true,
        mend: |ground| fs::remove_file(ground.disk.as_ref().unwrap().path().join("other")).unwrap(),
        ..fault(
            "the same, and nothing to evict",
            When::Running,
            strike!(|ground| _ = ground.disk.as_ref().unwrap().fill()),
        )
    },
    Fault {
        mend: healthy,
        ..fault(
            "pages can't be read (EIO)",
            When::Running,
            strike!(|ground| every(ground, Direction::Read, EIO)),
        )
    },
    Fault {
        mend: healthy,
        ..fault(
            "reads come back short",
            When::Running,
            strike!(|ground| every(ground, Direction::Read, EngineFault::Short { bytes: 100 })),
        )
    },
    Fault {
        mend: healthy,
        ..fault(
            "pages can't be written (EIO)",
            When::Running,
            strike!(|ground| every(ground, Direction::Write, EIO)),
        )
    },
    Fault {
        patience_ms: 1000,
        mend: healthy,
        ..fault(
            "reads never end",
            When::Running,
            strike!(|ground| every(ground, Direction::Read, EngineFault::Swallowed)),
        )
    },
    Fault {
        patience_ms: 1000,
        mend: healthy,
        ..fault(
            "writes never end",
            When::Running,
            strike!(|ground| every(ground, Direction::Write, EngineFault::Swallowed)),
        )
    },
    Fault {
        medium: Medium::Ext4,
        mend: remount,
        ..fault("the kernel made the file system read-only", When::Running, |ground| {
            Box::pin(async { disk_fault(ground, |disk| disk.break_read_only()) })
        })
    },
    Fault {
        medium: Medium::Ext4,
        mend: remount,
        ..fault("every call fails (EIO), the journal's too", When::Running, |ground| {
            Box::pin(async { disk_fault(ground, |disk| disk.shut_down()) })
        })
    },
    Fault {
        alone: true,
        mend: |_| open_files(None),
        ..fault("no file can be opened (EMFILE)", When::Running, strike!(|_ground| open_files(Some(3))))
    },
    fault(
        "the root was removed",
        When::Running,
        strike!(|ground| {
            fs::remove_dir_all(&ground.root).unwrap();
            noticed().await;
        }),
    ),
    Fault {
        medium: Medium::Ext4,
        mend: |ground| assert!(ground.disk.as_mut().unwrap().mount()),
        ..fault(
            "the disk was unmounted (umount -l)",
            When::Running,
            strike!(|ground| {
                ground.disk.as_mut().unwrap().detach();
                noticed().await;
            }),
        )
    },
    fault(
        "a page was flipped on the disk",
        When::Running,
        strike!(|ground| flip(&newest(ground, "seg-"), 15 * 4096 + 99)),
    ),
    fault(
        "the store was closed",
        When::Running,
        strike!(|ground| ground.bench.as_ref().unwrap().store.close().await.unwrap()),
    ),
    Fault { forked: true, ..fault("called in a forked child", When::Running, NOTHING) },
    fault("none, after a kill", When::Closed, NOTHING),
    fault("a flipped page", When::Closed, strike!(|ground| flip(&newest(ground, "seg-"), 99))),
    fault(
        "a segment cut short",
        When::Closed,
        strike!(|ground| {
            cut(newest(ground, "seg-"), 4096 * 10);
            ground.hit = page(12);
        }),
    ),
    fault(
        "a segment missing",
        When::Closed,
        strike!(|ground| fs::remove_file(newest(ground, "seg-")).unwrap()),
    ),
    fault(
        "a torn last record",
        When::Closed,
        strike!(|ground| {
            let journal = newest(ground, "journal-");
            let bytes = fs::metadata(&journal).unwrap().len();
            cut(journal, bytes - 20);
            ground.hit = page(8);
        }),
    ),
    fault(
        "a flipped record in the journal",
        When::Closed,
        strike!(|ground| {
            // Behind the header: the pool, then the page that was put first, which is the last of the batch.
            flip(&newest(ground, "journal-"), 64 * 3 + 5);
            ground.hit = page(14);
        }),
    ),
    fault("a bad snapshot", When::Closed, strike!(|ground| flip(&newest(ground, "snapshot-"), 64 * 4))),
    fault(
        "the journal missing",
        When::Closed,
        strike!(|ground| {
            fs::remove_file(newest(ground, "journal-")).unwrap();
            ground.hit = page(12);
        }),
    ),
    fault(
        "a manifest of garbage",
        When::Closed,
        strike!(|ground| fs::write(manifest(ground), b"\x00garbage{").unwrap()),
    ),
    fault(
        "another namespace's manifest",
        When::Closed,
        strike!(|ground| {
            let text = fs::read_to_string(manifest(ground)).unwrap();
            fs::write(manifest(ground), text.replace("\"tests\"", "\"other\"")).unwrap();
        }),
    ),
    fault(
        "a manifest of a newer format",
        When::Closed,
        strike!(|ground| {
            let text = fs::read_to_string(manifest(ground)).unwrap();
            let newer = text.replacen("\"format_version\":1", "\"format_version\":9", 1).replacen(
                "\"format_version\": 1",
                "\"format_version\": 9",
                1,
            );
            assert_ne!(text, newer);
            fs::write(manifest(ground), newer).unwrap();
        }),
    ),
    fault("the manifest missing", When::Closed, strike!(|ground| fs::remove_file(manifest(ground)).unwrap())),
];

/// What is stored reaches the disk first: the kernel drops the rest when it gives a file system up.
fn disk_fault(ground: &mut Ground, strike: fn(&super::super::fixture::disk::Disk) -> bool) -> bool {
    let disk = ground.disk.as_ref().unwrap();
    rustix::fs::syncfs(fs::File::open(disk.path()).unwrap()).unwrap();
    strike(disk)
}

fn remount(ground: &mut Ground) {
    let disk = ground.disk.as_mut().unwrap();
    disk.unmount();
    assert!(disk.mount());
}
