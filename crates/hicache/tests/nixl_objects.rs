//! NIXL's OBJ plugin with what it can't do done by the S3 backend, on a real object store.
#![cfg(all(feature = "nixl", feature = "obj-s3"))]
#![allow(clippy::print_stdout, reason = "tests say what they went without")]

#[path = "../../nixl-backend/tests/fixture/weed.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod weed;

use std::path::Path;

use hicache::{Access, Config, ErrorKind, Namespace, Outcome, PageKey, PageRequest, Region, StoreOptions};
use weed::Weed;

const PAGE: usize = 4096;

#[tokio::test]
async fn pages_go_through_nixl_and_deletions_through_s3() {
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/nixl-1.5.1");
    if !packages.is_dir() {
        println!("went without: NIXL, since its wheel is not installed; `cargo xtask nixl` does that");
        return;
    }
    let Some(weed) = Weed::start() else { return };
    let directory = tempfile::tempdir().unwrap();
    let credentials = directory.path().join("credentials");
    let text =
        format!("[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n", weed::KEY, weed::SECRET);
    std::fs::write(&credentials, text).unwrap();
    let nixl = Config::builder()
        .set("backend", "nixl:OBJ")
        .set("nixl.site_packages", packages.to_str().unwrap())
        .set("nixl_obj.bucket", weed::BUCKET)
        .set("nixl_obj.endpoint_override", weed.address())
        .set("nixl_obj.access_key", weed::KEY)
        .set("nixl_obj.secret_key", weed::SECRET)
        .set("nixl_obj.load_timeout_ms", 60_000)
        .namespace(&Namespace::new("m"));
    let both = nixl
        .clone()
        .set("obj_s3.bucket", weed::BUCKET)
        .set("obj_s3.endpoint", weed.address())
        .set("obj_s3.credentials_file", credentials.to_str().unwrap())
        .set("obj_s3.stall_timeout_ms", 10_000)
        .set("obj_s3.load_timeout_ms", 30_000);
    let keys: Vec<PageKey> = (0..4).map(|number| PageKey::kv([number; 32])).collect();

    let alone = hicache::open(&nixl.clone().build().unwrap()).await.unwrap().storage;
    let registered = alone.register(&Region::allocate(4, PAGE).unwrap()).unwrap();
    let request = |(slot, key): (usize, &PageKey)| {
        let mut memory = registered.page(slot, PAGE, Access::Write).unwrap();
        memory.copy_from(&[slot as u8; PAGE]).unwrap();
        PageRequest::new(*key, memory)
    };
    let stored = alone.store(keys.iter().enumerate().map(request).collect(), StoreOptions::default()).await;
    assert!(stored.outcomes.iter().all(Outcome::is_done), "{:?}", stored.outcomes);
    assert_eq!(alone.delete(&keys).await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(alone.clear().await.unwrap_err().to_string().contains("obj_s3.bucket"));
    alone.close().await.unwrap();

    // A prefix has pages of one backend: the other one refuses it, whoever was there first.
    let of_s3 = both.clone().set("backend", "obj-s3").set("obj_s3.prefix", "hicache-nixl");
    let of_s3 = of_s3.set("nixl_obj.prefix", "elsewhere").build().unwrap();
    let error = hicache::open(&of_s3).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("format \"nixl 1\", and \"obj-s3\" is used here"), "{error}");
    let first = both.clone().set("backend", "obj-s3").build().unwrap();
    hicache::open(&first).await.unwrap().storage.close().await.unwrap();
    let second = nixl.clone().set("nixl_obj.prefix", "hicache").build().unwrap();
    let error = hicache::open(&second).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(
        error.to_string().contains("of obj-s3") && error.to_string().contains("nixl_obj.prefix"),
        "{error}"
    );

    let storage = hicache::open(&both.build().unwrap()).await.unwrap().storage;
    let listing = storage.list("", None, 10).await.unwrap();
    assert_eq!(listing.pages.len(), 4, "{listing:?}");
    assert!(listing.pages.iter().all(|page| page.bytes == PAGE as u64 && page.pool == "kv"), "{listing:?}");
    let deleted = storage.delete(&[keys[0], PageKey::kv([9; 32])]).await.unwrap();
    assert!(deleted[0].is_done() && matches!(deleted[1], Outcome::Absent), "{deleted:?}");
    assert_eq!(storage.exists(&keys).await.unwrap(), [false, true, true, true]);
    let registered = storage.register(&Region::allocate(4, PAGE).unwrap()).unwrap();
    let request = |(slot, key): (usize, &PageKey)| {
        PageRequest::new(*key, registered.page(slot, PAGE, Access::Write).unwrap())
    };
    let loaded = storage.load(keys.iter().enumerate().map(request).collect()).await;
    assert!(
        matches!(loaded.outcomes[0], Outcome::Absent) && loaded.outcomes[3].is_done(),
        "{:?}",
        loaded.outcomes
    );
    assert_eq!(storage.clear().await.unwrap(), 3);
    assert_eq!(storage.exists_prefix(&keys[1..]).await.unwrap(), 0);
    storage.close().await.unwrap();
}
