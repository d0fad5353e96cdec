//! The choice of a backend, with backends that do as they are told.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use hicache::{
    Backend, Config, ErrorKind, Offer, ProbeContext, ProbeReport, Result, Selected, Verdict, probe_all,
    select,
};

/// Says what it was made to say, and remembers where it was asked.
#[derive(Debug)]
struct Fake {
    name: &'static str,
    refuses: Option<PathBuf>,
    probed: Arc<Mutex<Vec<(&'static str, PathBuf)>>>,
}

#[async_trait]
impl Backend for Fake {
    fn name(&self) -> &'static str {
        self.name
    }

    fn offer(&self) -> Offer {
        Offer::Engine
    }

    fn summary(&self) -> &'static str {
        "a backend for tests"
    }

    async fn probe(&self, context: &ProbeContext) -> ProbeReport {
        self.probed.lock().unwrap().push((self.name, context.directory.clone()));
        let refused = self.refuses.as_ref().is_some_and(|directory| context.directory.starts_with(directory));
        let (verdict, reason) =
            if refused { (Verdict::Unavailable, "broken on purpose") } else { (Verdict::Usable, "fine") };
        ProbeReport {
            backend: self.name,
            offer: Offer::Engine,
            verdict,
            reason: reason.into(),
            checks: Vec::new(),
        }
    }
}

#[derive(Default)]
struct Bench {
    probed: Arc<Mutex<Vec<(&'static str, PathBuf)>>>,
    backends: Vec<Box<dyn Backend>>,
}

impl Bench {
    fn fine(self, name: &'static str) -> Self {
        self.with(name, None)
    }

    fn broken(self, name: &'static str, directory: impl Into<PathBuf>) -> Self {
        self.with(name, Some(directory.into()))
    }

    fn with(mut self, name: &'static str, refuses: Option<PathBuf>) -> Self {
        self.backends.push(Box::new(Fake { name, refuses, probed: Arc::clone(&self.probed) }));
        self
    }

    async fn select(self, config: &Config) -> (Result<Selected>, Vec<&'static str>) {
        let selected = select(config, self.backends).await;
        let probed = self.probed.lock().unwrap().iter().map(|(name, _)| *name).collect();
        (selected, probed)
    }
}

fn auto() -> Config {
    Config::builder().set("order", "posix-uring,posix-pread").build().unwrap()
}

#[tokio::test]
async fn auto_takes_the_first_that_works_and_asks_no_further() {
    let bench = Bench::default().fine("memory").fine("posix-pread").fine("posix-uring");
    let (selected, probed) = bench.select(&auto()).await;
    let selected = selected.unwrap();
    assert_eq!(selected.backend.name(), "posix-uring");
    assert!(selected.skipped.is_empty());
    assert_eq!(probed, ["posix-uring"]);
}

#[tokio::test]
async fn auto_says_why_it_passed_one_over() {
    let (selected, probed) =
        Bench::default().broken("posix-uring", "/").fine("posix-pread").select(&auto()).await;
    let selected = selected.unwrap();
    assert_eq!(selected.backend.name(), "posix-pread");
    assert_eq!(selected.skipped.len(), 1);
    assert_eq!(
        selected.skipped[0].to_string(),
        "posix-uring was skipped: in /tmp/hicache_storage: broken on purpose"
    );
    assert_eq!(probed, ["posix-uring", "posix-pread"]);
    assert_eq!(selected.reports.len(), 2);
}

#[tokio::test]
async fn a_backend_must_work_in_every_directory() {
    let directory = tempfile::tempdir().unwrap();
    let (good, bad) = (directory.path().join("good"), directory.path().join("bad"));
    std::fs::create_dir(&bad).unwrap();
    let config = Config::builder().storage_dir([&good, &bad]).build().unwrap();
    let (selected, _) =
        Bench::default().broken("posix-uring", &bad).fine("posix-pread").select(&config).await;
    let selected = selected.unwrap();
    assert_eq!(selected.backend.name(), "posix-pread");
    assert!(selected.skipped[0].reason.contains(bad.to_str().unwrap()));
    assert!(!good.exists());
}

#[tokio::test]
async fn when_none_works_all_reasons_are_given() {
    let (selected, _) = Bench::default().broken("posix-uring", "/").select(&auto()).await;
    let error = selected.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = error.to_string();
    assert!(text.contains("posix-uring was skipped: in /tmp/hicache_storage: broken on purpose"), "{text}");
    assert!(text.contains("posix-pread was skipped: "), "{text}");
}

#[tokio::test]
async fn a_named_backend_that_fails_is_an_error_and_not_a_fallback() {
    let config = Config::builder().set("backend", "memory").build().unwrap();
    let (selected, probed) = Bench::default().fine("posix-uring").broken("memory", "/").select(&config).await;
    let error = selected.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(error.backend(), Some("memory"));
    assert!(error.to_string().contains("backend = \"memory\" (explicit) can't be used"), "{error}");
    assert!(error.to_string().contains("broken on purpose"), "{error}");
    assert_eq!(probed, ["memory"]);
}

#[tokio::test]
async fn a_name_outside_the_list_is_named_with_the_nearest() {
    let config = Config::builder().set("backend", "memory").build().unwrap();
    let (selected, probed) = Bench::default().fine("memories").fine("posix-uring").select(&config).await;
    let error = selected.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("memories, posix-uring; did you mean `memories`?"), "{error}");
    assert!(probed.is_empty());
}

#[tokio::test]
async fn a_directory_to_come_is_probed_in_its_nearest_ancestor() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config::builder().storage_dir([directory.path().join("a/b")]).build().unwrap();
    let bench = Bench::default().fine("posix-uring");
    let probed = Arc::clone(&bench.probed);
    bench.select(&config).await.0.unwrap();
    assert_eq!(*probed.lock().unwrap(), [("posix-uring", directory.path().to_owned())]);
}

#[tokio::test]
async fn probes_leave_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config::builder().build().unwrap();
    for place in [directory.path().to_owned(), directory.path().join("to/come")] {
        let reports = probe_all(&config, &place).await;
        let names: Vec<&str> = reports.iter().map(|report| report.backend).collect();
        let listed: Vec<&str> = hicache::backends(&config).iter().map(|backend| backend.name()).collect();
        assert_eq!(names, listed);
        let memory = reports.iter().find(|report| report.backend == "memory").unwrap();
        assert_eq!(memory.verdict, Verdict::Usable, "{memory:?}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
    // Where no file can be made, whoever runs this: the probes say so.
    for report in probe_all(&config, Path::new("/proc")).await {
        assert!(report.backend == "memory" || report.verdict == Verdict::Unavailable, "{report:?}");
    }
}
