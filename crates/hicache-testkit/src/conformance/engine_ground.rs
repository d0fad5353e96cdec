//! What the cases of an engine stand on.

use std::any::Any;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use hicache_core::{
    Access, Direction, Engine, EngineFile, ErrorKind, Extent, ExtentsDone, PageMemory, Piece, Region,
    Registration,
};
use tempfile::NamedTempFile;

use super::engine::{EngineTraits, EngineUnderTest};
use super::run::{Failure, Verdict};
use crate::content::{Content, numbered_key};

/// A part of a file and what it holds: content `number` of `bytes` bytes at `offset`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) number: u64,
    pub(super) offset: u64,
    pub(super) bytes: usize,
}

impl Part {
    pub(super) fn content(&self) -> Content {
        Content::new(&numbered_key(self.number), 0, self.bytes)
    }
}

/// An engine, a file, and what else a case needs. Cases that drop handles take them out.
pub(super) struct Ground {
    pub(super) engine: Option<Arc<dyn Engine>>,
    pub(super) file: NamedTempFile,
    pub(super) traits: EngineTraits,
    _keep: Box<dyn Any + Send>,
}

impl Ground {
    pub(super) fn new(under_test: EngineUnderTest, traits: &EngineTraits) -> Result<Self, Failure> {
        let file = NamedTempFile::new_in(&traits.directory)?;
        let EngineUnderTest { engine, keep } = under_test;
        Ok(Self { engine: Some(engine), file, traits: traits.clone(), _keep: keep })
    }

    pub(super) fn engine(&self) -> Result<&Arc<dyn Engine>, Failure> {
        self.engine.as_ref().ok_or_else(|| Failure("the case has dropped its engine".to_owned()))
    }

    /// Length of the extents of most cases: a page, or more where alignment wants more.
    pub(super) fn unit(&self) -> Result<usize, Failure> {
        Ok(4096.max(self.engine()?.capabilities().alignment))
    }

    /// `count` parts of one unit, one after the other.
    pub(super) fn units(&self, count: u64) -> Result<Vec<Part>, Failure> {
        let bytes = self.unit()?;
        Ok((0..count).map(|number| Part { number, offset: number * bytes as u64, bytes }).collect())
    }

    /// Memory for `slots` extents of `bytes` bytes, and the file.
    pub(super) fn bench(&self, slots: usize, bytes: usize) -> Result<Bench, Failure> {
        Bench::new(self.engine()?, &self.file, slots, bytes)
    }

    pub(super) async fn end(self) {
        if let Some(engine) = &self.engine {
            // What the case closed already may say so; what it found is in its outcome.
            let _ = engine.close().await;
        }
    }
}

/// Registered memory, an attached file, and calls of the engine with them.
pub(super) struct Bench {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) region: Arc<Region>,
    pub(super) registration: Registration,
    pub(super) file: EngineFile,
}

impl Bench {
    pub(super) fn new(
        engine: &Arc<dyn Engine>,
        file: &NamedTempFile,
        slots: usize,
        bytes: usize,
    ) -> Result<Self, Failure> {
        let region = Region::allocate(slots, bytes)?;
        let registration = engine.register(&region)?;
        let file = engine.attach(Arc::new(file.reopen()?), file.path())?;
        Ok(Self { engine: Arc::clone(engine), region, registration, file })
    }

    pub(super) fn extent(&self, offset: u64, memory: PageMemory) -> Extent {
        Extent { file: self.file.clone(), offset, memory }
    }

    /// Memory of `bytes` bytes in `slot` that holds neither zeros nor any content.
    pub(super) fn blank(&self, slot: usize, bytes: usize) -> Result<PageMemory, Failure> {
        let mut memory = self.registration.page(slot, bytes, Access::Write)?;
        memory.copy_from(&vec![0xa5; bytes])?;
        Ok(memory)
    }

    pub(super) fn full(&self, slot: usize, part: Part) -> Result<PageMemory, Failure> {
        let mut memory = self.blank(slot, part.bytes)?;
        part.content().fill(&mut memory)?;
        Ok(memory)
    }

    /// The extents that write these parts, from the slots in order.
    pub(super) fn writes(&self, parts: &[Part]) -> Result<Vec<Extent>, Failure> {
        let full = |(slot, part): (usize, &Part)| Ok(self.extent(part.offset, self.full(slot, *part)?));
        parts.iter().enumerate().map(full).collect()
    }

    /// The extents that read these parts, into the slots in order.
    pub(super) fn reads(&self, parts: &[Part]) -> Result<Vec<Extent>, Failure> {
        let blank =
            |(slot, part): (usize, &Part)| Ok(self.extent(part.offset, self.blank(slot, part.bytes)?));
        parts.iter().enumerate().map(blank).collect()
    }

    pub(super) async fn write(&self, parts: &[Part]) -> Verdict {
        let done = self.engine.submit(Direction::Write, self.writes(parts)?).await;
        moved_all(&done, parts, "write")?;
        // A write leaves the memory as it was.
        (0..parts.len()).try_for_each(|i| holds(&done, i, parts[i], "memory that was written from"))
    }

    pub(super) async fn read(&self, parts: &[Part]) -> Verdict {
        let done = self.engine.submit(Direction::Read, self.reads(parts)?).await;
        moved_all(&done, parts, "read")?;
        (0..parts.len()).try_for_each(|i| holds(&done, i, parts[i], "read"))
    }
}

/// One page in pieces of `lengths`, each in a slot of its own from `slot` on and `gap` bytes further in.
pub(super) fn in_pieces(
    bench: &Bench,
    slot: usize,
    gap: usize,
    lengths: &[usize],
) -> Result<PageMemory, Failure> {
    let piece =
        |(i, &bytes): (usize, &usize)| bench.registration.piece(slot + i, gap * i, bytes, Access::Write);
    let pieces = lengths.iter().enumerate().map(piece).collect::<hicache_core::Result<Vec<Piece>>>()?;
    Ok(PageMemory::from_pieces(pieces)?)
}

/// Every extent is answered and its memory is back.
pub(super) fn complete(done: &ExtentsDone, len: usize, what: &str) -> Verdict {
    ensure_eq!(done.outcomes.len(), len, "outcomes of a {what}");
    ensure_eq!(done.extents.len(), len, "extents of a {what}");
    let lost = done.extents.iter().position(Option::is_none);
    ensure!(lost.is_none(), "extent {lost:?} did not come back from a {what}");
    Ok(())
}

/// Extent `i` moved whole.
pub(super) fn moved(done: &ExtentsDone, i: usize, bytes: usize, what: &str) -> Verdict {
    let outcome = &done.outcomes[i];
    ensure!(
        outcome.as_ref().is_ok_and(|count| *count == bytes as u64),
        "{what}: extent {i} must move {bytes} bytes and is {outcome:?}"
    );
    Ok(())
}

pub(super) fn moved_all(done: &ExtentsDone, parts: &[Part], what: &str) -> Verdict {
    complete(done, parts.len(), what)?;
    for (i, part) in parts.iter().enumerate() {
        moved(done, i, part.bytes, what)?;
        let offset = done.extents[i].as_ref().map(|extent| extent.offset);
        ensure_eq!(offset, Some(part.offset), "{what}: offset of the extent that came back in place {i}");
    }
    Ok(())
}

/// Extent `i` failed with an error of `kind`.
pub(super) fn failed(done: &ExtentsDone, i: usize, kind: ErrorKind, what: &str) -> Verdict {
    super::run::refused(&done.outcomes[i], kind, what)
}

/// The memory of extent `i` holds every byte of `part`.
pub(super) fn holds(done: &ExtentsDone, i: usize, part: Part, what: &str) -> Verdict {
    let Some(extent) = &done.extents[i] else {
        return Err(Failure(format!("{what}: extent {i} did not come back")));
    };
    let named = |wrong| Failure(format!("{what}: extent {i} at {}: {wrong}", part.offset));
    part.content().check_page(&extent.memory)?.map_err(named)
}

/// The file, read without the engine, holds every byte of the parts.
pub(super) fn file_holds(path: &Path, parts: &[Part]) -> Verdict {
    let file = File::open(path)?;
    for part in parts {
        let mut bytes = vec![0; part.bytes];
        file.read_exact_at(&mut bytes, part.offset)?;
        let named = |wrong| Failure(format!("the file at {}: {wrong}", part.offset));
        part.content().check(&bytes).map_err(named)?;
    }
    Ok(())
}
