//! Everything that must be true of a tree, checked.

use hicache_core::{Error, ErrorKind, Result};

use super::{Node, NodeId, Tier, Tree};
use crate::device_pool::DevicePage;
use crate::host_pool::HostPage;

/// What a tree holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeCensus {
    /// Nodes without roots.
    pub nodes: usize,
    /// Pages with a device copy.
    pub device_pages: usize,
    /// Pages with a host copy.
    pub host_pages: usize,
    /// Device copies and host copies that are protected.
    pub locked_nodes: usize,
}

impl Tree {
    /// Checks what must hold, in time proportional to the tree. For tests, and for whoever is in doubt.
    ///
    /// # Errors
    /// `Unexpected`, saying what does not hold.
    pub(crate) fn audit(&self) -> Result<TreeCensus> {
        let wrong = |text: String| Err(Error::new(ErrorKind::Unexpected, text));
        let mut census = TreeCensus { nodes: self.nodes(), ..TreeCensus::default() };
        let (mut device_seen, mut host_seen) = (Vec::new(), Vec::new());
        let mut evictable = [0, 0];
        for (place, node) in self.nodes.iter().enumerate() {
            let Some(node) = node else { continue };
            let id = NodeId::at(place);
            self.audit_links(id, node)?;
            let pages = node.pages(self.page_tokens);
            let lengths = [
                node.device.as_ref().map(Vec::len),
                node.host.as_ref().map(Vec::len),
                node.hashes.as_ref().map(Vec::len),
            ];
            if lengths.into_iter().flatten().any(|len| len != pages) {
                return wrong(format!("{id:?} of {pages} pages has copies of {lengths:?}"));
            }
            let ranks = [Tier::Device, Tier::Host].map(|tier| node.can_leave(tier).then_some(node.used));
            if ranks != node.ranks {
                return wrong(format!("{id:?} is ordered by {:?} and must be by {ranks:?}", node.ranks));
            }
            for (count, rank) in evictable.iter_mut().zip(ranks) {
                *count += usize::from(rank.is_some());
            }
            device_seen.extend(node.device.iter().flatten().map(|page: &DevicePage| page.number()));
            host_seen.extend(node.host.iter().flatten().map(|page: &HostPage| page.number()));
            census.locked_nodes += usize::from(!node.is_root() && node.device_locks + node.host_locks > 0);
        }
        if evictable != [self.device_order.len(), self.host_order.len()] {
            return wrong(format!("{evictable:?} nodes are evictable, and others are in the orders"));
        }
        census.device_pages = device_seen.len();
        census.host_pages = host_seen.len();
        for mut seen in [device_seen, host_seen] {
            seen.sort_unstable();
            if let Some(pair) = seen.windows(2).find(|pair| pair[0] == pair[1]) {
                return wrong(format!("page {} is in the tree twice", pair[0]));
            }
        }
        Ok(census)
    }

    fn audit_links(&self, id: NodeId, node: &Node) -> Result<()> {
        let wrong = |text: String| Err(Error::new(ErrorKind::Unexpected, text));
        let mut counts = [0, 0];
        for child in node.children.ids() {
            let Some(Some(child_node)) = self.nodes.get(child.place()) else {
                return wrong(format!("{id:?} has a child {child:?} that is not there"));
            };
            if child_node.parent != Some(id) {
                return wrong(format!("{child:?} is a child of {id:?} and says {:?}", child_node.parent));
            }
            counts[0] += u32::from(child_node.device.is_some());
            counts[1] += u32::from(child_node.host.is_some());
            if child_node.device_locks > node.device_locks || child_node.host_locks > node.host_locks {
                return wrong(format!("{child:?} is locked more often than {id:?} above it"));
            }
            if child_node.device.is_some() && !node.is_root() && node.device.is_none() {
                return wrong(format!("{child:?} is on the device and {id:?} above it is not"));
            }
            if child_node.host.is_some() && !node.has_copy() {
                return wrong(format!("{child:?} is on the host and {id:?} above it has no copy"));
            }
        }
        if counts != [node.device_children, node.host_children] {
            let said = [node.device_children, node.host_children];
            return wrong(format!("{id:?} has {counts:?} children with copies and says {said:?}"));
        }
        let copies = node.device.is_some() || node.host.is_some();
        let locked = node.device_locks + node.host_locks > 0;
        if !node.is_root() && !copies && !locked {
            return wrong(format!("{id:?} has no copy and is not locked"));
        }
        Ok(())
    }
}
