//! What every engine checks before it takes an extent, asked without an engine: one that refuses later, in its own
//! code, would hide a check that is gone from here.

use std::sync::Arc;

use hicache_core::{
    Access, Completes, Direction, EngineCapabilities, EngineFile, Error, ErrorKind, Extent, MemoryKind,
    OwnerId, PageMemory, Region, Registration,
};

const UNIT: usize = 512;

fn capabilities() -> EngineCapabilities {
    EngineCapabilities {
        name: "none",
        alignment: UNIT,
        max_pieces: 2,
        max_extent_bytes: 4 * UNIT as u64,
        max_in_flight: 1,
        memory: vec![MemoryKind::Host],
        completes: Completes::PerOperation,
        reports_lengths: true,
        proves_idle: true,
    }
}

#[test]
fn each_refusal() {
    let owner = OwnerId::new();
    let registration = Registration::new(owner, Region::allocate(4, 8 * UNIT).unwrap(), Box::new(()));
    let file = EngineFile::new(owner, Arc::new(tempfile::tempfile().unwrap()), Box::new(()));
    let check = |direction, offset, pieces: &[(usize, usize)], access, owner| {
        let pieces = pieces
            .iter()
            .enumerate()
            .map(|(slot, &(at, len))| registration.piece(slot, at, len, access).unwrap());
        let memory = PageMemory::from_pieces(pieces).unwrap();
        Extent { file: file.clone(), offset, memory }.validate(direction, owner, &capabilities())
    };
    use Access::{Read as Shared, Write as Exclusive};
    use Direction::{Read, Write};
    let unit = UNIT as u64;
    let end = (i64::MAX as u64).next_multiple_of(unit) - 2 * unit;
    for good in [
        check(Read, 0, &[(0, UNIT)], Exclusive, owner),
        check(Write, 7 * unit, &[(0, UNIT), (UNIT, 3 * UNIT)], Shared, owner),
        check(Write, end, &[(0, UNIT)], Exclusive, owner),
    ] {
        assert!(good.is_ok(), "{good:?}");
    }
    for (what, bad) in [
        ("a read into a read lease", check(Read, 0, &[(0, UNIT)], Shared, owner)),
        ("another owner", check(Write, 0, &[(0, UNIT)], Shared, OwnerId::new())),
        ("an offset off the grid", check(Write, 1, &[(0, UNIT)], Shared, owner)),
        ("an address off the grid", check(Write, 0, &[(1, UNIT)], Shared, owner)),
        ("a length off the grid", check(Write, 0, &[(0, UNIT + 1)], Shared, owner)),
        ("too many pieces", check(Write, 0, &[(0, UNIT); 3], Shared, owner)),
        ("too many bytes", check(Write, 0, &[(0, 5 * UNIT)], Shared, owner)),
        ("an end beyond any file", check(Write, end + unit, &[(0, UNIT)], Shared, owner)),
        ("an end that is no number", check(Write, u64::MAX - unit + 1, &[(0, UNIT)], Shared, owner)),
    ] {
        assert_eq!(bad.as_ref().map_err(Error::kind), Err(ErrorKind::Config), "{what}: {bad:?}");
    }
}

#[test]
fn pages_are_joined_only_where_one_operation_can_move_them() {
    let (owner, other) = (OwnerId::new(), OwnerId::new());
    let of = |owner| Registration::new(owner, Region::allocate(3, UNIT).unwrap(), Box::new(()));
    let (own, foreign) = (of(owner), of(other));
    let mut page = own.page(0, UNIT, Access::Write).unwrap();
    assert!(page.append(own.page(1, 100, Access::Write).unwrap()).is_none());
    assert_eq!((page.pieces().len(), page.bytes()), (2, UNIT + 100));
    assert_eq!(page.pieces()[1].len(), 100, "behind the others");
    // What does not fit comes back whole.
    for misfit in [own.page(2, 7, Access::Read).unwrap(), foreign.page(2, 7, Access::Write).unwrap()] {
        assert_eq!(page.append(misfit).unwrap().bytes(), 7);
    }
    assert_eq!(page.pieces().len(), 2);
    let file = || EngineFile::new(owner, Arc::new(tempfile::tempfile().unwrap()), Box::new(()));
    let (one, two) = (file(), file());
    assert!(one.is(&one.clone()) && !one.is(&two));
}
