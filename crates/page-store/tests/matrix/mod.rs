//! Every fault against every operation, on a real store: what the caller sees. `docs/fault-matrix.md` is what this
//! writes.

mod faults;
mod forked;
mod ground;
mod operations;

use std::fmt::Write;

use futures::StreamExt;

use faults::{FAULTS, Fault, When};
use ground::Ground;
use operations::{OPERATIONS, Operation};

use super::fixture::say;

const HEAD: &str = "# Fault matrix

What the caller sees when an operation meets a fault. Written by the test that proves it:
`cargo run --package hicache-page-store --example fault_matrix docs/fault-matrix.md`; `cargo test --package
hicache-page-store --test fault_matrix` compares. Each cell is a store of its own: 16 pages are stored (a disk that is to be
full is filled with them), the fault strikes, the operation is called four times in a row. A comma stands between
different answers, `Done` is success, a word such as `Io` is the kind of the error of each page, and `Unavailable` says
which root, why, and when it is tried again. In no cell a byte is wrong.

";

const RUNNING: &str = "## Faults that strike while the store is open

*open* is a store that is opened while the fault lasts. *reopen* is a close while it lasts, its end, and an open then: which
pages are there, and right.

";

const CLOSED: &str = "
## Damage that is found when a store is opened

The process was killed, so there is a snapshot with half of the pages and a journal with the other half; then the files were
damaged. *load* and *store* are of the page that is hit, if one is. *reopen* is a close and an open after that.

";

/// The line of a fault; `None` where it can't be had, which the output says.
fn row(fault: &'static Fault) -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let cell = |operation: &'static Operation| async {
        let mut ground = Ground::prepare(fault).await?;
        Some((operation.run)(&mut ground).await.unwrap_or_else(|| "–".to_owned()))
    };
    let cells = OPERATIONS.iter().map(cell);
    let answers: Option<Vec<String>> = runtime.block_on(async {
        // Mostly waiting, so all at once; but not with a fault that hits the whole process.
        if fault.alone {
            futures::stream::iter(cells).then(|cell| cell).collect::<Vec<_>>().await.into_iter().collect()
        } else {
            futures::future::join_all(cells).await.into_iter().collect()
        }
    });
    let Some(answers) = answers else {
        say(&format!("went without: the row {:?} of the fault matrix", fault.name));
        return None;
    };
    Some(format!("| {} | {} |", fault.name, answers.join(" | ")))
}

/// The whole table; a row that can't be had here is taken from `known`.
pub(crate) fn table(known: &str) -> String {
    let mut text = HEAD.to_owned();
    for (when, about) in [(When::Running, RUNNING), (When::Closed, CLOSED)] {
        text.push_str(about);
        let names: Vec<_> = OPERATIONS.iter().map(|operation| operation.name).collect();
        writeln!(text, "| fault | {} |", names.join(" | ")).unwrap();
        writeln!(text, "|---|{}", "---|".repeat(names.len())).unwrap();
        for fault in FAULTS.iter().filter(|fault| fault.when == when) {
            let begins = format!("| {} |", fault.name);
            let known = || known.lines().find(|line| line.starts_with(&begins)).map(str::to_owned);
            if let Some(line) = row(fault).or_else(known) {
                writeln!(text, "{line}").unwrap();
            }
        }
    }
    text
}
