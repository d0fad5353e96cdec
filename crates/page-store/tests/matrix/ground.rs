//! A store with pages in it, and a fault that has struck.

use std::path::PathBuf;
use std::sync::Arc;

use hicache_core::{Engine, Storage};
use hicache_page_store::{PageStore, PageStoreConfig};
use hicache_testkit::{FaultPlan, FaultyEngine};

use super::super::fixture::disk::Disk;
use super::super::fixture::{self, Bench, PAGE, Page, copy_tree, limited, page, pages, pread};
use super::faults::{Fault, Medium, When, open_files};

/// Pages that are stored before the fault.
pub(super) const STOCK: u64 = 16;
/// Pages that fill a small disk.
const FILLING: u64 = 2000;

pub(super) struct Ground {
    pub(super) engine: Arc<FaultyEngine>,
    /// The open store; `None` where none is open, or none could be opened.
    pub(super) bench: Option<Bench>,
    pub(super) disk: Option<Disk>,
    pub(super) root: PathBuf,
    /// Pages that could be loaded before the fault.
    pub(super) stock: Vec<Page>,
    /// The page that operations are tried on.
    pub(super) hit: Page,
    pub(super) fault: &'static Fault,
    _home: tempfile::TempDir,
}

impl Ground {
    /// `None` where the fault can't be had.
    pub(super) async fn prepare(fault: &'static Fault) -> Option<Self> {
        let home = tempfile::tempdir().unwrap();
        let disk = match fault.medium {
            Medium::Folder => None,
            Medium::Small => Some(Disk::tmpfs(3 << 20)?),
            Medium::Ext4 => Some(Disk::ext4(24 << 20)?),
        };
        let root = disk.as_ref().map_or_else(|| home.path().join("root"), Disk::root);
        let engine = FaultyEngine::new(pread(), FaultPlan::none());
        let mut ground =
            Self { engine, bench: None, disk, root, stock: Vec::new(), hit: page(0), fault, _home: home };
        ground.fill().await;
        if fault.when == When::Closed {
            ground.bench = None;
        }
        let struck = (fault.strike)(&mut ground).await;
        struck.then_some(ground)
    }

    async fn fill(&mut self) {
        let bench = self.open().await.unwrap();
        if self.fault.empty {
            self.bench = Some(bench);
            return;
        }
        let all = pages(0..if self.disk.is_some() { FILLING } else { STOCK });
        let (first, second) = all.split_at(all.len() / 2);
        bench.store(first).await;
        if self.fault.when == When::Running {
            bench.store(second).await;
            for page in &all {
                if bench.store.exists_now(&[page.key()]).unwrap().unwrap()[0] {
                    self.stock.push(*page);
                }
            }
            self.hit = all[all.len() - 1];
            self.bench = Some(bench);
            return;
        }
        // A snapshot with the first half, a journal with the second, as after a kill.
        bench.close().await;
        let bench = self.open().await.unwrap();
        bench.store(second).await;
        let killed = self.root.with_extension("killed");
        copy_tree(&self.root, &killed);
        bench.close().await;
        std::fs::remove_dir_all(&self.root).unwrap();
        std::fs::rename(killed, &self.root).unwrap();
        self.stock = all;
    }

    pub(super) fn config(&self) -> PageStoreConfig {
        let config = limited(&self.root, 16 << 20);
        PageStoreConfig { io_timeout_ms: self.fault.patience_ms, ..config }
    }

    /// Opens the store at the root, over an engine of its own.
    pub(super) async fn open(&mut self) -> hicache_core::Result<Bench> {
        self.engine = FaultyEngine::new(pread(), FaultPlan::none());
        let engine = Arc::clone(&self.engine) as Arc<dyn Engine>;
        let opening = PageStore::open(self.config(), vec![engine]);
        Ok(Bench::new(fixture::in_time("opening", opening).await?, 64, PAGE))
    }

    /// The store of the row: for damage that is found at opening it is opened now.
    pub(super) async fn opened(&mut self) -> Option<&Bench> {
        if self.bench.is_none() && self.fault.when == When::Closed {
            self.bench = self.open().await.ok();
        }
        self.bench.as_ref()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // A limit of the process outlives the store, and nothing can be cleaned up under it.
        if self.fault.alone {
            open_files(None);
        }
    }
}
