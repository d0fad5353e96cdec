//! Names of objects: `<prefix>/<namespace>/<hash>.<pool>`. The hash comes right after the namespace, since stores spread
//! load by the first characters that differ.
//!
//! Only letters, digits and `._-~/` occur, which no part of any store, proxy or signature writes in another way.

use hicache_core::hashing::{parse_hex32, to_hex};
use hicache_core::{Namespace, PageKey, PoolName};

/// Name of the object that says what a namespace is of.
const MANIFEST: &str = "manifest.json";

/// Names of the objects of one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// With its slash at the end.
    namespace: String,
    fingerprint: String,
}

impl Layout {
    pub(crate) fn new(prefix: &str, namespace: &Namespace) -> Self {
        let fingerprint = namespace.fingerprint().to_string();
        let namespace =
            if prefix.is_empty() { format!("{fingerprint}/") } else { format!("{prefix}/{fingerprint}/") };
        Self { namespace, fingerprint }
    }

    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// What all names begin with.
    pub(crate) fn start(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn manifest(&self) -> String {
        format!("{}{MANIFEST}", self.namespace)
    }

    pub(crate) fn object(&self, key: &PageKey) -> String {
        let mut name = String::with_capacity(self.namespace.len() + 64 + 1 + 4);
        name.push_str(&self.namespace);
        name.push_str(&to_hex(&key.digest));
        name.push('.');
        for byte in key.pool.as_str().bytes() {
            if byte.is_ascii_alphanumeric() || b"_-".contains(&byte) {
                name.push(char::from(byte));
            } else {
                name.push_str(&format!("~{byte:02x}"));
            }
        }
        name
    }

    /// The page that an object is, if it is one of this namespace.
    pub(crate) fn page(&self, object: &str) -> Option<PageKey> {
        let rest = object.strip_prefix(&self.namespace)?;
        let (hash, pool) = rest.split_once('.')?;
        let mut plain = String::new();
        let mut parts = pool.split('~');
        plain.push_str(parts.next()?);
        for part in parts {
            let byte = u8::from_str_radix(part.get(..2)?, 16).ok()?;
            plain.push(char::from(byte));
            plain.push_str(&part[2..]);
        }
        let key = PageKey::new(PoolName::new(&plain).ok()?, parse_hex32(hash).ok()?);
        // Another spelling of the same name is another object.
        (self.object(&key) == object).then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        let namespace = Namespace::new("m");
        for prefix in ["", "a/b"] {
            let layout = Layout::new(prefix, &namespace);
            for pool in ["kv", "text", "a.b~c/d%", &"p".repeat(31)] {
                let key = PageKey::new(PoolName::new(pool).unwrap(), [0xab; 32]);
                let object = layout.object(&key);
                assert_eq!(layout.page(&object), Some(key), "{object}");
                let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-~/".contains(&b);
                assert!(object.bytes().all(plain), "{object}");
            }
        }
    }

    #[test]
    fn what_is_not_a_page_is_none() {
        let layout = Layout::new("x", &Namespace::new("m"));
        let other = Layout::new("x", &Namespace::new("n"));
        let object = layout.object(&PageKey::kv([1; 32]));
        assert!(layout.page(&object).is_some() && other.page(&object).is_none());
        let upper = format!("{}{}.kv", layout.start(), "AB".repeat(32));
        let start = layout.start().to_owned();
        for strange in [
            layout.manifest(),
            upper,
            format!("{object}~"),
            format!("{object}~zz"),
            format!("{object}~6b"),
            format!("{start}1.kv"),
            start.clone(),
        ] {
            assert_eq!(layout.page(&strange), None, "{strange}");
        }
    }
}
