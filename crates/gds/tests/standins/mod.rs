//! Builds the libraries that stand in for NVIDIA's, with whatever C++ compiler there is.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// A folder with `libcuda.so`, the first name that is looked for: it comes before a driver that is installed.
pub(crate) fn cuda() -> Option<TempDir> {
    let folder = tempfile::tempdir().unwrap();
    build("tests/standin_cuda/cuda.cpp", &folder.path().join("libcuda.so"), &[]).then_some(folder)
}

/// Builds a library; whether there is a compiler.
pub(crate) fn build(source: &str, library: &Path, arguments: &[&str]) -> bool {
    let works = |name: &&str| {
        Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
    };
    let Some(compiler) = ["c++", "g++", "clang++"].into_iter().find(works) else {
        println!("went without: a C++ compiler for the libraries that stand in for NVIDIA's");
        return false;
    };
    // Other packages use this file too.
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gds");
    let built = Command::new(compiler)
        .args(["-std=c++17", "-O1", "-fno-strict-aliasing", "-shared", "-fPIC", "-I"])
        .arg(own.join("kernels"))
        .args(arguments)
        .arg(own.join(source))
        .arg("-o")
        .arg(library)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    true
}
