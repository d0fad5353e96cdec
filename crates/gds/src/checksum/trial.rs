//! Whether the kernel sums as the CPU does, on the device that is there: seen before the kernel is used.

use std::sync::Arc;

use hicache_core::{Access, Error, ErrorKind, OwnerId, PageMemory, Piece, Registration, Result, hashing};

use super::summer::Summer;
use crate::GDS;
use crate::cuda::Context;
use crate::cuda::trial_bytes::{pattern, upload};

/// Bytes that pages are cut from.
const BYTES: usize = (3 << 20) + 4096;

/// The pieces of a page: start and length of each.
type Pieces = Vec<(usize, usize)>;

/// Lengths on both sides of what the kernel reads at once (8 bytes), of a part (1 KiB) and of common pages, at starts that are
/// aligned and not; pages of some MiB; pages in many pieces, none of them in order.
fn pages() -> Vec<Pieces> {
    let mut pages = Vec::new();
    for start in [0, 1, 3, 8, 4093] {
        for near in [8, 256, 1024, 4096, 65_536] {
            pages.extend([near - 1, near, near + 1].map(|length| vec![(start, length)]));
        }
        pages.push(vec![(start, 1)]);
    }
    pages.extend([vec![(0, 3 << 20)], vec![(5, (2 << 20) + 1)], vec![(4096, (1 << 20) - 1)]]);
    for pieces in [2, 3, 7, 64] {
        pages.push((0..pieces).map(|i| (BYTES - (i + 1) * 5000, 4096 - 13 * i + i % 2)).collect());
    }
    pages
}

/// Sums pages of known bytes on the device, several at once and one by one, and compares with the CPU's sums.
///
/// # Errors
/// `Unexpected`, with the first page that differs; what the device reports.
pub(super) fn compare(context: &Arc<Context>, summer: &mut Summer) -> Result<()> {
    let bytes = pattern(BYTES);
    let memory = Registration::new(OwnerId::new(), upload(context, &bytes)?, Box::new(()));
    let of_device = |pieces: &Pieces| -> Result<PageMemory> {
        let pieces = pieces.iter().map(|&(at, length)| memory.piece(0, at, length, Access::Read));
        PageMemory::from_pieces(pieces.collect::<Result<Vec<Piece>>>()?)
    };
    let check = |pieces: &Pieces, seen: u64| {
        let mut sum = hashing::Checksum::new();
        pieces.iter().for_each(|&(at, length)| sum.update(&bytes[at..at + length]));
        let wanted = sum.finish();
        if seen == wanted {
            return Ok(());
        }
        let total: usize = pieces.iter().map(|piece| piece.1).sum();
        let message = format!(
            "the kernel's checksum of {total} known bytes in {} pieces from byte {} on is {seen:016x}, the CPU's {wanted:016x}",
            pieces.len(),
            pieces[0].0
        );
        Err(Error::new(ErrorKind::Unexpected, message).with_backend(GDS))
    };
    let pages = pages();
    let together = summer.sum(pages.iter().map(of_device).collect::<Result<Vec<_>>>()?).sums?;
    pages.iter().zip(together).try_for_each(|(page, sum)| check(page, sum))?;
    // As an engine does it.
    pages.iter().rev().take(6).try_for_each(|page| check(page, summer.sum_borrowed(&of_device(page)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_lie_in_the_bytes_and_are_of_all_kinds() {
        let pages = pages();
        assert!(pages.iter().flatten().all(|&(at, length)| length > 0 && at + length <= BYTES));
        let one: Vec<(usize, usize)> =
            pages.iter().filter(|page| page.len() == 1).map(|page| page[0]).collect();
        for rest in [0, 1, 7] {
            assert!(one.iter().any(|&(at, length)| at % 8 == 1 && length % 8 == rest), "{rest}");
        }
        assert!(one.iter().any(|&(_, length)| length > 1 << 21));
        assert!(pages.iter().any(|page| page.len() == 64 && page[0].0 > page[63].0));
    }
}
