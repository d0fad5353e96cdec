//! A node, and its children.

use std::collections::HashMap;

use hicache_hashing::{Digest, chain_seed, checksum};

use super::{PromptSpace, Tier};
use crate::device_pool::DevicePage;
use crate::host_pool::HostPage;

/// A token of a prompt. Wider than a vocabulary needs, since engines put hashes in place of images.
pub type TokenId = u64;

/// A node of the tree. Ids are used again after their node is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

impl NodeId {
    /// The node at a place of the arena. Over four thousand million nodes don't fit into memory.
    pub(super) fn at(place: usize) -> Self {
        Self(u32::try_from(place).unwrap_or(u32::MAX))
    }

    pub(super) fn place(self) -> usize {
        self.0 as usize
    }
}

/// A run of pages.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) parent: Option<NodeId>,
    pub(crate) tokens: Box<[TokenId]>,
    pub(super) children: Children,
    pub(crate) device: Option<Vec<DevicePage>>,
    pub(crate) host: Option<Vec<HostPage>>,
    pub(crate) hashes: Option<Vec<Digest>>,
    /// Of a root: what it is the root of.
    pub(super) space: Option<Box<PromptSpace>>,
    /// Of a root: what the chain of hashes starts from.
    pub(super) seed: Option<Digest>,
    /// When it was last used.
    pub(crate) used: u64,
    pub(super) device_locks: u32,
    pub(super) host_locks: u32,
    /// Children with a copy in the tier.
    pub(super) device_children: u32,
    pub(super) host_children: u32,
    /// How often it was inserted or found.
    pub(crate) hits: u32,
    /// Every page of it was stored at some time.
    pub(crate) stored: bool,
    /// It is being stored.
    pub(crate) storing: bool,
    /// It was prefetched, and not used since.
    pub(crate) prefetched: bool,
    /// Writing it to the host has failed since it was last used: it is not tried again for an eviction.
    pub(crate) write_failed: bool,
    /// Its device copy is not whole, and is dropped with the last lock.
    pub(crate) spoilt: bool,
    /// Its places in the orders of eviction: device, host.
    pub(super) ranks: [Option<u64>; 2],
}

impl Node {
    pub(super) fn root(space: &PromptSpace) -> Self {
        let seed = chain_seed(space.extra_key.as_deref(), space.salt.as_deref());
        Self { seed, space: Some(Box::new(space.clone())), ..Self::new(None, Box::default(), 0) }
    }

    pub(super) fn new(parent: Option<NodeId>, tokens: Box<[TokenId]>, used: u64) -> Self {
        Self {
            parent,
            tokens,
            children: Children::default(),
            device: None,
            host: None,
            hashes: None,
            space: None,
            seed: None,
            used,
            device_locks: 0,
            host_locks: 0,
            device_children: 0,
            host_children: 0,
            hits: 0,
            stored: false,
            storing: false,
            prefetched: false,
            write_failed: false,
            spoilt: false,
            ranks: [None; 2],
        }
    }

    pub(crate) fn pages(&self, page_tokens: usize) -> usize {
        self.tokens.len() / page_tokens
    }

    pub(crate) fn is_root(&self) -> bool {
        self.parent.is_none()
    }

    /// Whether it has a copy that a host copy below may stand on. A root always does.
    pub(crate) fn has_copy(&self) -> bool {
        self.is_root() || self.device.is_some() || self.host.is_some()
    }

    pub(super) fn locks(&mut self, tier: Tier) -> &mut u32 {
        match tier {
            Tier::Device => &mut self.device_locks,
            Tier::Host => &mut self.host_locks,
        }
    }

    pub(super) fn children_on(&mut self, tier: Tier) -> &mut u32 {
        match tier {
            Tier::Device => &mut self.device_children,
            Tier::Host => &mut self.host_children,
        }
    }

    /// Whether its copy may be evicted now. Host copies go after device copies.
    pub(super) fn can_leave(&self, tier: Tier) -> bool {
        match tier {
            Tier::Device => {
                self.device.is_some() && self.device_children == 0 && self.device_locks == 0 && !self.spoilt
            }
            Tier::Host => {
                self.host.is_some()
                    && self.device.is_none()
                    && self.host_children == 0
                    && self.host_locks == 0
            }
        }
    }
}

/// The name of a child: a sum over its first page. Two first pages of the same sum can't both be children; the second
/// is then not cached, and is never taken for the first, since matching compares the tokens.
pub(super) fn first_page_sum(tokens: &[TokenId], page_tokens: usize) -> u64 {
    let page = &tokens[..page_tokens.min(tokens.len())];
    if let [token] = page {
        return *token;
    }
    let mut bytes = [0_u8; 512];
    let mut sum = 0;
    for part in page.chunks(bytes.len() / 8) {
        let (words, _) = bytes.as_chunks_mut::<8>();
        for (word, token) in words.iter_mut().zip(part) {
            *word = token.to_le_bytes();
        }
        sum = sum ^ checksum(&bytes[..part.len() * 8]).rotate_left(sum as u32 & 63);
    }
    sum
}

/// Children by [`first_page_sum`]: most nodes have one or two, few have thousands.
#[derive(Debug)]
pub(super) enum Children {
    Few(Vec<(u64, NodeId)>),
    Many(HashMap<u64, NodeId, std::hash::BuildHasherDefault<SumHasher>>),
}

/// More than so many children are hashed.
const FEW: usize = 8;

impl Default for Children {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Children {
    pub(super) fn get(&self, sum: u64) -> Option<NodeId> {
        match self {
            Self::Few(list) => list.iter().find(|(other, _)| *other == sum).map(|(_, id)| *id),
            Self::Many(map) => map.get(&sum).copied(),
        }
    }

    /// Adds or replaces.
    pub(super) fn set(&mut self, sum: u64, id: NodeId) {
        match self {
            Self::Few(list) => match list.iter().position(|(other, _)| *other == sum) {
                Some(place) => list[place].1 = id,
                None if list.len() < FEW => list.push((sum, id)),
                None => {
                    let mut map: HashMap<_, _, _> = list.drain(..).collect();
                    map.insert(sum, id);
                    *self = Self::Many(map);
                }
            },
            Self::Many(map) => _ = map.insert(sum, id),
        }
    }

    pub(super) fn remove(&mut self, sum: u64) {
        match self {
            Self::Few(list) => list.retain(|(other, _)| *other != sum),
            Self::Many(map) => _ = map.remove(&sum),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Few(list) => list.is_empty(),
            Self::Many(map) => map.is_empty(),
        }
    }

    pub(super) fn ids(&self) -> Vec<NodeId> {
        match self {
            Self::Few(list) => list.iter().map(|(_, id)| *id).collect(),
            Self::Many(map) => map.values().copied().collect(),
        }
    }
}

/// Spreads a sum over the table: sums of pages of one token are small numbers.
#[derive(Debug, Default)]
pub(super) struct SumHasher(u64);

impl std::hash::Hasher for SumHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}
