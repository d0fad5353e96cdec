//! Cases: threads, dropped handles, close.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hicache_core::{Direction, ErrorKind};

use super::engine_ground::{Ground, Part, complete, failed, file_holds, holds, moved_all};
use super::run::{Failure, Verdict, eventually, leases_end, on_thread, refused, region_ends, together};

const THREADS: u64 = 4;
const ROUNDS: u64 = 20;
const BATCH: u64 = 16;

/// Threads write and read parts of one file that lie between each other's.
pub(super) async fn threads(ground: &mut Ground) -> Verdict {
    let unit = ground.unit()?;
    let mut running = Vec::new();
    for thread in 0..THREADS {
        let bench = ground.bench(BATCH as usize, unit)?;
        running.push(on_thread(move || {
            for round in 0..ROUNDS {
                let part = |i: u64| Part {
                    number: (round * THREADS + thread) * BATCH + i,
                    offset: (i * THREADS + thread) * unit as u64,
                    bytes: unit,
                };
                let parts: Vec<_> = (0..BATCH).map(part).collect();
                let done = bench.engine.submit(Direction::Write, bench.writes(&parts)?).wait();
                moved_all(&done, &parts, "write beside other threads")?;
                drop(done);
                let done = bench.engine.submit(Direction::Read, bench.reads(&parts)?).wait();
                moved_all(&done, &parts, "read beside other threads")?;
                (0..parts.len()).try_for_each(|i| holds(&done, i, parts[i], "read beside other threads"))?;
            }
            Ok(())
        }));
    }
    together(running).await.into_iter().collect()
}

/// More batches, and more operations, than any engine keeps in flight.
pub(super) async fn many_batches(ground: &mut Ground) -> Verdict {
    let bench = ground.bench(512, ground.unit()?)?;
    let parts = ground.units(512)?;
    for direction in [Direction::Write, Direction::Read] {
        let mut extents = match direction {
            Direction::Write => bench.writes(&parts)?,
            Direction::Read => bench.reads(&parts)?,
        };
        let mut begun = Vec::new();
        while !extents.is_empty() {
            let rest = extents.split_off(extents.len().min(3));
            begun.push(bench.engine.submit(direction, extents));
            extents = rest;
        }
        // The last first: an answer must not depend on another being taken.
        let mut parts = parts.chunks(3).collect::<Vec<_>>();
        while let (Some(transfer), Some(parts)) = (begun.pop(), parts.pop()) {
            let done = transfer.await;
            moved_all(&done, parts, "one of many batches")?;
            (0..parts.len()).try_for_each(|i| holds(&done, i, parts[i], "one of many batches"))?;
        }
    }
    Ok(())
}

async fn file_comes_to_hold(path: &Path, parts: &[Part]) -> Verdict {
    eventually(Duration::from_secs(10), || file_holds(path, parts).is_ok()).await;
    file_holds(path, parts)
}

pub(super) async fn dropped_transfers(ground: &mut Ground) -> Verdict {
    let bench = ground.bench(64, ground.unit()?)?;
    let parts = ground.units(64)?;
    drop(bench.engine.submit(Direction::Write, bench.writes(&parts)?));
    leases_end(&bench.region).await?;
    // A lease ends after its bytes have moved, so they are there without waiting any more.
    file_holds(ground.file.path(), &parts)?;
    for _ in 0..50 {
        drop(bench.engine.submit(Direction::Read, bench.reads(&parts)?));
        leases_end(&bench.region).await?;
    }
    bench.read(&parts).await
}

pub(super) async fn dropped_handles(ground: &mut Ground) -> Verdict {
    for round in 0..10 {
        let parts: Vec<_> =
            ground.units(64)?.into_iter().map(|p| Part { number: p.number + round, ..p }).collect();
        let bench = ground.bench(64, ground.unit()?)?;
        let weak = Arc::downgrade(&bench.region);
        let transfer = bench.engine.submit(Direction::Write, bench.writes(&parts)?);
        drop((transfer, bench));
        region_ends(&weak).await?;
        file_comes_to_hold(ground.file.path(), &parts).await?;
        let bench = ground.bench(64, ground.unit()?)?;
        let weak = Arc::downgrade(&bench.region);
        let transfer = bench.engine.submit(Direction::Read, bench.reads(&parts)?);
        drop((bench, transfer));
        region_ends(&weak).await?;
    }
    Ok(())
}

pub(super) async fn dropped_engine(ground: &mut Ground) -> Verdict {
    let parts = ground.units(64)?;
    let bench = ground.bench(64, ground.unit()?)?;
    bench.write(&parts).await?;
    let weak = Arc::downgrade(&bench.region);
    let transfer = bench.engine.submit(Direction::Read, bench.reads(&parts)?);
    let engine = ground.engine.take();
    drop((engine, bench));
    // The answer comes all the same: done, or that the engine is gone, but never lost.
    let done = transfer.await;
    complete(&done, parts.len(), "read by an engine that was dropped")?;
    for (i, part) in parts.iter().enumerate() {
        match &done.outcomes[i] {
            Ok(count) if *count == part.bytes as u64 => {
                holds(&done, i, *part, "read by an engine that was dropped")?
            }
            Err(error) if error.kind() == ErrorKind::Closed => {}
            outcome => {
                return Err(Failure(format!(
                    "extent {i} of an engine that was dropped must be done or closed: {outcome:?}"
                )));
            }
        }
    }
    drop(done);
    region_ends(&weak).await
}

pub(super) async fn close(ground: &mut Ground) -> Verdict {
    let bench = ground.bench(2, ground.unit()?)?;
    let parts = ground.units(2)?;
    bench.write(&parts).await?;
    bench.engine.close().await?;
    for direction in [Direction::Write, Direction::Read] {
        let extents = match direction {
            Direction::Write => bench.writes(&parts)?,
            Direction::Read => bench.reads(&parts)?,
        };
        let len = extents.len();
        let done = bench.engine.submit(direction, extents).await;
        complete(&done, len, "submit after close")?;
        for i in 0..len {
            failed(&done, i, ErrorKind::Closed, "submit after close")?;
        }
    }
    leases_end(&bench.region).await?;
    refused(&bench.engine.register(&bench.region), ErrorKind::Closed, "register after close")?;
    let file = Arc::new(ground.file.reopen()?);
    refused(&bench.engine.attach(file, ground.file.path()), ErrorKind::Closed, "attach after close")?;
    // A second close is answered, whatever it says.
    let _ = bench.engine.close().await;
    Ok(())
}

pub(super) async fn close_drains(ground: &mut Ground) -> Verdict {
    let bench = ground.bench(256, ground.unit()?)?;
    let parts = ground.units(256)?;
    let mut extents = bench.writes(&parts)?;
    let mut begun = Vec::new();
    while !extents.is_empty() {
        let rest = extents.split_off(extents.len().min(16));
        begun.push(bench.engine.submit(Direction::Write, extents));
        extents = rest;
    }
    bench.engine.close().await?;
    file_holds(ground.file.path(), &parts)?;
    for (transfer, parts) in begun.into_iter().zip(parts.chunks(16)) {
        moved_all(&transfer.await, parts, "write submitted before close")?;
    }
    leases_end(&bench.region).await
}
