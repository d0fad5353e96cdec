//! NIXL in the facade: the probe, the choice, and one store through NIXL and through io_uring.
#![cfg(feature = "nixl")]
#![allow(clippy::print_stdout, reason = "tests say what they went without")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hicache::{
    Access, Config, ConfigBuilder, Environment, Namespace, PageKey, PageRequest, ProbeReport, Region,
    Storage, StoreOptions, Verdict, probe_all, probe_named,
};

const PAGE: usize = 64 << 10;

/// The wheel, or `None`, said on the way, where it is not installed.
fn wheel() -> Option<PathBuf> {
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/nixl-1.5.1");
    if !packages.is_dir() {
        println!("went without: NIXL, since its wheel is not installed; `cargo xtask nixl` does that");
        return None;
    }
    Some(packages)
}

fn with(packages: &Path, directory: &Path) -> ConfigBuilder {
    Config::builder()
        .set("nixl.site_packages", packages.to_str().unwrap())
        .storage_dir([directory])
        .namespace(&Namespace::new("m"))
        .set("capacity_bytes", "64MiB")
}

fn of<'a>(reports: &'a [ProbeReport], name: &str) -> &'a ProbeReport {
    reports.iter().find(|report| report.backend == name).unwrap()
}

#[tokio::test]
async fn a_plugin_directory_that_is_not_there_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let config = with(directory.path(), directory.path())
        .environment(&Environment::from_iter([("NIXL_PLUGIN_DIR", "/nowhere/plugins")]))
        .build()
        .unwrap();
    let report = probe_named(&config, "nixl:POSIX", directory.path()).await.unwrap();
    assert!(report.reason.contains("NIXL_PLUGIN_DIR is /nowhere/plugins"), "{}", report.reason);
}

#[tokio::test]
async fn the_probe_says_which_plugins_work_and_why_the_others_do_not() {
    let Some(packages) = wheel() else { return };
    let directory = tempfile::tempdir().unwrap();
    let config = with(&packages, directory.path()).build().unwrap();
    let reports = probe_all(&config, directory.path()).await;
    let posix = of(&reports, "nixl:POSIX");
    assert_eq!(posix.verdict, Verdict::Usable, "{posix:?}");
    let steps: Vec<&str> = posix.checks.iter().map(|check| check.name.as_str()).collect();
    assert_eq!(steps, ["library", "plugin file", "parameters", "backend created", "write, read, compare"]);
    assert!(of(&reports, "nixl:3FS").reason.contains("libplugin_HF3FS.so"), "{reports:?}");
    assert!(of(&reports, "nixl:OBJ").reason.contains("AWS_DEFAULT_BUCKET"), "{reports:?}");
    if !Path::new("/dev/nvidia0").exists() {
        for name in ["nixl:GDS", "nixl:GDS_MT"] {
            assert!(of(&reports, name).reason.contains("GPU"), "{reports:?}");
        }
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// Pages in memory of a GPU, where there is none: the reason at once, in the helper too, and nothing of the plugin's is loaded.
#[tokio::test]
async fn memory_of_a_gpu_without_one_is_refused_with_the_reason_at_once() {
    let Some(packages) = wheel() else { return };
    if Path::new("/dev/nvidia0").exists() {
        return println!("went without: a machine without a GPU");
    }
    let wanted = if cfg!(feature = "gds") { "no GPU: there is neither" } else { "the Cargo feature `gds`" };
    let directory = tempfile::tempdir().unwrap();
    for (name, probe) in [("nixl:GDS_MT", "child"), ("nixl:GDS", "child"), ("nixl:GDS_MT", "inline")] {
        let on_device = with(&packages, directory.path()).set("device", 0).set("nixl.probe", probe);
        let config = on_device.build().unwrap();
        let begun = Instant::now();
        let report = probe_named(&config, name, directory.path()).await.unwrap();
        assert_eq!(report.verdict, Verdict::Unavailable);
        assert!(report.reason.contains(wanted), "{report:?}");
        assert!(report.checks.iter().all(|check| check.name == "GPU"), "{report:?}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{name}, {probe}: {:?}", begun.elapsed());
    }
    // Nobody is left for it; each says why, those first that move none of that memory.
    let auto = with(&packages, directory.path()).set("device", 0).build().unwrap();
    let error = hicache::open(&auto).await.unwrap_err().to_string();
    let at = |words: &str| error.find(words).unwrap_or_else(|| panic!("{words:?} is not in {error}"));
    assert!(at("POSIX does not move memory of Device(0)") < at("nixl:GDS_MT was skipped: "), "{error}");
    assert!(at("nixl:GDS_MT was skipped: ") < at("nixl:GDS was skipped: ") && at(wanted) > 0, "{error}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn auto_skips_what_fails_and_lists_it_and_a_named_one_is_an_error() {
    let Some(packages) = wheel() else { return };
    let directory = tempfile::tempdir().unwrap();
    let opened = hicache::open(&with(&packages, directory.path()).build().unwrap()).await.unwrap();
    assert_eq!(opened.backend, "nixl:POSIX");
    // It is listed, and nobody who did not ask for it is bothered.
    assert!(opened.skipped[0].to_string().starts_with("nixl:3FS was skipped: "), "{:?}", opened.skipped);
    assert!(opened.notes.is_empty(), "{:?}", opened.notes);
    opened.storage.close().await.unwrap();
    let ordered = with(&packages, directory.path()).set("order", "nixl:3FS,nixl:POSIX").build().unwrap();
    let opened = hicache::open(&ordered).await.unwrap();
    assert!(opened.notes.iter().any(|note| note.starts_with("nixl:3FS was skipped: ")), "{:?}", opened.notes);
    opened.storage.close().await.unwrap();
    for (name, words) in [("nixl:3fs", "libplugin_HF3FS.so"), ("nixl:OBJ", "AWS_DEFAULT_BUCKET")] {
        let config = with(&packages, directory.path()).set("backend", name).build().unwrap();
        let error = hicache::open(&config).await.unwrap_err().to_string();
        assert!(error.contains("can't be used") && error.contains(words), "{error}");
    }
    let aio =
        with(&packages, directory.path()).set("backend", "nixl:POSIX").set("nixl_posix.use_posix_aio", true);
    let error = hicache::open(&aio.build().unwrap()).await.unwrap_err().to_string();
    assert!(error.contains("use_posix_aio") && error.contains("segmentation fault"), "{error}");
    // GPU plugins without a helper are not tried in this process.
    if Path::new("/dev/nvidia0").exists() {
        let config = with(&packages, directory.path()).build().unwrap();
        let report = probe_named(&config, "nixl:GDS", directory.path());
        assert!(report.await.unwrap().reason.contains("no helper"));
    }
}

fn key(number: u8) -> PageKey {
    PageKey::kv([number; 32])
}

async fn store(storage: &dyn Storage, numbers: std::ops::Range<u8>) {
    let registered = storage.register(&Region::allocate(16, PAGE).unwrap()).unwrap();
    let request = |(slot, number): (usize, u8)| {
        let mut memory = registered.page(slot, PAGE, Access::Write).unwrap();
        memory.copy_from(&vec![number; PAGE]).unwrap();
        PageRequest::new(key(number), memory)
    };
    let batch = storage.store(numbers.enumerate().map(request).collect(), StoreOptions::default()).await;
    assert!(batch.outcomes.iter().all(|outcome| outcome.is_done()), "{:?}", batch.outcomes);
}

async fn load(storage: &dyn Storage, numbers: std::ops::Range<u8>) {
    let registered = storage.register(&Region::allocate(16, PAGE).unwrap()).unwrap();
    let request = |(slot, number): (usize, u8)| {
        PageRequest::new(key(number), registered.page(slot, PAGE, Access::Write).unwrap())
    };
    let batch = storage.load(numbers.clone().enumerate().map(request).collect()).await;
    for (i, number) in numbers.enumerate() {
        assert!(batch.outcomes[i].is_done(), "page {number}: {:?}", batch.outcomes[i]);
        let mut seen = vec![0; PAGE];
        batch.memory[i].as_ref().unwrap().copy_to(&mut seen).unwrap();
        assert!(seen.iter().all(|&byte| byte == number), "page {number}");
    }
}

/// One store on disk, whoever moves its bytes.
#[tokio::test]
async fn what_io_uring_wrote_nixl_reads_and_the_other_way_round() {
    let Some(packages) = wheel() else { return };
    let directory = tempfile::tempdir().unwrap();
    let opened = async |backend: &str, queue: &str| {
        let config =
            with(&packages, directory.path()).set("backend", backend).set(queue, true).build().unwrap();
        hicache::open(&config).await
    };
    let native = match opened("posix-uring", "nixl_posix.use_aio").await {
        Ok(_) => "posix-uring",
        Err(error) => {
            println!("went without: io_uring: {error}");
            "posix-pread"
        }
    };
    let turns = [
        (native, "use_aio"),
        ("nixl:POSIX", "use_aio"),
        (native, "use_aio"),
        ("nixl:POSIX", "use_uring"),
        (native, "use_aio"),
    ];
    for (turn, (backend, queue)) in (0_u8..).zip(turns) {
        let storage = opened(backend, &format!("nixl_posix.{queue}")).await.unwrap().storage;
        for before in 0..turn {
            load(&*storage, before * 10..before * 10 + 10).await;
        }
        store(&*storage, turn * 10..turn * 10 + 10).await;
        load(&*storage, turn * 10..turn * 10 + 10).await;
        storage.close().await.unwrap();
    }
}
