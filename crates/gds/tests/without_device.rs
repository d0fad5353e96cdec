//! What a machine without a GPU, or without a driver, is told. With a GPU the tests say that they went without such a machine.

#![allow(clippy::print_stdout, reason = "tests say what they went without")]

use hicache_core::ErrorKind;
use hicache_gds::{Cuda, Library};

#[test]
fn a_missing_driver_is_an_error_and_no_panic() {
    for _ in 0..2 {
        match Cuda::load().and_then(|cuda| cuda.context(0).map(|context| context.name().to_owned())) {
            Ok(name) => return println!("went without: a machine without a GPU; this one has {name}"),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Config), "{error}");
                println!("{error}");
            }
        }
    }
}

#[test]
fn a_missing_cufile_is_an_error_and_no_panic() {
    match Library::load(None) {
        Ok(library) => println!("went without: a machine without cuFile; this one has {}", library.path()),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(error.to_string().contains("libcufile.so.0"), "{error}");
        }
    }
}
