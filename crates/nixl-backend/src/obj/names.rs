//! Names of objects: `<prefix>/<namespace>/<hash>.<pool>`. The hash comes right after the namespace, since stores spread
//! load by the first characters that differ. They are those of the S3 backend, under a prefix of their own, so that it
//! can list and delete what is here.

use hicache_core::hashing::to_hex;
use hicache_core::{Namespace, PageKey};

/// Names of the objects of one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    /// With its slash at the end.
    start: String,
}

impl Names {
    pub(crate) fn new(prefix: &str, namespace: &Namespace) -> Self {
        Self { start: format!("{prefix}/{}/", namespace.fingerprint()) }
    }

    /// The object that says what the namespace is of.
    pub(crate) fn manifest(&self) -> String {
        format!("{}manifest.json", self.start)
    }

    /// An object that is never there.
    pub(crate) fn nothing(&self) -> String {
        format!("{}nothing", self.start)
    }

    pub(crate) fn page(&self, key: &PageKey) -> String {
        let mut name = format!("{}{}.", self.start, to_hex(&key.digest));
        for byte in key.pool.as_str().bytes() {
            if byte.is_ascii_alphanumeric() || b"_-".contains(&byte) {
                name.push(char::from(byte));
            } else {
                name.push_str(&format!("~{byte:02x}"));
            }
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use hicache_core::PoolName;

    use super::*;

    #[test]
    fn no_two_pages_have_one_name() {
        let names = Names::new("p/q", &Namespace::new("m"));
        let mut seen = std::collections::HashSet::new();
        for pool in ["kv", "text", "a.b", "a~2eb", "a/b", "A"] {
            for digest in [[1; 32], [2; 32]] {
                let name = names.page(&PageKey::new(PoolName::new(pool).unwrap(), digest));
                assert!(name.starts_with("p/q/") && name.split('/').count() == 4, "{name}");
                assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-~/".contains(&b)), "{name}");
                assert!(seen.insert(name));
            }
        }
        assert!(names.manifest().ends_with("/manifest.json"));
        assert_ne!(names.manifest(), Names::new("p/q", &Namespace::new("n")).manifest());
    }
}
