//! Plumbing, not 3FS: a directory that mirrors the wheel has NIXL's POSIX plugin under the name of the 3FS one. It shows
//! that a plugin of that name is found, made and driven; no 3FS cluster was ever behind it.
//!
//! A process has one libnixl, and here it is the mirrored one: so this is a test binary of its own, with one test.

mod fixture;

use std::os::unix::fs::symlink;
use std::path::Path;

use fixture::*;
use hicache_core::{Direction, Engine};
use hicache_nixl_backend::{Agent, Library, LibrarySearch, NixlEngineConfig};

/// Links every file of `from` into `to`, folders as folders.
fn mirror(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (source, target) = (entry.path().canonicalize().unwrap(), to.join(entry.file_name()));
        if source.is_dir() { mirror(&source, &target) } else { symlink(source, target).unwrap() }
    }
}

/// The file of that name below `folder`.
fn find(folder: &Path, name: &str) -> Option<std::path::PathBuf> {
    std::fs::read_dir(folder).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() { find(&path, name) } else { path.ends_with(name).then_some(path) }
    })
}

#[test]
fn a_plugin_by_the_name_of_3fs_is_driven_as_any_other() {
    if cfg!(feature = "nixl-sys") || !site_packages().is_dir() {
        return println!("went without: NIXL, whose wheel is mirrored for a plugin by the name of 3FS");
    }
    let place = tempfile::tempdir().unwrap();
    mirror(&site_packages(), place.path());
    let posix = find(place.path(), "libplugin_POSIX.so").expect("the wheel has the POSIX plugin");
    symlink(posix.canonicalize().unwrap(), posix.with_file_name("libplugin_HF3FS.so")).unwrap();
    let site_packages = vec![place.path().to_owned()];
    let library = Library::open(&LibrarySearch { site_packages, ..LibrarySearch::default() }).unwrap();
    assert!(library.path().unwrap().starts_with(place.path()), "{:?}", library.path());
    let plugins = Agent::new(&library, "test").unwrap().plugins().unwrap();
    assert!(plugins.contains(&"HF3FS".to_owned()), "{plugins:?}");

    let engine = open(&library, NixlEngineConfig::new("HF3FS"));
    assert_eq!(engine.capabilities().name, "nixl:3FS");
    let (registration, file) = (registered(&engine, 16, 8192), attach(&engine));
    write_pages(&engine, &file, &registration, (5, 16, 8192), 4096);
    let done = engine.submit(Direction::Read, reads(&file, &registration, (16, 8192), 4096)).wait();
    hold_pages(&all_done(done), 5);
}
