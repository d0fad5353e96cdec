//! A store over two engines for the same memory, the first of which is strict: it gets what it takes as it lies, and the other one
//! the rest.

mod fixture;

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use fixture::{Bench, PAGE, Page, in_time, pages, pread};
use hicache_core::{
    Direction, Engine, EngineCapabilities, EngineFile, Extent, ExtentsDone, Region, Registration, Result,
    Transfer,
};
use hicache_page_store::PageStore;

/// Notes the lengths of what it is given.
#[derive(Debug)]
struct Noting {
    inner: Arc<dyn Engine>,
    capabilities: EngineCapabilities,
    seen: Mutex<Vec<usize>>,
}

impl Noting {
    fn new(alignment: usize) -> Arc<Self> {
        let inner = pread();
        let capabilities = EngineCapabilities { alignment, ..inner.capabilities().clone() };
        Arc::new(Self { inner, capabilities, seen: Mutex::default() })
    }

    fn take(&self) -> Vec<usize> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

#[async_trait]
impl Engine for Noting {
    fn capabilities(&self) -> &EngineCapabilities {
        &self.capabilities
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        self.inner.register(region)
    }

    fn attach(&self, file: Arc<File>, path: &Path) -> Result<EngineFile> {
        self.inner.attach(file, path)
    }

    fn submit(&self, direction: Direction, extents: Vec<Extent>) -> Transfer<ExtentsDone> {
        self.seen.lock().unwrap().extend(extents.iter().map(|extent| extent.memory.bytes()));
        self.inner.submit(direction, extents)
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

#[tokio::test]
async fn what_the_first_engine_does_not_take_goes_through_the_second() {
    let directory = tempfile::tempdir().unwrap();
    let (strict, lenient) = (Noting::new(4096), Noting::new(1));
    let engines = [&strict, &lenient].map(|engine| Arc::clone(engine) as Arc<dyn Engine>).to_vec();
    let opening = PageStore::open(fixture::config(directory.path()), engines);
    let bench = Bench::new(in_time("opening", opening).await.unwrap(), 8, PAGE);
    let odd = |page: Page| Page { bytes: PAGE - 1000, ..page };
    let (whole, odd): (Vec<_>, Vec<_>) = (pages(0..1), pages(1..2).into_iter().map(odd).collect());
    let all = [whole, odd].concat();
    bench.store(&all).await;
    assert_eq!((strict.take(), lenient.take()), (vec![PAGE], vec![PAGE - 1000]));
    bench.load_all(&all).await;
    assert_eq!((strict.take(), lenient.take()), (vec![PAGE], vec![PAGE - 1000]));
    bench.close().await;
}
