//! Cases: extents and their memory.

use std::os::unix::fs::FileExt;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use hicache_core::{
    Access, Direction, EngineFile, ErrorKind, ExtentsDone, MemoryKind, OwnerId, Registration,
};

use super::engine_ground::{
    Bench, Ground, Part, complete, failed, file_holds, holds, in_pieces, moved, moved_all,
};
use super::run::{Failure, Verdict};
use crate::content::mix;

pub(super) async fn capabilities(ground: &mut Ground) -> Verdict {
    let can = ground.engine()?.capabilities();
    ensure!(!can.name.is_empty(), "the engine has no name");
    ensure!(can.alignment.is_power_of_two(), "an alignment of {} is no power of two", can.alignment);
    ensure!(can.max_pieces >= 1, "it takes no piece of memory");
    ensure!(can.max_in_flight >= 1, "it keeps nothing in flight");
    ensure!(
        can.max_extent_bytes >= 1 << 20,
        "it takes {} bytes an extent; pages are longer",
        can.max_extent_bytes
    );
    ensure!(can.moves(MemoryKind::Host), "it moves no host memory, which this suite uses");
    ensure_eq!(can, ground.engine()?.capabilities(), "capabilities asked twice");
    Ok(())
}

fn poll_once(transfer: hicache_core::Transfer<ExtentsDone>) -> Option<ExtentsDone> {
    match pin!(transfer).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

pub(super) async fn empty_batch(ground: &mut Ground) -> Verdict {
    for direction in [Direction::Read, Direction::Write] {
        let Some(done) = poll_once(ground.engine()?.submit(direction, Vec::new())) else {
            return Err(Failure(format!("an empty {} is not answered at once", direction.as_str())));
        };
        complete(&done, 0, "batch of nothing")?;
    }
    Ok(())
}

pub(super) async fn one_extent(ground: &mut Ground) -> Verdict {
    let bench = ground.bench(1, ground.unit()?)?;
    bench.write(&ground.units(1)?).await?;
    bench.read(&ground.units(1)?).await
}

pub(super) async fn batch_of_128(ground: &mut Ground) -> Verdict {
    let bench = ground.bench(128, ground.unit()?)?;
    let mut parts = ground.units(128)?;
    bench.write(&parts).await?;
    bench.read(&parts).await?;
    parts.sort_by_key(|part| mix(part.number));
    bench.read(&parts).await
}

pub(super) async fn batch_of_10_000(ground: &mut Ground) -> Verdict {
    let bytes = 512.max(ground.engine()?.capabilities().alignment);
    let bench = ground.bench(10_000, bytes)?;
    let parts: Vec<_> =
        (0..10_000).map(|number| Part { number, offset: number * bytes as u64, bytes }).collect();
    bench.write(&parts).await?;
    bench.read(&parts).await
}

pub(super) async fn file_holds_what_was_written(ground: &mut Ground) -> Verdict {
    let bench = ground.bench(16, ground.unit()?)?;
    let unit = ground.unit()? as u64;
    // Every other unit, the first of them far from the start: the file has holes.
    let parts: Vec<_> = ground
        .units(16)?
        .into_iter()
        .map(|part| Part { offset: (2 * part.number + 100) * unit, ..part })
        .collect();
    bench.write(&parts).await?;
    file_holds(ground.file.path(), &parts)?;
    let mut hole = vec![1; ground.unit()?];
    ground.file.as_file().read_exact_at(&mut hole, 101 * unit)?;
    ensure!(hole.iter().all(|&byte| byte == 0), "something was written between two extents");
    ensure_eq!(ground.file.as_file().metadata()?.len(), (2 * 15 + 101) * unit, "length of the file");
    Ok(())
}

pub(super) async fn odd_lengths(ground: &mut Ground) -> Verdict {
    let bench = ground.bench(8, 70_000)?;
    let mut offset = 3;
    let mut parts = Vec::new();
    for (number, bytes) in (0..).zip([1, 7, 511, 512, 513, 4095, 4097, 65_537]) {
        parts.push(Part { number, offset, bytes });
        offset += bytes as u64 + number;
    }
    bench.write(&parts).await?;
    bench.read(&parts).await?;
    file_holds(ground.file.path(), &parts)
}

pub(super) async fn large_extents(ground: &mut Ground) -> Verdict {
    let most = ground.engine()?.capabilities().max_extent_bytes;
    let mut parts = Vec::new();
    let mut offset = 0;
    for (number, bytes) in (0..).zip([1 << 20, 4 << 20, 3 << 20]) {
        if bytes as u64 <= most {
            parts.push(Part { number, offset, bytes });
            offset += bytes as u64;
        }
    }
    let bench = ground.bench(3, 4 << 20)?;
    bench.write(&parts).await?;
    bench.read(&parts).await?;
    file_holds(ground.file.path(), &parts)
}

/// Lengths of pieces, in units of the alignment (or of one byte).
async fn cut(ground: &Ground, cuts: &[Vec<usize>], gap: usize) -> Verdict {
    let longest = cuts.iter().flatten().copied().max().unwrap_or(1);
    let slots = cuts.iter().map(Vec::len).max().unwrap_or(1);
    let bench = ground.bench(slots, longest + gap * slots)?;
    let mut offset = 0;
    for (number, lengths) in (0..).zip(cuts) {
        let part = Part { number, offset, bytes: lengths.iter().sum() };
        let mut memory = in_pieces(&bench, 0, gap, lengths)?;
        part.content().fill(&mut memory)?;
        let done = bench.engine.submit(Direction::Write, vec![bench.extent(part.offset, memory)]).await;
        moved_all(&done, &[part], "write from pieces")?;
        drop(done);
        file_holds(ground.file.path(), &[part])?;
        let mut memory = in_pieces(&bench, 0, gap, lengths)?;
        memory.copy_from(&vec![0xa5; part.bytes])?;
        let done = bench.engine.submit(Direction::Read, vec![bench.extent(part.offset, memory)]).await;
        moved_all(&done, &[part], "read into pieces")?;
        holds(&done, 0, part, "read into pieces")?;
        offset += part.bytes.next_multiple_of(4096) as u64;
    }
    Ok(())
}

pub(super) async fn several_pieces(ground: &mut Ground) -> Verdict {
    let can = ground.engine()?.capabilities();
    let unit = if can.alignment == 1 { 1000 } else { can.alignment };
    let cuts = [vec![unit, unit], vec![unit, 3 * unit, 2 * unit], vec![unit; 7]];
    let cuts: Vec<_> = cuts.into_iter().filter(|cut: &Vec<usize>| cut.len() <= can.max_pieces).collect();
    cut(ground, &cuts, if can.alignment == 1 { 13 } else { can.alignment }).await
}

pub(super) async fn most_pieces(ground: &mut Ground) -> Verdict {
    let can = ground.engine()?.capabilities().clone();
    cut(ground, &[vec![can.alignment.max(16); can.max_pieces]], 0).await?;
    let bench = ground.bench(can.max_pieces + 2, ground.unit()?)?;
    let memory = in_pieces(&bench, 0, 0, &vec![can.alignment.max(16); can.max_pieces + 1])?;
    let good = Part { number: 1, offset: 0, bytes: ground.unit()? };
    let beside = bench.extent(0, bench.full(can.max_pieces + 1, good)?);
    let extents = vec![bench.extent(1 << 20, memory), beside];
    let done = bench.engine.submit(Direction::Write, extents).await;
    complete(&done, 2, "write of too many pieces")?;
    failed(&done, 0, ErrorKind::Config, "a write of one piece too many")?;
    moved(&done, 1, good.bytes, "write beside one of too many pieces")
}

pub(super) async fn unaligned(ground: &mut Ground) -> Verdict {
    let (unit, parts) = (ground.unit()?, ground.units(4)?);
    let bench = ground.bench(4, 2 * unit)?;
    bench.write(&parts).await?;
    for direction in [Direction::Read, Direction::Write] {
        let extents = vec![
            bench.extent(1, bench.blank(0, unit)?),
            bench.extent(parts[1].offset, bench.full(1, parts[1])?),
            bench.extent(0, bench.blank(2, unit - 1)?),
            bench.extent(
                0,
                hicache_core::PageMemory::new(bench.registration.piece(3, 1, unit, Access::Write)?),
            ),
        ];
        let done = bench.engine.submit(direction, extents).await;
        complete(&done, 4, "batch with unaligned extents")?;
        for (i, what) in [(0, "an unaligned offset"), (2, "an unaligned length"), (3, "an unaligned address")]
        {
            failed(&done, i, ErrorKind::Config, what)?;
        }
        moved(&done, 1, unit, "extent beside unaligned ones")?;
        holds(&done, 1, parts[1], "extent beside unaligned ones")?;
    }
    file_holds(ground.file.path(), &parts)
}

pub(super) async fn write_from_read_lease(ground: &mut Ground) -> Verdict {
    let bench = ground.bench(1, ground.unit()?)?;
    let part = ground.units(1)?[0];
    drop(bench.full(0, part)?);
    // One slot read by two extents at one time.
    let memory = || bench.registration.page(0, part.bytes, Access::Read);
    let twin = Part { offset: part.bytes as u64, ..part };
    let extents = vec![bench.extent(part.offset, memory()?), bench.extent(twin.offset, memory()?)];
    let done = bench.engine.submit(Direction::Write, extents).await;
    moved_all(&done, &[part, twin], "write from a read lease")?;
    file_holds(ground.file.path(), &[part, twin])
}

pub(super) async fn read_into_read_lease(ground: &mut Ground) -> Verdict {
    let bench = ground.bench(2, ground.unit()?)?;
    let parts = ground.units(2)?;
    bench.write(&parts).await?;
    let memory = bench.registration.page(0, parts[0].bytes, Access::Read)?;
    let before = memory.checksum()?;
    let extents =
        vec![bench.extent(parts[1].offset, memory), bench.extent(0, bench.blank(1, parts[0].bytes)?)];
    let done = bench.engine.submit(Direction::Read, extents).await;
    complete(&done, 2, "read")?;
    failed(&done, 0, ErrorKind::Config, "a read into a read lease")?;
    let after = done.extents[0].as_ref().map(|extent| extent.memory.checksum()).transpose()?;
    ensure_eq!(after, Some(before), "memory that may only be read");
    moved(&done, 1, parts[0].bytes, "read beside one into a read lease")?;
    holds(&done, 1, parts[0], "read beside one into a read lease")
}

pub(super) async fn another_owner(ground: &mut Ground) -> Verdict {
    let bench = ground.bench(3, ground.unit()?)?;
    let parts = ground.units(3)?;
    bench.write(&parts).await?;
    let stranger = OwnerId::new();
    let foreign = Bench {
        engine: Arc::clone(&bench.engine),
        region: Arc::clone(&bench.region),
        registration: Registration::new(stranger, Arc::clone(&bench.region), Box::new(())),
        file: EngineFile::new(stranger, Arc::clone(bench.file.file()), Box::new(())),
    };
    for direction in [Direction::Read, Direction::Write] {
        let extents = vec![
            bench.extent(parts[0].offset, foreign.blank(0, parts[0].bytes)?),
            bench.extent(parts[1].offset, bench.full(1, parts[1])?),
            foreign.extent(parts[2].offset, bench.blank(2, parts[2].bytes)?),
        ];
        let done = bench.engine.submit(direction, extents).await;
        complete(&done, 3, "batch with extents of another owner")?;
        failed(&done, 0, ErrorKind::Config, "memory of another owner")?;
        failed(&done, 2, ErrorKind::Config, "a file of another owner")?;
        moved(&done, 1, parts[1].bytes, "extent beside those of another owner")?;
        holds(&done, 1, parts[1], "extent beside those of another owner")?;
    }
    file_holds(ground.file.path(), &parts)
}

pub(super) async fn offset_overflows(ground: &mut Ground) -> Verdict {
    let bench = ground.bench(3, ground.unit()?)?;
    let (unit, part) = (ground.unit()?, ground.units(1)?[0]);
    bench.write(&[part]).await?;
    let end = (u64::MAX - unit as u64 + 1).next_multiple_of(unit as u64);
    for direction in [Direction::Read, Direction::Write] {
        let offsets = [end, i64::MAX as u64 - (unit as u64 - 1), 0];
        let mut extents = Vec::new();
        for (slot, offset) in offsets.into_iter().enumerate() {
            extents.push(bench.extent(offset, bench.full(slot, part)?));
        }
        let done = bench.engine.submit(direction, extents).await;
        complete(&done, 3, "batch with offsets beyond any file")?;
        failed(&done, 0, ErrorKind::Config, "an offset whose end is no number")?;
        failed(&done, 1, ErrorKind::Config, "an offset whose end is beyond any file")?;
        moved(&done, 2, unit, "extent beside offsets beyond any file")?;
    }
    Ok(())
}

pub(super) async fn read_past_end(ground: &mut Ground) -> Verdict {
    let (unit, parts) = (ground.unit()?, ground.units(3)?);
    let bench = ground.bench(4, 2 * unit)?;
    bench.write(&parts).await?;
    let end = 2 * unit as u64 + 100;
    ground.file.as_file().set_len(end)?;
    let whole = parts[0];
    let extents = vec![
        bench.extent(2 * unit as u64, bench.blank(0, unit)?),
        bench.extent(0, bench.blank(1, unit)?),
        bench.extent(4 * unit as u64, bench.blank(2, unit)?),
        bench.extent(unit as u64, bench.blank(3, 2 * unit)?),
    ];
    let done = bench.engine.submit(Direction::Read, extents).await;
    complete(&done, 4, "read past the end")?;
    moved(&done, 0, 100, "read over the end")?;
    moved(&done, 1, unit, "read before the end")?;
    moved(&done, 2, 0, "read beyond the end")?;
    moved(&done, 3, unit + 100, "long read over the end")?;
    holds(&done, 1, whole, "read before the end")?;
    let mut memory = vec![0; unit];
    let Some(extent) = &done.extents[0] else { return Ok(()) };
    extent.memory.copy_to(&mut memory)?;
    ensure!(
        memory[..100] == parts[2].content().bytes()[..100],
        "the bytes before the end of the file are wrong"
    );
    ensure_eq!(ground.file.as_file().metadata()?.len(), end, "length of the file after reads");
    Ok(())
}

pub(super) async fn overwrite(ground: &mut Ground) -> Verdict {
    let bench = ground.bench(8, ground.unit()?)?;
    let mut parts = ground.units(8)?;
    bench.write(&parts).await?;
    for i in [1, 4, 7] {
        parts[i].number += 100;
        bench.write(&parts[i..=i]).await?;
    }
    bench.read(&parts).await?;
    file_holds(ground.file.path(), &parts)
}

pub(super) async fn several_files(ground: &mut Ground) -> Verdict {
    let second = tempfile::NamedTempFile::new_in(&ground.traits.directory)?;
    let bench = ground.bench(4, ground.unit()?)?;
    let other = Bench::new(ground.engine()?, &second, 4, ground.unit()?)?;
    let parts = ground.units(4)?;
    let others: Vec<_> = parts.iter().map(|part| Part { number: part.number + 50, ..*part }).collect();
    // Files and regions crossed in one batch.
    let mut extents = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        extents.push(bench.extent(part.offset, other.full(i, *part)?));
        extents.push(other.extent(part.offset, bench.full(i, others[i])?));
    }
    let done = bench.engine.submit(Direction::Write, extents).await;
    complete(&done, 8, "write to two files")?;
    for i in 0..8 {
        moved(&done, i, parts[0].bytes, "write to two files")?;
    }
    drop(done);
    file_holds(ground.file.path(), &parts)?;
    file_holds(second.path(), &others)?;
    bench.read(&parts).await?;
    other.read(&others).await
}
