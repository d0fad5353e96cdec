use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;

use hicache_core::{Access, Completes, EngineFile, MemoryKind, PageMemory, Piece, Region, Registration};

use super::*;

/// Of an engine that moves host memory and that of GPUs.
fn both() -> EngineCapabilities {
    EngineCapabilities {
        name: "nixl:GDS",
        alignment: 1,
        max_pieces: 8,
        max_extent_bytes: 1 << 20,
        max_in_flight: 8,
        memory: vec![MemoryKind::Host, MemoryKind::PinnedHost, MemoryKind::Device(0)],
        completes: Completes::PerRequest,
        reports_lengths: false,
        proves_idle: false,
    }
}

fn piece(owner: OwnerId, kind: MemoryKind) -> Piece {
    let memory = vec![0_u8; 4096].into_boxed_slice();
    let base = NonNull::from(&*memory).cast();
    // SAFETY: the owner keeps the bytes where they are; nobody reads or writes them here.
    let region = unsafe { Region::foreign(base, 4096, kind, Box::new(memory)) }.unwrap();
    let registration = Registration::new(owner, region, Box::new(()));
    // SAFETY: the only lease of it.
    unsafe { registration.piece_of_range(0, 4096, Access::Write) }.unwrap()
}

#[test]
fn memory_of_two_kinds_in_one_extent_is_unsupported_and_costs_no_other() {
    let owner = OwnerId::new();
    let file: Arc<File> = Arc::new(tempfile::tempfile().unwrap());
    let file = EngineFile::new(owner, file, Box::new(()));
    let extent = |kinds: &[MemoryKind]| Extent {
        file: file.clone(),
        offset: 0,
        memory: PageMemory::from_pieces(kinds.iter().map(|&kind| piece(owner, kind))).unwrap(),
    };
    let (host, pinned) = (MemoryKind::Host, MemoryKind::PinnedHost);
    let (gpu, other) = (MemoryKind::Device(0), MemoryKind::Device(1));
    let kinds = [[host, gpu], [host, pinned], [gpu, other], [gpu, gpu], [gpu, host]];
    let extents = kinds.iter().map(|kinds| extent(kinds)).collect();
    let Admission::Accepted(mut batch, transfer) = Batch::admit(Direction::Read, extents, owner, &both())
    else {
        panic!("some of it can be done");
    };
    let mut taken = Vec::new();
    while let Some((position, extent)) = batch.take_next_if(|_| true) {
        taken.push(position);
        batch.finish(position, Ok(8192), Some(extent));
    }
    assert_eq!(taken, [1, 3]);
    batch.answer();
    let done = transfer.wait();
    for position in [0, 2, 4] {
        let error = done.outcomes[position].as_ref().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("nixl:GDS moves memory of one kind"), "{error}");
    }
    assert!(done.extents.iter().all(Option::is_some));
}
