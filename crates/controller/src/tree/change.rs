//! Inserting, evicting, and losing copies.

use hicache_hashing::Digest;

use super::node::first_page_sum;
use super::{Node, NodeId, PromptSpace, Tier, TokenId, Tree};
use crate::device_pool::DevicePage;
use crate::host_pool::HostPage;

/// What inserting computed pages came to.
#[derive(Debug)]
pub struct Inserted {
    /// The node of the last page.
    pub node: NodeId,
    /// Pages that the tree has taken.
    pub taken: Vec<DevicePage>,
    /// Host pages whose content is on the device again.
    pub synced: Vec<HostPage>,
    /// Pages that the tree has another copy of, or that it can't take: still the caller's.
    pub left: Vec<DevicePage>,
}

/// What inserting prefetched pages came to.
#[derive(Debug)]
pub struct HostInserted {
    /// The node of the last page.
    pub node: NodeId,
    /// Pages that the tree has taken, and has on the device.
    pub synced: Vec<HostPage>,
    /// Pages that the tree has taken.
    pub taken: Vec<HostPage>,
    /// Pages that the tree has another copy of, or that it can't take: still the caller's.
    pub left: Vec<HostPage>,
}

/// Copies that were taken out of the tree.
#[derive(Debug, Default)]
pub(crate) struct Dropped {
    /// Device pages, now nobody's.
    pub(crate) device: Vec<DevicePage>,
    /// Host pages, now nobody's.
    pub(crate) host: Vec<HostPage>,
    /// Host pages that stay, of which the device has lost its copy.
    pub(crate) unsynced: Vec<HostPage>,
}

impl Tree {
    fn add_child(&mut self, parent: NodeId, tokens: &[TokenId], used: u64) -> Option<NodeId> {
        let sum = first_page_sum(tokens, self.page_tokens);
        if self.node(parent).children.get(sum).is_some() {
            return None;
        }
        let child = self.add(Node::new(Some(parent), tokens.into(), used));
        self.node_mut(parent).children.set(sum, child);
        Some(child)
    }

    /// Gives a node a copy, or takes it.
    pub(crate) fn set_device(
        &mut self,
        id: NodeId,
        pages: Option<Vec<DevicePage>>,
    ) -> Option<Vec<DevicePage>> {
        let there = pages.is_some();
        let before = std::mem::replace(&mut self.node_mut(id).device, pages);
        self.count_child(id, Tier::Device, before.is_some(), there);
        before
    }

    /// As [`Tree::set_device`].
    pub(crate) fn set_host(&mut self, id: NodeId, pages: Option<Vec<HostPage>>) -> Option<Vec<HostPage>> {
        let there = pages.is_some();
        let before = std::mem::replace(&mut self.node_mut(id).host, pages);
        self.count_child(id, Tier::Host, before.is_some(), there);
        before
    }

    fn count_child(&mut self, id: NodeId, tier: Tier, before: bool, after: bool) {
        if let Some(parent) = self.node(id).parent.filter(|_| before != after) {
            let children = self.node_mut(parent).children_on(tier);
            *children = if after { *children + 1 } else { children.saturating_sub(1) };
            self.refresh(parent);
        }
        self.refresh(id);
    }

    /// Puts computed pages into the tree: page `i` of `pages` holds the `i`-th page of `tokens`. Pages that a match
    /// answered stand for themselves. Counts as use.
    pub fn insert(&mut self, space: &PromptSpace, tokens: &[TokenId], pages: &[DevicePage]) -> Inserted {
        let whole = (tokens.len() / self.page_tokens).min(pages.len());
        let tokens = &tokens[..whole * self.page_tokens];
        let now = self.tick();
        let (mut taken, mut synced, mut left) = (Vec::new(), Vec::new(), Vec::new());
        let mut at = 0;
        let (mut node, reached) = self.descend(space, tokens, |tree, id| {
            let page_tokens = tree.page_tokens;
            let node = tree.node_mut(id);
            if node.spoilt {
                return false;
            }
            let own = &pages[at..at + node.pages(page_tokens)];
            node.used = now;
            node.hits = node.hits.saturating_add(1);
            match &node.device {
                Some(device) => left.extend(own.iter().zip(device).filter(|(a, b)| a != b).map(|(a, _)| *a)),
                None => {
                    taken.extend_from_slice(own);
                    synced.extend(node.host.iter().flatten());
                    tree.set_device(id, Some(own.to_vec()));
                }
            }
            at += own.len();
            tree.refresh(id);
            true
        });
        if reached < whole {
            match self.add_child(node, &tokens[reached * self.page_tokens..], now) {
                Some(child) => {
                    taken.extend_from_slice(&pages[reached..whole]);
                    self.node_mut(child).hits = 1;
                    self.set_device(child, Some(pages[reached..whole].to_vec()));
                    node = child;
                }
                // A spoilt node is in the way, or another first page of the same sum.
                None => left.extend_from_slice(&pages[reached..whole]),
            }
        }
        left.extend_from_slice(&pages[whole..]);
        Inserted { node, taken, synced, left }
    }

    /// Puts prefetched pages into the tree, behind the first `skip` pages of `tokens`, which must be there.
    pub(crate) fn insert_host(
        &mut self,
        space: &PromptSpace,
        tokens: &[TokenId],
        skip: usize,
        pages: &[HostPage],
        hashes: &[Digest],
    ) -> HostInserted {
        let page_tokens = self.page_tokens;
        let whole = (tokens.len() / page_tokens).min(skip + pages.len());
        let tokens = &tokens[..whole * page_tokens];
        let now = self.tick();
        let (mut taken, mut synced, mut left) = (Vec::new(), Vec::new(), Vec::new());
        let mut at = 0;
        let (mut node, reached) = self.descend(space, tokens, |tree, id| {
            let parent = tree.node(id).parent;
            let standing = parent.is_none_or(|parent| tree.node(parent).has_copy());
            let node = tree.node_mut(id);
            let end = at + node.pages(page_tokens);
            // A node that reaches over the start of the pages is known up to there, and so has a copy.
            let own = pages.get(at.max(skip) - skip..end.max(skip) - skip).unwrap_or_default();
            node.used = now;
            if node.host.is_some() || !standing || own.len() < end - at {
                left.extend_from_slice(own);
            } else {
                if node.device.is_some() { &mut synced } else { &mut taken }.extend_from_slice(own);
                node.hashes.get_or_insert_with(|| hashes[at - skip..end - skip].to_vec());
                node.stored = true;
                tree.set_host(id, Some(own.to_vec()));
            }
            at = end;
            tree.refresh(id);
            true
        });
        let rest = reached.max(skip) - skip;
        let rest_pages = &pages[rest..whole.max(skip) - skip];
        let attached = (reached >= skip && self.node(node).has_copy() && !rest_pages.is_empty())
            .then(|| self.add_child(node, &tokens[reached * page_tokens..], now))
            .flatten();
        match attached {
            Some(child) => {
                taken.extend_from_slice(rest_pages);
                let new = self.node_mut(child);
                new.hashes = Some(hashes[rest..rest + rest_pages.len()].to_vec());
                (new.stored, new.prefetched) = (true, true);
                self.set_host(child, Some(rest_pages.to_vec()));
                node = child;
            }
            None => left.extend_from_slice(rest_pages),
        }
        left.extend_from_slice(&pages[(whole.max(skip) - skip).min(pages.len())..]);
        HostInserted { node, synced, taken, left }
    }

    /// The node whose device copy goes next, cut so that it has at most `pages` pages. Nothing is changed but that.
    pub(crate) fn next_to_leave(&mut self, tier: Tier, pages: usize) -> Option<NodeId> {
        let order = match tier {
            Tier::Device => &self.device_order,
            Tier::Host => &self.host_order,
        };
        let id = order.oldest()?;
        let own = self.node(id).pages(self.page_tokens);
        if own > pages && pages > 0 {
            self.split(id, own - pages);
        }
        Some(id)
    }

    /// Takes a node out if it has no copy and no child, and its ancestors likewise; also the root of a space that has
    /// nothing, since spaces are made up by users.
    pub(crate) fn remove_if_gone(&mut self, id: NodeId) {
        let mut next = Some(id);
        while let Some(id) = next {
            let node = self.node(id);
            let gone = node.device.is_none() && node.host.is_none() && node.children.is_empty();
            if !gone || node.device_locks + node.host_locks > 0 {
                return;
            }
            next = node.parent;
            let sum = first_page_sum(&node.tokens, self.page_tokens);
            if let Some(parent) = next {
                self.node_mut(parent).children.remove(sum);
            }
            if let Some(space) = self.nodes[id.place()].take().and_then(|node| node.space) {
                self.roots.remove(&*space);
            }
            self.vacant.push(id);
        }
    }

    /// Takes the device copies of a node and of all below it, from the bottom up, and what has no copy any more. Locked
    /// ones are marked spoilt instead, and go with the last lock.
    pub(crate) fn drop_below(&mut self, id: NodeId) -> Dropped {
        let mut below = vec![id];
        let mut at = 0;
        while at < below.len() {
            let children = self.node(below[at]).children.ids();
            below.extend(children);
            at += 1;
        }
        let mut dropped = Dropped::default();
        for &id in below.iter().rev() {
            if self.node(id).device.is_none() {
                continue;
            }
            if self.node(id).device_locks > 0 {
                self.node_mut(id).spoilt = true;
                self.refresh(id);
                continue;
            }
            self.node_mut(id).spoilt = false;
            dropped.device.extend(self.set_device(id, None).into_iter().flatten());
            dropped.unsynced.extend(self.node(id).host.iter().flatten());
        }
        // What has lost its last copy takes the host copies below it along, from the top.
        for &id in &below {
            let standing = self.node(id).parent.is_none_or(|parent| self.node(parent).has_copy());
            if !standing {
                dropped.host.extend(self.set_host(id, None).into_iter().flatten());
            }
        }
        for id in below.into_iter().rev() {
            if self.has(id) {
                self.remove_if_gone(id);
            }
        }
        dropped.unsynced.retain(|page| !dropped.host.contains(page));
        dropped
    }

    /// Drops the spoilt copies of the path above and at `id` that nobody has locked any more.
    pub(crate) fn drop_spoilt(&mut self, id: NodeId) -> Dropped {
        let mut top = None;
        let mut next = Some(id);
        while let Some(id) = next {
            let node = self.node(id);
            if node.spoilt && node.device_locks == 0 {
                top = Some(id);
            }
            next = node.parent;
        }
        top.map_or_else(Dropped::default, |id| self.drop_below(id))
    }
}
