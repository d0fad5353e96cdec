use std::cell::RefCell;

use hicache_core::MemoryKind;
use hicache_core::region::Region;

use super::*;

/// Remembers which ranges are known, and refuses what the library would not find.
#[derive(Default)]
struct Known {
    ranges: std::rc::Rc<RefCell<Vec<(usize, usize)>>>,
    refuse: RefCell<usize>,
}

struct Undo(std::rc::Rc<RefCell<Vec<(usize, usize)>>>, (usize, usize));

impl Drop for Undo {
    fn drop(&mut self) {
        self.0.borrow_mut().retain(|range| *range != self.1);
    }
}

impl Register for Known {
    type Kept = Undo;

    fn register(&self, _: &Arc<Region>, address: usize, bytes: usize) -> Result<Undo> {
        let range = (address, address + bytes);
        if *self.refuse.borrow() > 0 {
            *self.refuse.borrow_mut() -= 1;
            if *self.refuse.borrow() == 0 {
                return Err(Error::new(ErrorKind::Io, "refused"));
            }
        }
        let mut ranges = self.ranges.borrow_mut();
        assert!(
            !ranges.iter().any(|known| known.0 < range.1 && range.0 < known.1),
            "{range:?} in {ranges:?}"
        );
        ranges.push(range);
        Ok(Undo(std::rc::Rc::clone(&self.ranges), range))
    }
}

/// A view of `bytes` bytes from `offset` in `memory`.
fn view(memory: &Arc<Region>, offset: usize, bytes: usize) -> Arc<Region> {
    let base = memory.base().as_ptr().wrapping_add(offset);
    let owner: Box<dyn std::any::Any + Send + Sync> = Box::new(Arc::clone(memory));
    // SAFETY: the range lies in memory that its owner, kept by the view, keeps.
    unsafe { Region::foreign(std::ptr::NonNull::new(base).unwrap(), bytes, MemoryKind::Host, owner) }.unwrap()
}

fn lengths(ranges: &Ranges<Undo>, region: &Arc<Region>, offset: usize, bytes: usize) -> Option<Vec<usize>> {
    let (mut descriptors, mut kept) = (Vec::new(), Vec::new());
    let address = region.base().as_ptr() as usize + offset;
    ranges.describe(region, (address, bytes), &mut descriptors, &mut kept).ok()?;
    assert_eq!(kept.len(), descriptors.len());
    assert_eq!(descriptors[0].address, address);
    assert!(descriptors.windows(2).all(|pair| pair[0].address + pair[0].bytes == pair[1].address));
    Some(descriptors.iter().map(|each| each.bytes).collect())
}

#[test]
fn one_region_is_one_range() {
    let (known, mut ranges, region) =
        (Known::default(), Ranges::default(), Region::allocate(4, 4096).unwrap());
    ranges.add(&known, &region).unwrap();
    assert_eq!(known.ranges.borrow().len(), 1);
    assert_eq!(lengths(&ranges, &region, 4096, 8192), Some(vec![8192]));
    assert_eq!(lengths(&ranges, &region, 12_288, 4097), None, "beyond its end");
    drop(ranges.remove(&region));
    assert!(known.ranges.borrow().is_empty());
    assert_eq!(lengths(&ranges, &region, 0, 1), None);
}

#[test]
fn the_same_region_twice_is_known_once_until_both_are_gone() {
    let (known, mut ranges, region) =
        (Known::default(), Ranges::default(), Region::allocate(4, 4096).unwrap());
    ranges.add(&known, &region).unwrap();
    ranges.add(&known, &region).unwrap();
    assert!(ranges.remove(&region).is_empty());
    assert_eq!(lengths(&ranges, &region, 0, 16_384), Some(vec![16_384]));
    assert_eq!(ranges.remove(&region).len(), 1);
    assert!(known.ranges.borrow().is_empty());
}

#[test]
fn a_view_inside_and_one_around_share_what_they_have_in_common() {
    let (known, mut ranges, memory) =
        (Known::default(), Ranges::default(), Region::allocate(10, 4096).unwrap());
    let inner = view(&memory, 4096, 8192);
    ranges.add(&known, &inner).unwrap();
    ranges.add(&known, &memory).unwrap();
    assert_eq!(known.ranges.borrow().len(), 3, "before, inside, after");
    assert_eq!(lengths(&ranges, &memory, 0, 40_960), Some(vec![4096, 8192, 28_672]));
    assert_eq!(lengths(&ranges, &inner, 100, 200), Some(vec![200]));
    // The outer one goes first: what the inner one uses stays.
    drop(ranges.remove(&memory));
    assert_eq!(known.ranges.borrow().len(), 1);
    assert_eq!(lengths(&ranges, &inner, 0, 8192), Some(vec![8192]));
    assert_eq!(lengths(&ranges, &memory, 0, 4096), None);
    drop(ranges.remove(&inner));
    assert!(known.ranges.borrow().is_empty());
}

#[test]
fn views_that_overlap_in_part() {
    let (known, mut ranges, memory) =
        (Known::default(), Ranges::default(), Region::allocate(10, 4096).unwrap());
    let (low, high) = (view(&memory, 0, 20_480), view(&memory, 12_288, 20_480));
    ranges.add(&known, &low).unwrap();
    ranges.add(&known, &high).unwrap();
    assert_eq!(lengths(&ranges, &high, 0, 20_480), Some(vec![8192, 12_288]));
    drop(ranges.remove(&low));
    assert_eq!(lengths(&ranges, &high, 0, 20_480), Some(vec![8192, 12_288]), "the low range has a user left");
    drop(ranges.remove(&high));
    assert!(known.ranges.borrow().is_empty());
}

#[test]
fn a_refusal_leaves_all_as_it_was() {
    let (known, mut ranges, memory) =
        (Known::default(), Ranges::default(), Region::allocate(10, 4096).unwrap());
    let inner = view(&memory, 4096, 8192);
    ranges.add(&known, &inner).unwrap();
    *known.refuse.borrow_mut() = 2;
    assert!(ranges.add(&known, &memory).is_err(), "the second gap is refused");
    assert_eq!(known.ranges.borrow().len(), 1);
    drop(ranges.remove(&inner));
    assert!(known.ranges.borrow().is_empty(), "the refused one is no user");
}
