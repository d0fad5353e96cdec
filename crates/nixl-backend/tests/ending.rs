//! A process that ends while engines that nobody closed are in the library ends in order.

mod fixture;

use std::process::{Command, Stdio};

use fixture::*;
use hicache_core::{Direction, Engine};

const PAGE: usize = 4096;

#[test]
fn a_process_ends_in_order_whatever_is_at_work() {
    if library().is_none() {
        return;
    }
    for round in 0..10 {
        let mut ending = Command::new(std::env::current_exe().unwrap());
        ending.args(["--ignored", "--exact", "inside"]).stdout(Stdio::null()).stderr(Stdio::null());
        let status = ending.status().unwrap();
        assert!(status.success(), "round {round}: {status}");
    }
}

#[test]
#[ignore = "a part of the others, which run it in a process of its own"]
fn inside() {
    let Some(library) = library() else { return };
    for queue in QUEUES {
        for _ in 0..4 {
            let engine = open(&library, posix(queue));
            let (registration, file) = (registered(&engine, 500, PAGE), attach(&engine));
            drop(engine.submit(Direction::Read, reads(&file, &registration, (500, PAGE), 0)));
        }
    }
    // At once: what was dropped is still under way.
    std::process::exit(0);
}
