//! Random sequences of operations.

use hicache_core::{PageKey, PoolName};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::content::numbered_key;

/// One operation; keys and lengths are places in a [`Universe`], taken modulo its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Stores a batch of pages; each place in it is another version of its key.
    Store {
        /// (key, length) of each page; keys may repeat.
        pages: Vec<(usize, usize)>,
        /// Whether to replace what is there.
        overwrite: bool,
    },
    /// Loads a batch of pages, each with the length that the model knows.
    Load(Vec<usize>),
    /// Loads one page with a length that it can't have.
    LoadWrongLength(usize),
    /// Asks which keys are there.
    Exists(Vec<usize>),
    /// Deletes keys.
    Delete(Vec<usize>),
    /// Deletes everything.
    Clear,
    /// Lists everything under one of the universe's prefixes, in parts.
    List(usize),
    /// Closes the storage and opens it again.
    Reopen,
}

/// The keys and lengths that a sequence is about: few, so that they meet.
#[derive(Clone, Debug)]
pub struct Universe {
    /// The keys, each with its text where it has one.
    pub keys: Vec<(PageKey, Option<String>)>,
    /// The lengths in bytes.
    pub lengths: Vec<usize>,
    /// The prefixes that are listed.
    pub prefixes: Vec<String>,
    /// Whether sequences delete and clear.
    pub deletes: bool,
    /// Whether sequences list.
    pub lists: bool,
}

impl Default for Universe {
    /// Six KV pages, six of a side pool with the same digests, six texts; lengths around 512, 4096 and 16384.
    fn default() -> Self {
        Self::with_keys(6)
    }
}

impl Universe {
    /// As the default, with `count` keys of each of the three kinds.
    ///
    /// # Panics
    /// Never: the names in it are valid.
    pub fn with_keys(count: u64) -> Self {
        let swa = PoolName::new("swa").unwrap_or(PoolName::TEXT);
        let kv = (0..count).map(|number| (numbered_key(number), None));
        let side = (0..count).map(|number| (PageKey::new(swa, numbered_key(number).digest), None));
        let texts = (0..count).filter_map(|number| {
            let text = format!("{}/page-{number}", if number % 2 == 0 { "even" } else { "odd" });
            Some((PageKey::from_text(&text).ok()?, Some(text)))
        });
        Self {
            keys: kv.chain(side).chain(texts).collect(),
            lengths: vec![1, 511, 512, 4095, 4096, 4097, 16_384],
            prefixes: ["", "even/", "odd/page-1", "nothing"].map(str::to_owned).to_vec(),
            deletes: true,
            lists: true,
        }
    }
}

/// Sequences of up to `most` operations over `universe`.
pub fn operations(universe: &Universe, most: usize) -> impl Strategy<Value = Vec<Op>> + use<> {
    let (keys, lengths, prefixes) = (universe.keys.len(), universe.lengths.len(), universe.prefixes.len());
    let (delete, list) = (u32::from(universe.deletes), u32::from(universe.lists));
    let key = move || 0..keys;
    let op = prop_oneof![
        8 => (vec((key(), 0..lengths), 0..12), any::<bool>()).prop_map(|(pages, overwrite)| Op::Store { pages, overwrite }),
        8 => vec(key(), 0..12).prop_map(Op::Load),
        1 => key().prop_map(Op::LoadWrongLength),
        3 => vec(key(), 0..20).prop_map(Op::Exists),
        3 * delete => vec(key(), 0..6).prop_map(Op::Delete),
        delete => Just(Op::Clear),
        2 * list => (0..prefixes).prop_map(Op::List),
        1 => Just(Op::Reopen),
    ];
    vec(op, 1..=most)
}
