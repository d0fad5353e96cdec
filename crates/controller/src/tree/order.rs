//! Which nodes can be evicted from a tier, and in which order.

use std::collections::BTreeSet;

use super::NodeId;

/// Evictable nodes, the one used longest ago first. Only leaves of a tier are in it, so it is short, and a use of a
/// long path changes one entry.
#[derive(Debug, Default)]
pub(super) struct Order(BTreeSet<(u64, NodeId)>);

impl Order {
    /// A node's place has changed.
    pub(super) fn moved(&mut self, id: NodeId, from: Option<u64>, to: Option<u64>) {
        if from == to {
            return;
        }
        if let Some(used) = from {
            self.0.remove(&(used, id));
        }
        if let Some(used) = to {
            self.0.insert((used, id));
        }
    }

    pub(super) fn oldest(&self) -> Option<NodeId> {
        self.0.first().map(|(_, id)| *id)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
