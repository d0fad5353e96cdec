//! Copies between device and host that wait for their turn: by priority, merged into one, cut to bound what is with the
//! device at once.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use hicache_core::{CopiesDone, PageCopy, Transfer};

use crate::device_pool::DevicePage;
use crate::host_pool::HostPage;
use crate::sync::later;
use crate::tree::NodeId;

/// One page that is copied. It holds the leases from the moment it is queued, so nobody else gets the memory.
#[derive(Debug)]
pub(crate) struct PageMove {
    pub(crate) host: HostPage,
    pub(crate) device: DevicePage,
    pub(crate) copy: PageCopy,
}

/// Pages to copy, for nodes that are told when all of theirs are done.
#[derive(Debug)]
pub(crate) struct CopyOperation {
    /// The lower goes first.
    pub(crate) priority: u64,
    /// Order of creation.
    pub(crate) id: u64,
    /// Nodes that end with this operation, each with its number of pages.
    pub(crate) nodes: Vec<(NodeId, usize)>,
    pub(crate) moves: Vec<PageMove>,
}

impl CopyOperation {
    /// Two operations as one: the pages and nodes of both in order, and the more urgent priority.
    pub(crate) fn merge(mut self, other: Self) -> Self {
        self.priority = self.priority.min(other.priority);
        self.nodes.extend(other.nodes);
        self.moves.extend(other.moves);
        self
    }

    /// Cuts it into operations of at most `most` pages. The nodes go with the last one.
    pub(crate) fn split(mut self, most: usize) -> VecDeque<Self> {
        let mut parts = VecDeque::new();
        while self.moves.len() > most.max(1) {
            let rest = self.moves.split_off(most.max(1));
            let moves = std::mem::replace(&mut self.moves, rest);
            parts.push_back(Self { priority: self.priority, id: self.id, nodes: Vec::new(), moves });
        }
        parts.push_back(self);
        parts
    }
}

/// Operations that wait.
#[derive(Debug, Default)]
pub(crate) struct CopyQueue {
    waiting: Vec<CopyOperation>,
    next_id: u64,
}

impl CopyQueue {
    /// Queues an operation; without a priority it goes behind those that were created before.
    pub(crate) fn push(&mut self, node: NodeId, moves: Vec<PageMove>, priority: Option<u64>) {
        let id = self.next_id;
        self.next_id += 1;
        let nodes = vec![(node, moves.len())];
        self.waiting.push(CopyOperation { priority: priority.unwrap_or(id), id, nodes, moves });
    }

    pub(crate) fn operations(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn pages(&self) -> usize {
        self.waiting.iter().map(|operation| operation.moves.len()).sum()
    }

    /// All that wait, merged in their order.
    pub(crate) fn take(&mut self) -> Option<CopyOperation> {
        self.waiting.sort_by_key(|operation| (operation.priority, operation.id));
        self.waiting.drain(..).reduce(CopyOperation::merge)
    }
}

/// A copy that is with the device.
#[derive(Debug)]
pub(crate) struct CopyInFlight {
    pub(crate) nodes: Vec<(NodeId, usize)>,
    pub(crate) pages: Vec<(HostPage, DevicePage)>,
    pub(crate) begun: Instant,
    /// Covers the operation from its start to its end.
    pub(crate) span: tracing::Span,
    transfer: Transfer<CopiesDone>,
    deadline: Instant,
}

/// What a copy in flight has come to.
#[derive(Debug)]
pub(crate) enum Copied {
    Done(CopiesDone),
    /// Not answered in time. The leases end when the device is done, or never.
    Lost,
}

impl CopyInFlight {
    pub(crate) fn new(
        nodes: Vec<(NodeId, usize)>,
        pages: Vec<(HostPage, DevicePage)>,
        transfer: Transfer<CopiesDone>,
        timeout: Duration,
        span: tracing::Span,
    ) -> Self {
        let begun = Instant::now();
        Self { nodes, pages, begun, span, transfer, deadline: later(begun, timeout) }
    }

    /// Looks whether it has ended; if not, `waker` is woken when it does.
    pub(crate) fn look(&mut self, waker: &Waker, now: Instant) -> Option<Copied> {
        match Pin::new(&mut self.transfer).poll(&mut Context::from_waker(waker)) {
            Poll::Ready(done) => Some(Copied::Done(done)),
            Poll::Pending => (now >= self.deadline).then_some(Copied::Lost),
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }
}

#[cfg(test)]
mod tests {
    use hicache_core::PageLeases;

    use super::*;
    use crate::tree::{PromptSpace, Tree};

    fn moves(pages: std::ops::Range<u32>) -> Vec<PageMove> {
        let copy = || PageCopy { from: PageLeases::new(), to: PageLeases::new() };
        pages.map(|i| PageMove { host: HostPage::new(i), device: DevicePage::new(i), copy: copy() }).collect()
    }

    #[test]
    fn the_urgent_go_first_the_others_in_order_and_nodes_end_with_the_last_part() {
        let node = Tree::new(1).find(&PromptSpace::default(), &[]).node;
        let mut queue = CopyQueue::default();
        queue.push(node, moves(0..2), None);
        queue.push(node, moves(2..4), None);
        queue.push(node, moves(4..5), Some(0));
        assert_eq!(queue.operations(), 3);
        let merged = queue.take().unwrap();
        let order = |operation: &CopyOperation| -> Vec<u32> {
            operation.moves.iter().map(|page| page.host.number()).collect()
        };
        assert_eq!(order(&merged), [0, 1, 4, 2, 3], "equal priorities go by creation");
        assert_eq!((merged.priority, merged.nodes.len()), (0, 3));
        assert!(queue.take().is_none());
        let parts = merged.split(2);
        assert_eq!(parts.iter().map(order).collect::<Vec<_>>(), [vec![0, 1], vec![4, 2], vec![3]]);
        assert_eq!(parts.iter().map(|part| part.nodes.len()).collect::<Vec<_>>(), [0, 0, 3]);
    }
}
