//! Several queues of pages, each page in at most one of them.

/// Marks the end of a queue, and a page in no queue.
const NONE: usize = usize::MAX;

/// `N` queues over the same numbered pages. Every operation takes constant time.
#[derive(Debug)]
pub(crate) struct Queues<const N: usize> {
    /// Each page's neighbours and queue.
    places: Vec<Place>,
    ends: [Ends; N],
}

#[derive(Clone, Copy, Debug)]
struct Place {
    older: usize,
    newer: usize,
    queue: usize,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    oldest: usize,
    newest: usize,
    len: usize,
}

impl<const N: usize> Queues<N> {
    /// Empty queues for the pages from 0 to `pages`.
    pub(crate) fn new(pages: usize) -> Self {
        Self {
            places: vec![Place { older: NONE, newer: NONE, queue: NONE }; pages],
            ends: [Ends { oldest: NONE, newest: NONE, len: 0 }; N],
        }
    }

    /// Pages in `queue`.
    pub(crate) fn len(&self, queue: usize) -> usize {
        self.ends[queue].len
    }

    /// The queue that `page` is in.
    pub(crate) fn queue_of(&self, page: usize) -> Option<usize> {
        Some(self.places[page].queue).filter(|queue| *queue != NONE)
    }

    /// Puts `page` at the new end of `queue`, taking it out of the queue that it is in.
    pub(crate) fn push(&mut self, queue: usize, page: usize) {
        self.remove(page);
        let ends = &mut self.ends[queue];
        self.places[page] = Place { older: ends.newest, newer: NONE, queue };
        match ends.newest {
            NONE => ends.oldest = page,
            newest => self.places[newest].newer = page,
        }
        ends.newest = page;
        ends.len += 1;
    }

    /// Takes out the page that has been in `queue` for longest.
    pub(crate) fn pop(&mut self, queue: usize) -> Option<usize> {
        let oldest = Some(self.ends[queue].oldest).filter(|oldest| *oldest != NONE)?;
        self.remove(oldest);
        Some(oldest)
    }

    /// Takes `page` out of the queue that it is in, if it is in one.
    pub(crate) fn remove(&mut self, page: usize) {
        let Place { older, newer, queue } = self.places[page];
        if queue == NONE {
            return;
        }
        let ends = &mut self.ends[queue];
        match older {
            NONE => ends.oldest = newer,
            older => self.places[older].newer = newer,
        }
        match newer {
            NONE => ends.newest = older,
            newer => self.places[newer].older = older,
        }
        ends.len -= 1;
        self.places[page] = Place { older: NONE, newer: NONE, queue: NONE };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn queues_do_what_plain_lists_do() {
        const PAGES: usize = 9;
        let mut queues = Queues::<3>::new(PAGES);
        let mut lists = [const { VecDeque::new() }; 3];
        let mut random = 1_u64;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (action, queue, page) =
                ((random >> 60) as usize, (random >> 40) as usize % 3, (random >> 50) as usize % PAGES);
            let forget = |lists: &mut [VecDeque<usize>; 3]| {
                lists.iter_mut().for_each(|list| list.retain(|other| *other != page));
            };
            match action {
                0..10 => {
                    forget(&mut lists);
                    lists[queue].push_back(page);
                    queues.push(queue, page);
                }
                10..13 => {
                    forget(&mut lists);
                    queues.remove(page);
                }
                _ => assert_eq!(queues.pop(queue), lists[queue].pop_front()),
            }
            for (queue, list) in lists.iter().enumerate() {
                assert_eq!(queues.len(queue), list.len());
            }
            let home = lists.iter().position(|list| list.contains(&page));
            assert_eq!(queues.queue_of(page), home);
        }
    }
}
