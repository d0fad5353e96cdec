//! Pages of equal size in regions: who has them, and the account of all of them.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use hicache_core::{Access, Device, Error, ErrorKind, PageLeases, Region, Result};

use crate::page_state::PageState;

/// A page of a pool of states `S`, by its number.
pub struct PageId<S>(u32, PhantomData<fn() -> S>);

impl<S> PageId<S> {
    /// The page with this number; pools refuse numbers that they don't have.
    pub const fn new(number: u32) -> Self {
        Self(number, PhantomData)
    }

    /// Its number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl<S> Clone for PageId<S> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S> Copy for PageId<S> {}
impl<S> PartialEq for PageId<S> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<S> Eq for PageId<S> {}
impl<S> fmt::Debug for PageId<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How many pages are in each state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolAccount<S>(Vec<(S, usize)>);

impl<S: PageState> PoolAccount<S> {
    /// Pages in `state`.
    pub fn of(&self, state: S) -> usize {
        self.0.iter().find(|(other, _)| *other == state).map_or(0, |(_, pages)| *pages)
    }

    /// Each state with its pages.
    pub fn iter(&self) -> impl Iterator<Item = (S, usize)> {
        self.0.iter().copied()
    }
}

/// Pages of equal size, allocated whole.
#[derive(Debug)]
pub struct PagePool<S> {
    name: &'static str,
    regions: Vec<Arc<Region>>,
    slot_bytes: usize,
    states: Vec<S>,
    counts: Vec<usize>,
    free: Vec<u32>,
    abandoned: Vec<u32>,
    device: Option<Arc<dyn Device>>,
}

impl<S: PageState> PagePool<S> {
    /// A pool of `regions`, which have equal slots: page `i` is slot `i` of each. `device` is told of freed pages.
    pub(crate) fn new(
        name: &'static str,
        regions: Vec<Arc<Region>>,
        slot_bytes: usize,
        device: Option<Arc<dyn Device>>,
    ) -> Result<Self> {
        let pages = regions.first().map_or(0, |region| region.slots());
        let number = u32::try_from(pages).ok().filter(|&pages| pages > 0);
        let Some(number) = number.filter(|_| regions.iter().all(|region| region.slots() == pages)) else {
            return Err(Error::config(format!(
                "a {name} pool of {pages} pages can't be used; 1 to {}",
                u32::MAX
            )));
        };
        let mut counts = vec![0; S::ALL.len()];
        counts[0] = pages;
        Ok(Self {
            name,
            regions,
            slot_bytes,
            states: vec![S::ALL[0]; pages],
            counts,
            // From the end, so that the first pages are given out first.
            free: (0..number).rev().collect(),
            abandoned: Vec::new(),
            device,
        })
    }

    /// Number of pages.
    pub fn pages(&self) -> usize {
        self.states.len()
    }

    /// Pages that can be given out.
    pub fn free_pages(&self) -> usize {
        self.free.len()
    }

    /// The memory: page `i` is slot `i` of each region.
    pub fn regions(&self) -> &[Arc<Region>] {
        &self.regions
    }

    /// Bytes of each buffer of a page.
    pub fn buffer_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// How many pages are in each state.
    pub fn account(&self) -> PoolAccount<S> {
        PoolAccount(S::ALL.iter().copied().zip(self.counts.iter().copied()).collect())
    }

    fn place(&self, page: PageId<S>) -> Result<usize> {
        let place = page.number() as usize;
        if place >= self.states.len() {
            return Err(Error::config(format!(
                "page {place} is out of the {} pool, which has {} pages",
                self.name,
                self.states.len()
            )));
        }
        Ok(place)
    }

    /// What a page is doing.
    ///
    /// # Errors
    /// `Config` for a page that the pool does not have.
    pub fn state(&self, page: PageId<S>) -> Result<S> {
        Ok(self.states[self.place(page)?])
    }

    /// Gives out `pages` pages, or none.
    ///
    /// # Errors
    /// `NoSpace`, saying how many there are.
    pub fn allocate(&mut self, pages: usize) -> Result<Vec<PageId<S>>> {
        let Some(rest) = self.free.len().checked_sub(pages) else {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!("{pages} pages were wanted of the {} pool; {} are free", self.name, self.free.len()),
            ));
        };
        let given: Vec<_> = self.free.split_off(rest).into_iter().rev().map(PageId::new).collect();
        for page in &given {
            self.enter(page.number() as usize, S::RESERVED);
        }
        Ok(given)
    }

    fn enter(&mut self, place: usize, next: S) {
        self.counts[self.states[place].index()] -= 1;
        self.counts[next.index()] += 1;
        self.states[place] = next;
    }

    /// Changes what pages are doing, all or none.
    ///
    /// # Errors
    /// `Config`, naming page and states, for a change that is not allowed, and for a page that the pool does not have.
    pub fn change(&mut self, pages: &[PageId<S>], next: S) -> Result<()> {
        for &page in pages {
            let state = self.states[self.place(page)?];
            if !state.may_become(next) || next == S::ALL[0] {
                return Err(Error::config(format!(
                    "page {page:?} of the {} pool is {} and can't become {}",
                    self.name,
                    state.as_str(),
                    next.as_str()
                )));
            }
        }
        for page in pages {
            self.enter(page.number() as usize, next);
        }
        Ok(())
    }

    /// Takes pages back. One whose memory a lost operation may still touch is kept apart until that is over.
    ///
    /// # Errors
    /// `Config` for a page that is free already, is abandoned, or is in flight; the others are taken back.
    pub fn free(&mut self, pages: &[PageId<S>]) -> Result<()> {
        let mut first = Ok(());
        for &page in pages {
            if let Err(error) = self.free_one(page)
                && first.is_ok()
            {
                first = Err(error);
            }
        }
        first
    }

    fn free_one(&mut self, page: PageId<S>) -> Result<()> {
        let place = self.place(page)?;
        let state = self.states[place];
        if state == S::ABANDONED || !state.may_become(S::ALL[0]) {
            return Err(Error::config(format!(
                "page {page:?} of the {} pool is {} and can't be freed",
                self.name,
                state.as_str()
            )));
        }
        match self.leases(page, Access::Write) {
            Ok(leases) => {
                self.enter(place, S::ALL[0]);
                self.free.push(page.number());
                if let Some(device) = &self.device {
                    device.page_freed(leases);
                }
            }
            Err(_) => {
                self.enter(place, S::ABANDONED);
                self.abandoned.push(page.number());
            }
        }
        Ok(())
    }

    /// Frees the abandoned pages that nobody can touch any more, and says how many.
    pub fn reclaim(&mut self) -> usize {
        let mut abandoned = std::mem::take(&mut self.abandoned);
        let before = abandoned.len();
        abandoned.retain(|&number| {
            if self.leases(PageId::new(number), Access::Write).is_err() {
                return true;
            }
            self.enter(number as usize, S::ALL[0]);
            self.free.push(number);
            false
        });
        self.abandoned = abandoned;
        before - self.abandoned.len()
    }

    /// The right to touch a page's memory.
    ///
    /// # Errors
    /// `Busy` if somebody holds a conflicting one, `Config` for a page that the pool does not have.
    pub fn leases(&self, page: PageId<S>, access: Access) -> Result<PageLeases> {
        let place = self.place(page)?;
        self.regions.iter().map(|region| region.lease(place, 0, self.slot_bytes, access)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page_state::HostState;

    #[test]
    fn pages_are_given_out_changed_and_taken_back_by_the_rules_only() {
        let region = Region::allocate(4, 64).unwrap();
        let mut pool = PagePool::<HostState>::new("test", vec![Arc::clone(&region)], 64, None).unwrap();
        assert!(PagePool::<HostState>::new("test", vec![], 64, None).is_err());
        assert_eq!(pool.allocate(5).unwrap_err().kind(), ErrorKind::NoSpace);
        let pages = pool.allocate(3).unwrap();
        assert_eq!(pool.free_pages(), 1);
        // All or none: the last one is free.
        let with_free = [pages[0], PageId::new(3)];
        let error = pool.change(&with_free, HostState::Writing).unwrap_err().to_string();
        assert!(error.contains("page 3 of the test pool is free and can't become writing"), "{error}");
        assert_eq!(pool.state(pages[0]).unwrap(), HostState::Reserved);
        for wrong in [HostState::Synced, HostState::Loading, HostState::Free] {
            assert_eq!(pool.change(&pages, wrong).unwrap_err().kind(), ErrorKind::Config, "{wrong:?}");
        }
        assert!(
            pool.change(&[PageId::new(4)], HostState::Writing).is_err()
                && pool.state(PageId::new(4)).is_err()
        );
        pool.change(&pages, HostState::Writing).unwrap();
        pool.change(&pages, HostState::Synced).unwrap();
        // Somebody still has one of them: it is kept apart until that is over.
        let held = pool.leases(pages[1], Access::Read).unwrap();
        pool.free(&pages).unwrap();
        assert_eq!((pool.account().of(HostState::Abandoned), pool.free_pages()), (1, 3));
        for page in &pages {
            assert_eq!(pool.free(&[*page]).unwrap_err().kind(), ErrorKind::Config, "{page:?} twice");
        }
        assert_eq!(pool.reclaim(), 0);
        drop(held);
        assert_eq!((pool.reclaim(), pool.free_pages()), (1, 4));
        assert_eq!(pool.account().iter().map(|(_, pages)| pages).sum::<usize>(), 4);
    }
}
