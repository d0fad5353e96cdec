//! The prefix tree: which pages of which prompts are on the device and in host memory.
//!
//! A radix tree over pages of tokens. A node stands for a run of pages and holds, for each of them, the page on the
//! device, the page in host memory, and the hash in storage, as far as there are such. Three things hold after each
//! change:
//!
//! - Every node but a root has a copy somewhere.
//! - The nodes with a device copy are closed upwards: no page is on the device without those before it. Those before
//!   a host copy have a copy of either kind, so whatever the tree has of a prompt is a prefix of it.
//! - What is locked stays where it is: a lock covers the whole path up to the root.
//!
//! | module | what is there |
//! |---|---|
//! | `node` | `Node`, and the children of a node |
//! | `walk` | matching, and splitting nodes |
//! | `change` | inserting, evicting, losing copies |
//! | `order` | which nodes can be evicted, the one used longest ago first |
//! | `audit` | everything that must be true of a tree, checked |

mod audit;
mod change;
mod node;
mod order;
mod walk;

use std::collections::HashMap;

use hicache_hashing::{Digest, page_hash};

use crate::device_pool::DevicePage;
use crate::host_pool::HostPage;

pub use audit::TreeCensus;
pub(crate) use change::Dropped;
pub use change::{HostInserted, Inserted};
pub(crate) use node::Node;
pub use node::{NodeId, TokenId};
use order::Order;
pub use walk::Matched;

/// What separates prompts of equal tokens: an extra key (a LoRA adapter, for one) and a cache salt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PromptSpace {
    /// The extra key.
    pub extra_key: Option<String>,
    /// The salt.
    pub salt: Option<String>,
}

/// The tree.
#[derive(Debug)]
pub struct Tree {
    page_tokens: usize,
    nodes: Vec<Option<Node>>,
    vacant: Vec<NodeId>,
    roots: HashMap<PromptSpace, NodeId>,
    /// Raised with each use.
    clock: u64,
    device_order: Order,
    host_order: Order,
}

/// Which copies of a node are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    Device,
    Host,
}

impl Tree {
    /// An empty tree of pages of `page_tokens` tokens; 0 counts as 1.
    pub fn new(page_tokens: usize) -> Self {
        Self {
            page_tokens: page_tokens.max(1),
            nodes: Vec::new(),
            vacant: Vec::new(),
            roots: HashMap::new(),
            clock: 0,
            device_order: Order::default(),
            host_order: Order::default(),
        }
    }

    /// Spaces that have a root: those with pages, or with a prompt that is being worked on.
    pub fn spaces(&self) -> usize {
        self.roots.len()
    }

    /// Nodes in the tree, without roots.
    pub fn nodes(&self) -> usize {
        self.nodes.len() - self.vacant.len() - self.roots.len()
    }

    /// Tokens of a page.
    pub fn page_tokens(&self) -> usize {
        self.page_tokens
    }

    /// A node that is known to be there. The tree hands out ids only of nodes that it has, and keeps locked ones.
    #[track_caller]
    pub(crate) fn node(&self, id: NodeId) -> &Node {
        match self.nodes.get(id.place()) {
            Some(Some(node)) => node,
            _ => unreachable!("{id:?} is not in the tree"),
        }
    }

    #[track_caller]
    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        match self.nodes.get_mut(id.place()) {
            Some(Some(node)) => node,
            _ => unreachable!("{id:?} is not in the tree"),
        }
    }

    /// Whether a node is still there.
    pub(crate) fn has(&self, id: NodeId) -> bool {
        matches!(self.nodes.get(id.place()), Some(Some(_)))
    }

    /// All nodes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().flatten()
    }

    fn add(&mut self, node: Node) -> NodeId {
        match self.vacant.pop() {
            Some(id) => {
                self.nodes[id.place()] = Some(node);
                id
            }
            None => {
                self.nodes.push(Some(node));
                NodeId::at(self.nodes.len() - 1)
            }
        }
    }

    fn root(&mut self, space: &PromptSpace) -> NodeId {
        if let Some(&root) = self.roots.get(space) {
            return root;
        }
        let root = self.add(Node::root(space));
        self.roots.insert(space.clone(), root);
        root
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Counts a node as evictable or not, as it is now. After every change of a node that bears on it.
    fn refresh(&mut self, id: NodeId) {
        let node = self.node(id);
        let (used, device, host) = (node.used, node.can_leave(Tier::Device), node.can_leave(Tier::Host));
        let ranks = node.ranks;
        let now = [device.then_some(used), host.then_some(used)];
        if ranks != now {
            self.device_order.moved(id, ranks[0], now[0]);
            self.host_order.moved(id, ranks[1], now[1]);
            self.node_mut(id).ranks = now;
        }
    }

    /// Protects the copies of one tier on the path from `id` to the root.
    pub(crate) fn lock(&mut self, id: NodeId, tier: Tier) {
        let mut next = Some(id);
        while let Some(id) = next {
            let node = self.node_mut(id);
            *node.locks(tier) += 1;
            next = node.parent;
            self.refresh(id);
        }
    }

    /// Ends a [`Tree::lock`].
    pub(crate) fn unlock(&mut self, id: NodeId, tier: Tier) {
        let mut next = Some(id);
        while let Some(id) = next {
            let node = self.node_mut(id);
            let locks = node.locks(tier);
            debug_assert!(*locks > 0, "{id:?} was not locked");
            *locks = locks.saturating_sub(1);
            next = node.parent;
            self.refresh(id);
        }
    }

    /// The last hash of the chain up to and with a node, after which another page would go.
    pub(crate) fn last_hash(&mut self, id: NodeId) -> Option<Digest> {
        self.hash_path(id);
        let node = self.node(id);
        if node.parent.is_none() { node.seed } else { node.hashes.as_ref()?.last().copied() }
    }

    /// Computes the hashes of the path up to a node where they are missing.
    pub(crate) fn hash_path(&mut self, id: NodeId) {
        let mut missing = Vec::new();
        let mut next = id;
        while let (None, Some(parent)) = (&self.node(next).hashes, self.node(next).parent) {
            missing.push(next);
            next = parent;
        }
        let node = self.node(next);
        let mut prior = match &node.hashes {
            Some(hashes) => hashes.last().copied(),
            None => node.seed,
        };
        for id in missing.into_iter().rev() {
            let page_tokens = self.page_tokens;
            let node = self.node_mut(id);
            let pages = node.tokens.chunks(page_tokens);
            let hashes: Vec<Digest> =
                pages.map(|page| *prior.insert(page_hash(prior.as_ref(), page))).collect();
            node.hashes = Some(hashes);
        }
    }

    /// The nodes that now hold the last `pages` pages of the path down to `id`, from the top: what was one node when
    /// an operation began may have been split since.
    pub(crate) fn parts(&self, id: NodeId, pages: usize) -> Vec<NodeId> {
        let (mut parts, mut covered, mut next) = (Vec::new(), 0, Some(id));
        while let Some(id) = next.filter(|_| covered < pages) {
            let node = self.node(id);
            covered += node.pages(self.page_tokens);
            parts.push(id);
            next = node.parent;
        }
        parts.reverse();
        parts
    }

    /// Every page that the tree has a copy of.
    pub(crate) fn all_pages(&self) -> (Vec<DevicePage>, Vec<HostPage>) {
        let nodes = || self.nodes.iter().flatten();
        let device = nodes().filter_map(|node| node.device.as_ref()).flatten().copied().collect();
        let host = nodes().filter_map(|node| node.host.as_ref()).flatten().copied().collect();
        (device, host)
    }

    /// Nothing counts as stored any more.
    pub(crate) fn forget_stored(&mut self) {
        for node in self.nodes.iter_mut().flatten() {
            node.stored = false;
        }
    }

    /// Whether a device copy on the path down to a node is not whole.
    pub(crate) fn path_is_spoilt(&self, id: NodeId) -> bool {
        std::iter::successors(Some(id), |id| self.node(*id).parent).any(|id| self.node(id).spoilt)
    }

    /// Whether anything is locked.
    pub(crate) fn is_locked(&self) -> bool {
        self.nodes.iter().flatten().any(|node| node.device_locks + node.host_locks > 0)
    }
}
