//! Cutting a batch, so that the checksums of one part are computed while another moves.
//!
//! Each part costs wake-ups, and a checksum is several times as fast as a disk: so there are few. Beside other batches
//! theirs are what moves meanwhile, and nothing is cut.

/// A lone batch of fewer bytes moves in one part.
const WORTH_PARTS_BYTES: usize = 1 << 20;
/// In a lone load of so many bytes the last part is worth a wake-up while nothing moves.
const WORTH_HOLDING_BYTES: usize = 32 << 20;
/// Most pages in a part.
const MOST_PART_PAGES: usize = 128;

/// How pages are to move.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch {
    /// Bytes of all its pages.
    pub(super) bytes: usize,
    /// Whether it is the only batch under way.
    pub(super) alone: bool,
}

/// A load in parts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LoadParts<T> {
    /// Those that are sent at once.
    pub(super) first: Vec<Vec<T>>,
    /// What is sent when those are there, and verified last of all.
    pub(super) held: Vec<T>,
}

/// The parts of a load.
///
/// The second half moves while the first is verified. Some disks, those of virtual machines above all, report what they
/// have in the queue when all of it has ended: so the end of a long batch is held back, and moves while the second half
/// is verified.
pub(super) fn of_load<T>(pages: Vec<T>, batch: Batch) -> LoadParts<T> {
    if !batch.alone || batch.bytes < WORTH_PARTS_BYTES {
        return LoadParts { first: cut(pages, &[]), held: Vec::new() };
    }
    let mut pages = pages;
    let half = pages.len().min(MOST_PART_PAGES) / 2;
    let held =
        if batch.bytes >= WORTH_HOLDING_BYTES { pages.split_off(pages.len() - half / 4) } else { Vec::new() };
    LoadParts { first: cut(pages, &[half]), held }
}

/// The parts of a store, each of which is summed while those before it are written; nothing moves during the first.
pub(super) fn of_store<T>(pages: Vec<T>, batch: Batch) -> Vec<Vec<T>> {
    if !batch.alone || batch.bytes < WORTH_PARTS_BYTES {
        return cut(pages, &[]);
    }
    let sixteenth = (pages.len().min(MOST_PART_PAGES) / 16).max(1);
    cut(pages, &[sixteenth, 3 * sixteenth])
}

/// Parts of these lengths, then of [`MOST_PART_PAGES`]; none is empty.
fn cut<T>(mut pages: Vec<T>, lengths: &[usize]) -> Vec<Vec<T>> {
    let mut parts = Vec::with_capacity(lengths.len() + pages.len().div_ceil(MOST_PART_PAGES));
    let mut lengths = lengths.iter().copied().filter(|&length| length > 0);
    while !pages.is_empty() {
        let length = lengths.next().unwrap_or(MOST_PART_PAGES).min(pages.len());
        let rest = pages.split_off(length);
        parts.push(std::mem::replace(&mut pages, rest));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(bytes: usize, alone: bool) -> Batch {
        Batch { bytes, alone }
    }

    fn lengths<T>(parts: &[Vec<T>]) -> Vec<usize> {
        parts.iter().map(Vec::len).collect()
    }

    #[test]
    fn parts_are_the_whole_in_order() {
        for (count, bytes) in [(0, 1), (1, 1), (1, 1 << 21), (7, 1 << 20), (128, 1 << 19), (1000, 4096)] {
            for alone in [true, false] {
                let batch = batch(count * bytes, alone);
                let whole: Vec<usize> = (0..count).collect();
                let LoadParts { mut first, held } = of_load(whole.clone(), batch);
                assert!(held.is_empty() || !first.is_empty());
                first.extend((!held.is_empty()).then_some(held));
                let store = of_store(whole.clone(), batch);
                for parts in [first, store] {
                    assert!(parts.iter().all(|part| (1..=MOST_PART_PAGES).contains(&part.len())));
                    assert_eq!(parts.concat(), whole);
                }
            }
        }
    }

    #[test]
    fn what_nothing_hides_is_small() {
        let load = |bytes: usize, alone| {
            let LoadParts { first, held } = of_load(vec![(); 128], batch(128 * bytes, alone));
            (lengths(&first), held.len())
        };
        assert_eq!(load(1 << 19, true), (vec![64, 48], 16));
        assert_eq!(load(1 << 16, true), (vec![64, 64], 0));
        assert_eq!(load(1 << 12, true), (vec![128], 0));
        assert_eq!(load(1 << 19, false), (vec![128], 0));
        assert_eq!(lengths(&of_store(vec![(); 128], batch(1 << 26, true))), [8, 24, 96]);
        assert_eq!(lengths(&of_store(vec![(); 8], batch(1 << 26, true))), [1, 3, 4]);
        assert_eq!(lengths(&of_store(vec![(); 128], batch(1 << 26, false))), [128]);
    }
}
