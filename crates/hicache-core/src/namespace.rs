//! What makes the same tokens different bytes.

use std::collections::BTreeMap;

use hicache_hashing::{Fingerprint, FingerprintBuilder};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The properties under which equal page hashes mean equal bytes. Its fingerprint names the directory (or the object
/// prefix) that holds the pages, and its clear text stands in a manifest beside them.
///
/// Fields that are `None` were not given; given and not given are different namespaces. `rank` is left out where all
/// ranks hold the same bytes, as in MLA.
///
/// ```
/// use hicache_core::Namespace;
/// let mut a = Namespace::new("meta/llama");
/// a.dtype = Some("bfloat16".into());
/// let mut b = a.clone();
/// b.dtype = Some("float8_e4m3".into());
/// assert_ne!(a.fingerprint(), b.fingerprint());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// Model name, as the server was given it.
    pub model: String,
    /// Revision of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Element type of the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// Layout of a page (`page_first`, `layer_first`, …).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<String>,
    /// Tokens in a page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_tokens: Option<u32>,
    /// Layers held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<u32>,
    /// KV heads held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<u32>,
    /// Elements a head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<u32>,
    /// Tensor-parallel, pipeline-parallel, context-parallel and decode-context-parallel position, each as
    /// `name → (rank, size)`, e.g. `tp → (0, 2)`; the rank is `None` where all ranks hold the same bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parallel: BTreeMap<String, ParallelPosition>,
    /// Anything else that changes the bytes (a salt, a LoRA set, a quantisation scale).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, String>,
}

/// A position in one parallel dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParallelPosition {
    /// Number of ranks.
    pub size: u32,
    /// This rank; `None` where all ranks hold the same bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
}

impl Namespace {
    /// A namespace of `model` with nothing else said.
    pub fn new(model: impl Into<String>) -> Self {
        Self {
            model: model.into(),
            revision: None,
            dtype: None,
            layout: None,
            page_tokens: None,
            layers: None,
            heads: None,
            head_dim: None,
            parallel: BTreeMap::new(),
            extra: BTreeMap::new(),
        }
    }

    /// Refuses what can't name a namespace.
    ///
    /// # Errors
    /// `Config` for an empty model name, and for a rank that is not below its size.
    pub fn validate(&self) -> Result<()> {
        if self.model.is_empty() {
            return Err(Error::config("namespace.model is empty; give the model's name"));
        }
        for (name, position) in &self.parallel {
            if position.rank.is_some_and(|rank| rank >= position.size) {
                return Err(Error::config(format!(
                    "namespace.parallel.{name} has rank {} of {}; ranks start at 0",
                    position.rank.unwrap_or_default(),
                    position.size
                )));
            }
        }
        Ok(())
    }

    /// The fingerprint, the same on every machine and for ever.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut builder = FingerprintBuilder::new().field("model", &self.model);
        let texts = [("revision", &self.revision), ("dtype", &self.dtype), ("layout", &self.layout)];
        for (name, value) in texts {
            if let Some(value) = value {
                builder = builder.field(name, value);
            }
        }
        let numbers = [
            ("page_tokens", self.page_tokens),
            ("layers", self.layers),
            ("heads", self.heads),
            ("head_dim", self.head_dim),
        ];
        for (name, value) in numbers {
            if let Some(value) = value {
                builder = builder.field(name, &value.to_string());
            }
        }
        for (name, position) in &self.parallel {
            let rank = position.rank.map_or_else(|| "*".to_owned(), |rank| rank.to_string());
            builder = builder.field(&format!("parallel.{name}"), &format!("{rank}/{}", position.size));
        }
        for (name, value) in &self.extra {
            builder = builder.field(&format!("extra.{name}"), value);
        }
        builder.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_counts() {
        let base = Namespace::new("m");
        let mut all = vec![base.clone()];
        let mut push = |change: &dyn Fn(&mut Namespace)| {
            let mut other = base.clone();
            change(&mut other);
            all.push(other);
        };
        push(&|n| n.model = "n".into());
        push(&|n| n.revision = Some("1".into()));
        push(&|n| n.revision = Some(String::new()));
        push(&|n| n.dtype = Some("1".into()));
        push(&|n| n.layout = Some("1".into()));
        push(&|n| n.page_tokens = Some(1));
        push(&|n| n.layers = Some(1));
        push(&|n| n.heads = Some(1));
        push(&|n| n.head_dim = Some(1));
        push(&|n| _ = n.parallel.insert("tp".into(), ParallelPosition { size: 2, rank: Some(0) }));
        push(&|n| _ = n.parallel.insert("tp".into(), ParallelPosition { size: 2, rank: Some(1) }));
        push(&|n| _ = n.parallel.insert("tp".into(), ParallelPosition { size: 2, rank: None }));
        push(&|n| _ = n.parallel.insert("pp".into(), ParallelPosition { size: 2, rank: Some(0) }));
        push(&|n| _ = n.extra.insert("tp".into(), "0/2".into()));
        let fingerprints: std::collections::HashSet<_> = all.iter().map(Namespace::fingerprint).collect();
        assert_eq!(fingerprints.len(), all.len());
    }

    #[test]
    fn a_rank_outside_its_size_is_refused() {
        let mut bad = Namespace::new("m");
        bad.parallel.insert("tp".into(), ParallelPosition { size: 2, rank: Some(2) });
        assert!(bad.validate().unwrap_err().to_string().contains("namespace.parallel.tp"));
        assert!(Namespace::new("").validate().is_err());
    }
}
