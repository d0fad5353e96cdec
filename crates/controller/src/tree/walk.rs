//! Matching prompts, and splitting nodes where they part.

use super::node::first_page_sum;
use super::{Node, NodeId, PromptSpace, TokenId, Tree};
use crate::device_pool::DevicePage;

/// What the tree has of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matched {
    /// The pages on the device, from the start of the prompt. Some may still be on their way there.
    pub device_pages: Vec<DevicePage>,
    /// Pages behind them that the host has.
    pub host_pages: usize,
    /// The node of the last page on the device; the root if there is none.
    pub device_node: NodeId,
    /// The node of the last page that is on the device or the host.
    pub node: NodeId,
}

impl Tree {
    /// Walks down `tokens` as far as nodes are there, splitting the last one where the prompt leaves it. Calls `visit`
    /// with each node; stops where it answers no. Answers the last node that was taken, and how many pages it ends at.
    pub(super) fn descend(
        &mut self,
        space: &PromptSpace,
        tokens: &[TokenId],
        mut visit: impl FnMut(&mut Self, NodeId) -> bool,
    ) -> (NodeId, usize) {
        let page_tokens = self.page_tokens;
        let whole = tokens.len() / page_tokens * page_tokens;
        let (mut id, mut at) = (self.root(space), 0);
        while at < whole {
            let rest = &tokens[at..whole];
            let Some(child) = self.node(id).children.get(first_page_sum(rest, page_tokens)) else { break };
            let own = &self.node(child).tokens;
            let shared = equal_tokens(own, rest) / page_tokens * page_tokens;
            if shared == 0 {
                break; // Two first pages of the same sum.
            }
            let child = if shared < own.len() { self.split(child, shared / page_tokens) } else { child };
            if !visit(self, child) {
                break;
            }
            (id, at) = (child, at + shared);
        }
        (id, at / page_tokens)
    }

    /// Cuts a node: its first `pages` pages become a new node above it, whose id is answered. The rest keeps its id,
    /// and so do operations on it. Both keep their parts of everything.
    pub(crate) fn split(&mut self, id: NodeId, pages: usize) -> NodeId {
        let page_tokens = self.page_tokens;
        let used = self.node(id).used;
        let node = self.node_mut(id);
        debug_assert!(pages > 0 && pages < node.pages(page_tokens));
        let mut tokens = std::mem::take(&mut node.tokens).into_vec();
        let tail = tokens.split_off(pages * page_tokens).into_boxed_slice();
        let mut upper = Node::new(node.parent, tokens.into_boxed_slice(), used);
        fn halve<T>(list: &mut Option<Vec<T>>, at: usize) -> Option<Vec<T>> {
            let list = list.as_mut()?;
            let tail = list.split_off(at);
            Some(std::mem::replace(list, tail))
        }
        upper.device = halve(&mut node.device, pages);
        upper.host = halve(&mut node.host, pages);
        upper.hashes = halve(&mut node.hashes, pages);
        upper.device_locks = node.device_locks;
        upper.host_locks = node.host_locks;
        upper.device_children = u32::from(node.device.is_some());
        upper.host_children = u32::from(node.host.is_some());
        upper.hits = node.hits;
        upper.stored = node.stored;
        upper.storing = node.storing;
        upper.spoilt = node.spoilt;
        upper.prefetched = node.prefetched;
        upper.children.set(first_page_sum(&tail, page_tokens), id);
        let parent = node.parent;
        node.tokens = tail;
        let sum = first_page_sum(&upper.tokens, page_tokens);
        let upper = self.add(upper);
        self.node_mut(id).parent = Some(upper);
        if let Some(parent) = parent {
            self.node_mut(parent).children.set(sum, upper);
        }
        self.refresh(upper);
        self.refresh(id);
        upper
    }

    /// What the tree has of a prompt. Counts as use.
    pub fn find(&mut self, space: &PromptSpace, tokens: &[TokenId]) -> Matched {
        let now = self.tick();
        let root = self.root(space);
        let mut found = Matched { device_pages: Vec::new(), host_pages: 0, device_node: root, node: root };
        self.descend(space, tokens, |tree, id| {
            let page_tokens = tree.page_tokens;
            let node = tree.node_mut(id);
            let on_device = node.device.is_some() && found.host_pages == 0;
            if node.spoilt || (!on_device && node.host.is_none()) {
                return false;
            }
            (node.used, node.write_failed) = (now, false);
            if let Some(device) = node.device.as_ref().filter(|_| on_device) {
                found.device_pages.extend_from_slice(device);
                found.device_node = id;
            } else {
                found.host_pages += node.pages(page_tokens);
            }
            found.node = id;
            tree.refresh(id);
            true
        });
        found
    }
}

/// How many tokens are equal from the start. Whole blocks are compared at once, as memcmp does.
fn equal_tokens(a: &[TokenId], b: &[TokenId]) -> usize {
    let len = a.len().min(b.len());
    let (a, b) = (&a[..len], &b[..len]);
    if a == b {
        return len;
    }
    const BLOCK: usize = 64;
    let blocks = a.chunks(BLOCK).zip(b.chunks(BLOCK));
    let start = blocks.take_while(|(a, b)| a == b).count() * BLOCK;
    let start = start.min(len);
    start + a[start..].iter().zip(&b[start..]).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use hicache_hashing::page_hashes;

    use super::*;
    use crate::tree::Tier;

    const PAGE: usize = 2;

    #[test]
    fn a_split_keeps_hashes_pages_and_locks() {
        let mut tree = Tree::new(PAGE);
        let space = PromptSpace::default();
        let tokens: Vec<TokenId> = (0..8).collect();
        let pages: Vec<DevicePage> = (0..4).map(DevicePage::new).collect();
        let node = tree.insert(&space, &tokens, &pages).node;
        tree.hash_path(node);
        tree.lock(node, Tier::Device);
        // Another prompt leaves it behind the third page.
        let other: Vec<TokenId> = (0..6).chain([90, 91]).collect();
        let found = tree.find(&space, &other);
        assert_eq!(found.device_pages, pages[..3]);
        assert!(found.device_node != node && tree.nodes() == 2);
        let hashes = page_hashes(&tokens, NonZeroUsize::new(PAGE).unwrap(), None);
        assert_eq!(tree.node(found.device_node).hashes.as_deref(), Some(&hashes[..3]));
        assert_eq!(tree.node(node).hashes.as_deref(), Some(&hashes[3..]), "the rest keeps its id");
        assert_eq!(tree.last_hash(node), hashes.last().copied());
        assert_eq!(tree.parts(node, 4), [found.device_node, node]);
        assert!(tree.next_to_leave(Tier::Device, 4).is_none(), "both parts are locked");
        tree.unlock(node, Tier::Device);
        assert_eq!(tree.next_to_leave(Tier::Device, 4), Some(node), "the tail goes first");
        tree.audit().unwrap();
        // Hashes of what comes below go on from there.
        let longer: Vec<TokenId> = (0..10).collect();
        let all: Vec<DevicePage> = (0..5).map(DevicePage::new).collect();
        let last = tree.insert(&space, &longer, &all).node;
        tree.hash_path(last);
        let hashes = page_hashes(&longer, NonZeroUsize::new(PAGE).unwrap(), None);
        assert_eq!(tree.node(last).hashes.as_deref(), Some(&hashes[4..]));
    }
}
