//! The operations, and how an answer is told in a cell.

use std::pin::Pin;

use futures::FutureExt;
use hicache_core::{Error, Outcome, PageBatch, PageRequest, Storage, StoreOptions};

use super::super::fixture::{Bench, Got, Page, in_time, page, released, seen};
use super::faults::When;
use super::forked::forked;
use super::ground::Ground;

/// `None` where there is no open store to call.
type Answer<'a> = Pin<Box<dyn Future<Output = Option<String>> + 'a>>;

pub(super) struct Operation {
    pub(super) name: &'static str,
    pub(super) run: for<'a> fn(&'a mut Ground) -> Answer<'a>,
}

pub(super) const OPERATIONS: &[Operation] = &[
    Operation { name: "open", run: |ground| Box::pin(open(ground)) },
    Operation { name: "load", run: |ground| Box::pin(load(ground, None)) },
    Operation { name: "load of an absent page", run: |ground| Box::pin(load(ground, Some(page(999_999)))) },
    Operation { name: "store", run: |ground| Box::pin(store(ground, false)) },
    Operation { name: "store, overwriting", run: |ground| Box::pin(store(ground, true)) },
    Operation { name: "exists", run: |ground| Box::pin(exists(ground)) },
    Operation { name: "delete", run: |ground| Box::pin(delete(ground)) },
    Operation { name: "clear", run: |ground| Box::pin(clear(ground)) },
    Operation { name: "list", run: |ground| Box::pin(list(ground)) },
    Operation { name: "close", run: |ground| Box::pin(close(ground)) },
    Operation { name: "reopen", run: |ground| Box::pin(reopen(ground)) },
];

fn kind(error: &Error) -> String {
    format!("{:?}", error.kind())
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done => "Done".to_owned(),
        Outcome::Absent => "absent".to_owned(),
        Outcome::Failed(error) => kind(error),
    }
}

fn result<T>(result: hicache_core::Result<T>) -> String {
    result.map_or_else(|error| kind(&error), |_| "Done".to_owned())
}

/// Answers in a row, repetitions told once.
fn in_a_row(mut answers: Vec<String>) -> String {
    answers.dedup();
    answers.join(", ")
}

/// Loaded pages are compared: a wrong one is a panic.
fn loaded(page: Page, batch: &PageBatch) -> String {
    match seen(&[page], batch, 9)[0] {
        Got::Version(_) => "Done".to_owned(),
        Got::Absent => "absent".to_owned(),
        Got::Failed(kind) => format!("{kind:?}"),
    }
}

async fn open(ground: &mut Ground) -> Option<String> {
    if let Some(bench) = ground.bench.take() {
        // Another process would find the set free.
        drop(bench.store.close().await);
    }
    Some(match ground.open().await {
        Ok(bench) => {
            let there = bench.store.stat().pages;
            drop(bench.store.close().await);
            told("Done", there, ground)
        }
        Err(error) => kind(&error),
    })
}

/// Says how many pages there are if not all are.
fn told(done: &str, there: u64, ground: &Ground) -> String {
    let stock = ground.stock.len() as u64;
    match there {
        _ if there == stock => format!("{done}, all pages"),
        0 => format!("{done}, no page"),
        _ if ground.disk.is_some() && there < stock => format!("{done}, some evicted"),
        _ => format!("{done}, {there} of {stock} pages"),
    }
}

async fn load(ground: &mut Ground, other: Option<Page>) -> Option<String> {
    if ground.fault.empty && other.is_none() {
        return None;
    }
    let page = other.unwrap_or(ground.hit);
    let in_child = ground.fault.forked;
    let bench = ground.opened().await?;
    let mut answers = Vec::new();
    for slot in 0..4 {
        let requests = vec![PageRequest::new(page.key(), bench.blank(slot, page.bytes))];
        if in_child {
            answers.push(forked(|| loaded(page, &now(bench.store.load(requests)))));
        } else {
            answers.push(loaded(page, &in_time("a load", bench.store.load(requests)).await));
        }
    }
    Some(in_a_row(answers))
}

/// A page that is new each time, or a newer version of the page that is hit.
async fn store(ground: &mut Ground, overwrite: bool) -> Option<String> {
    let (in_child, hit) = (ground.fault.forked, ground.hit);
    if ground.fault.empty && overwrite {
        return None;
    }
    let bench = ground.opened().await?;
    let mut answers = Vec::new();
    for round in 0..4 {
        let new = if overwrite { Page { version: 2 + round, ..hit } } else { page(500_000 + round) };
        let request = vec![bench.full(round as usize, new)];
        let options = StoreOptions { overwrite };
        if in_child {
            answers.push(forked(|| outcome(&now(bench.store.store(request, options)).outcomes[0])));
            continue;
        }
        let batch = in_time("a store", bench.store.store(request, options)).await;
        answers.push(outcome(&batch.outcomes[0]));
        // What is done is there. Memory of a batch that was lost stays with the engine: another slot reads.
        if batch.outcomes[0].is_done() {
            drop(batch);
            let request = PageRequest::new(new.key(), bench.blank(32 + round as usize, new.bytes));
            let found = in_time("a load", bench.store.load(vec![request])).await;
            let loads = seen(&[new], &found, 9)[0];
            let reads = !matches!(loads, Got::Failed(_));
            assert!(!reads || loads == Got::Version(new.version), "{}: {loads:?}", ground.fault.name);
        }
    }
    Some(in_a_row(answers))
}

async fn exists(ground: &mut Ground) -> Option<String> {
    let (in_child, key) = (ground.fault.forked, ground.hit.key());
    let bench = ground.opened().await?;
    let ask = || match bench.store.exists_now(&[key]).unwrap() {
        Ok(there) => if there[0] { "yes" } else { "no" }.to_owned(),
        Err(error) => kind(&error),
    };
    Some(if in_child { forked(ask) } else { ask() })
}

/// What an operation answers that does not wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("a child is answered at once")
}

async fn delete(ground: &mut Ground) -> Option<String> {
    let (in_child, key) = (ground.fault.forked, ground.hit.key());
    let bench = ground.opened().await?;
    let answer = |deleted: hicache_core::Result<Vec<Outcome>>| match deleted {
        Ok(outcomes) => outcome(&outcomes[0]),
        Err(error) => kind(&error),
    };
    if in_child {
        return Some(forked(|| answer(now(bench.store.delete(&[key])))));
    }
    Some(answer(in_time("a delete", bench.store.delete(&[key])).await))
}

async fn clear(ground: &mut Ground) -> Option<String> {
    let in_child = ground.fault.forked;
    let bench = ground.opened().await?;
    if in_child {
        return Some(forked(|| result(now(bench.store.clear()))));
    }
    Some(result(in_time("a clear", bench.store.clear()).await))
}

async fn list(ground: &mut Ground) -> Option<String> {
    let in_child = ground.fault.forked;
    let bench = ground.opened().await?;
    if in_child {
        return Some(forked(|| result(now(bench.store.list("", None, 10)))));
    }
    Some(result(in_time("a list", bench.store.list("", None, 10)).await))
}

async fn close(ground: &mut Ground) -> Option<String> {
    let in_child = ground.fault.forked;
    let bench = ground.opened().await?;
    if in_child {
        return Some(forked(|| result(now(bench.store.close()))));
    }
    Some(result(in_time("a close", bench.store.close()).await))
}

async fn reopen(ground: &mut Ground) -> Option<String> {
    ground.opened().await?;
    if let Some(Bench { store, .. }) = ground.bench.take() {
        drop(store.close().await);
    }
    if ground.fault.when == When::Running {
        (ground.fault.mend)(ground);
    }
    released(&ground.root).await;
    let bench = match ground.open().await {
        Ok(bench) => bench,
        Err(error) => return Some(kind(&error)),
    };
    // Looking drops what is damaged; what is left then is right.
    in_time("loading", bench.load(&ground.stock)).await;
    let right = in_time("loading", bench.count(&ground.stock)).await;
    let answer = told("Done", right, ground);
    bench.close().await;
    Some(answer)
}
