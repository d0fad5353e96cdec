//! From a configuration to pages.

use hicache::{Access, Config, ErrorKind, PageKey, PageRequest, Region, Storage, StoreOptions};

async fn round_trip(storage: &dyn Storage, page: usize) {
    let region = Region::allocate(2, page).unwrap();
    let registered = storage.register(&region).unwrap();
    let key = PageKey::kv([7; 32]);
    let bytes: Vec<u8> = (0..page).map(|i| ((i * 31) >> 3) as u8).collect();
    let mut memory = registered.page(0, page, Access::Write).unwrap();
    memory.copy_from(&bytes).unwrap();
    let stored = storage.store(vec![PageRequest::new(key, memory)], StoreOptions::default()).await;
    assert!(stored.outcomes[0].is_done(), "{:?}", stored.outcomes);
    let memory = registered.page(1, page, Access::Write).unwrap();
    let loaded = storage.load(vec![PageRequest::new(key, memory)]).await;
    assert!(loaded.outcomes[0].is_done(), "{:?}", loaded.outcomes);
    let mut seen = vec![0; page];
    loaded.memory[0].as_ref().unwrap().copy_to(&mut seen).unwrap();
    assert_eq!(seen, bytes);
}

#[tokio::test]
async fn memory() {
    let config = Config::builder().set("backend", "memory").set("capacity_bytes", "1MiB").build().unwrap();
    let opened = hicache::open(&config).await.unwrap();
    assert_eq!(opened.backend, "memory");
    assert_eq!(opened.storage.stat().capacity_bytes, Some(1 << 20));
    round_trip(&*opened.storage, 4096).await;
    opened.storage.close().await.unwrap();
}

#[tokio::test]
async fn without_a_namespace_nothing_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config::builder().storage_dir([directory.path().join("a")]).build().unwrap();
    let error = hicache::open(&config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("namespace.model is not set"), "{error}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn notes_have_the_warnings() {
    let environment = hicache::Environment::from_iter([("HICACHE_BACKEN", "memory")]);
    let config = Config::builder().environment(&environment).set("backend", "memory").build().unwrap();
    let opened = hicache::open(&config).await.unwrap();
    assert!(opened.notes[0].contains("did you mean HICACHE_BACKEND?"), "{:?}", opened.notes);
}

#[cfg(feature = "posix-uring")]
#[tokio::test]
async fn on_disk() {
    for backend in ["auto", "posix-pread"] {
        let directory = tempfile::tempdir().unwrap();
        let config = Config::builder()
            .storage_dir([directory.path().join("a"), directory.path().join("b")])
            .namespace(&hicache::Namespace::new("m"))
            .set("capacity_bytes", "64MiB")
            .set("segment_bytes", "4MiB")
            .set("backend", backend)
            .build()
            .unwrap();
        let opened = hicache::open(&config).await.unwrap();
        assert!(opened.backend == backend || backend == "auto");
        round_trip(&*opened.storage, 64 << 10).await;
        opened.storage.close().await.unwrap();
    }
}

#[cfg(not(feature = "posix-uring"))]
#[tokio::test]
async fn a_build_without_backends_says_which_feature_is_missing() {
    let config = Config::builder().namespace(&hicache::Namespace::new("m")).build().unwrap();
    let error = hicache::open(&config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("lacks the Cargo feature `posix-uring`"), "{error}");
    let error = Config::builder().set("backend", "posix-uring").build().unwrap_err();
    assert!(
        error.to_string().contains("needs the Cargo feature `posix-uring`, which this build lacks"),
        "{error}"
    );
}
