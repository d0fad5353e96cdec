//! A machine without NIXL. In a process of its own: a library that another test has loaded is found by its name.
#![cfg(feature = "nixl")]
#![allow(clippy::print_stdout, reason = "tests say what they went without")]

use std::path::Path;

use hicache::{Config, ConfigBuilder, Environment, ErrorKind, Namespace, probe_named};

fn with(packages: &Path, directory: &Path) -> ConfigBuilder {
    Config::builder()
        .set("nixl.site_packages", packages.to_str().unwrap())
        .storage_dir([directory])
        .namespace(&Namespace::new("m"))
}

#[tokio::test]
async fn without_the_wheel_the_probe_says_where_it_looked() {
    let directory = tempfile::tempdir().unwrap();
    let library_directory = directory.path().join("lib");
    let config = with(&directory.path().join("site"), directory.path())
        .environment(&Environment::from_iter([("NIXL_LIB_DIR", library_directory.to_str().unwrap())]))
        .build()
        .unwrap();
    for name in ["nixl:POSIX", "nixl:3FS"] {
        let report = probe_named(&config, name, directory.path()).await.unwrap();
        if !report.reason.contains("libnixl was not found") {
            // Installed for all programs of this machine.
            println!("went without: a loader that has no libnixl on its search path: {}", report.reason);
            return;
        }
        for place in ["lib/libnixl_capi.so: not there", "site/.nixl_cu", "pip install nixl-cu12"] {
            assert!(report.reason.contains(place), "{place} is not in: {}", report.reason);
        }
    }
    let error = probe_named(&config, "nixl:XFS", directory.path()).await.unwrap_err().to_string();
    assert!(error.contains("nixl:POSIX"), "{error}");
    let config = with(directory.path(), directory.path()).set("backend", "nixl:POSIX").build().unwrap();
    let error = hicache::open(&config).await.unwrap_err();
    assert_eq!((error.kind(), error.backend()), (ErrorKind::Unavailable, Some("nixl:POSIX")), "{error}");
    assert!(error.to_string().contains("libnixl was not found"), "{error}");
}
