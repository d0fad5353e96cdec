//! The structures of the binding against NVIDIA's headers, by a C compiler. `cargo xtask gds install` puts the headers of several
//! versions under `target/gds`; without them, or without a compiler, the test says so.

#![allow(clippy::print_stdout, reason = "tests say what they went without")]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use hicache_gds::cufile::abi::{CONSTANTS, LATER_CONSTANTS, LAYOUTS};

/// What `cufile.h` needs of `cuda.h`, in our words: a code and a handle.
const CUDA_H: &str = "typedef int CUresult;\ntypedef struct CUstream_st *CUstream;\n";

/// Folders with a `cufile.h`, by the name of the version.
fn headers() -> Vec<PathBuf> {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/gds");
    let mut found: Vec<PathBuf> = std::fs::read_dir(installed)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("include")))
        .filter(|folder| folder.join("cufile.h").is_file())
        .collect();
    found.sort();
    found
}

/// The constants that this header has.
fn constants(header: &str) -> impl Iterator<Item = &'static (&'static str, i64)> {
    CONSTANTS.iter().chain(LATER_CONSTANTS.iter().filter(move |(name, _)| header.contains(name)))
}

/// A program that prints each fact on a line.
fn program(header: &str) -> String {
    let mut text = "#include <stdio.h>\n#include <stddef.h>\n#include <sys/types.h>\n#include <time.h>\n#include \"cufile.h\"\n".to_owned();
    text.push_str("int main(void) {\n");
    for (name, _, fields) in LAYOUTS {
        let _ = writeln!(text, "printf(\"{name} %zu\\n\", sizeof({name}));");
        for (field, _) in *fields {
            let _ = writeln!(text, "printf(\"{name}.{field} %zu\\n\", offsetof({name}, {field}));");
        }
    }
    for (name, _) in constants(header) {
        let _ = writeln!(text, "printf(\"{name} %lld\\n\", (long long)({name}));");
    }
    text.push_str("return 0; }\n");
    text
}

/// What the program must print.
fn expected(header: &str) -> String {
    let mut text = String::new();
    for (name, size, fields) in LAYOUTS {
        let _ = writeln!(text, "{name} {size}");
        for (field, offset) in *fields {
            let _ = writeln!(text, "{name}.{field} {offset}");
        }
    }
    for (name, value) in constants(header) {
        let _ = writeln!(text, "{name} {value}");
    }
    text
}

#[test]
fn the_structures_are_those_of_the_headers() {
    let headers = headers();
    if headers.is_empty() {
        println!("went without: no cufile.h under target/gds; `cargo xtask gds install` puts some there");
        return;
    }
    let compiler = ["cc", "gcc", "clang"].into_iter().find(|name| {
        Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
    });
    let Some(compiler) = compiler else {
        println!("went without: a C compiler, to ask {} headers", headers.len());
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let (source, binary) = (directory.path().join("layouts.c"), directory.path().join("layouts"));
    std::fs::write(directory.path().join("cuda.h"), CUDA_H).unwrap();
    let mut compared = Vec::new();
    for folder in &headers {
        let header = std::fs::read_to_string(folder.join("cufile.h")).unwrap();
        compared.extend(constants(&header).map(|(name, _)| *name));
        std::fs::write(&source, program(&header)).unwrap();
        let compiled = Command::new(compiler)
            .arg("-I")
            .arg(folder)
            .arg("-I")
            .arg(directory.path())
            .arg(&source)
            .arg("-o")
            .arg(&binary)
            .output()
            .unwrap();
        assert!(
            compiled.status.success(),
            "{}: {}",
            folder.display(),
            String::from_utf8_lossy(&compiled.stderr)
        );
        let printed = Command::new(&binary).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&printed.stdout), expected(&header), "{}", folder.display());
    }
    for (name, _) in LATER_CONSTANTS {
        assert!(compared.contains(name), "no header has {name}");
    }
    println!("compared with {} headers", headers.len());
}
