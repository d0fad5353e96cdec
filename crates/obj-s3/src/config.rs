//! Where pages are kept, and how long anything may take.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use hicache_core::{Error, Result};

/// Who asks.
#[derive(Clone, Default)]
pub enum Access {
    /// Whoever the SDK's chain finds: environment, profile, web identity, container, instance.
    #[default]
    Chain,
    /// A profile of these files of AWS's format.
    Profile {
        /// Its name; `None` for the default one.
        name: Option<String>,
        /// A credentials file; `None` for the usual ones.
        file: Option<PathBuf>,
    },
    /// This key.
    Key {
        /// Its public half.
        id: String,
        /// Its secret half.
        secret: String,
        /// Of a temporary key.
        token: Option<String>,
    },
    /// Nobody: requests are not signed.
    Anonymous,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain => f.write_str("Chain"),
            Self::Profile { name, file } => {
                f.debug_struct("Profile").field("name", name).field("file", file).finish()
            }
            Self::Key { .. } => f.write_str("Key(redacted)"),
            Self::Anonymous => f.write_str("Anonymous"),
        }
    }
}

/// Encryption by the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// What the bucket does by itself.
    #[default]
    Bucket,
    /// With keys of the store (`AES256`).
    Store,
    /// With a key of its key management (`aws:kms`); `None` for the default key.
    Kms(Option<String>),
}

/// Which code sends requests for pages: GET, HEAD and PUT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestPath {
    /// Ours, without the SDK's layers: less CPU a page. Not through a proxy, nor where AWS has other addresses than
    /// `s3.<region>.amazonaws.com`: there it is the SDK's.
    #[default]
    Lean,
    /// The SDK.
    Sdk,
}

/// Where pages are kept, and how long anything may take.
#[derive(Clone)]
pub struct S3Config {
    /// The bucket. It must be there.
    pub bucket: String,
    /// What all keys begin with; letters, digits and `._-/`. May be empty.
    pub prefix: String,
    /// Addresses of the store, each with its scheme; load is shared, and one that fails is left alone for a while. None
    /// for AWS itself.
    pub endpoints: Vec<String>,
    /// In which format somebody else stores pages under the prefix, as the manifest names it: they can be found, listed and
    /// deleted, and neither loaded nor stored. `None` for this crate's own pages.
    pub objects: Option<String>,
    /// The region; `None` for the SDK's chain, or `us-east-1` where endpoints are given.
    pub region: Option<String>,
    /// Whether the bucket is in the path of addresses and not in the host. Most stores but AWS want that.
    pub path_style: bool,
    /// Who asks.
    pub access: Access,
    /// A file of certificates in PEM that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// An HTTP proxy, as `http://host:port`.
    pub proxy: Option<String>,
    /// Whether signatures leave the bytes of pages out: most of the CPU of a PUT is that sum. `None`: over TLS, which
    /// guards them.
    pub unsigned_payload: Option<bool>,
    /// Whether pages are sent with S3's own CRC-64/NVMe header, so that the store checks it too. It is left out from
    /// the first refusal on.
    pub store_checksum: bool,
    /// Encryption by the store.
    pub encryption: Encryption,
    /// Only loads; nothing is ever written, the manifest and the probe included.
    pub read_only: bool,
    /// Longest that a page of a load may take, in milliseconds; then it is a `Timeout`.
    pub load_timeout_ms: u64,
    /// Longest that a page of a store, a deletion or a part of a listing may take, in milliseconds.
    pub store_timeout_ms: u64,
    /// Longest that a store may say nothing while a page is loaded, in milliseconds; then the request is made anew. At
    /// most half of `load_timeout_ms` is used.
    pub stall_timeout_ms: u64,
    /// Most requests at a time to one endpoint. There are fewer while it says that it is too much.
    pub concurrency: usize,
    /// Most keys of which is remembered whether they are there.
    pub known_keys: usize,
    /// How long a page counts as there without being asked for again, in milliseconds.
    pub present_age_ms: u64,
    /// How long a page counts as missing without being asked for again, in milliseconds.
    pub absent_age_ms: u64,
    /// Which code sends requests for pages.
    pub requests: RequestPath,
    /// Threads that send and receive.
    pub threads: usize,
}

impl fmt::Debug for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The proxy may have a password in it.
        f.debug_struct("S3Config")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("endpoints", &self.endpoints)
            .field("objects", &self.objects)
            .field("region", &self.region)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

impl S3Config {
    /// Everything but the bucket by default.
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            prefix: "hicache".into(),
            endpoints: Vec::new(),
            objects: None,
            region: None,
            path_style: true,
            access: Access::Chain,
            ca_file: None,
            proxy: None,
            unsigned_payload: None,
            store_checksum: true,
            encryption: Encryption::Bucket,
            read_only: false,
            load_timeout_ms: 5_000,
            store_timeout_ms: 30_000,
            stall_timeout_ms: 1_000,
            concurrency: 128,
            known_keys: 262_144,
            present_age_ms: 60_000,
            absent_age_ms: 1_000,
            requests: RequestPath::Lean,
            threads: 2,
        }
    }

    /// Refuses what can't be right, before anything is asked.
    ///
    /// # Errors
    /// `Config`, naming the field, its value and what would be right. Values that may hold secrets are not shown.
    pub fn validate(&self) -> Result<()> {
        let refuse = |field: &str, value: &str, wrong: &str| {
            Err(Error::config(format!("obj_s3.{field} = {value:?} {wrong}")))
        };
        if self.bucket.is_empty()
            || !self.bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
        {
            return refuse(
                "bucket",
                &self.bucket,
                "is no name of a bucket: letters, digits, dots and dashes",
            );
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
        let edges = self.prefix.starts_with('/') || self.prefix.ends_with('/') || self.prefix.contains("//");
        let dots = self.prefix.split('/').any(|part| part == "." || part == "..");
        if !self.prefix.bytes().all(plain) || edges || dots || self.prefix.len() > 256 {
            return refuse(
                "prefix",
                &self.prefix,
                "must be at most 256 letters, digits and ._- with single slashes inside",
            );
        }
        for endpoint in &self.endpoints {
            if endpoint.contains('@') {
                return Err(Error::config(
                    "obj_s3.endpoint has an @ in it; a user or password in an address is not for the address: use a \
                     profile or the environment",
                ));
            }
            let rest = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
            let Some(rest) = rest else {
                return refuse(
                    "endpoint",
                    endpoint,
                    "has no scheme; write http:// or https:// before the host",
                );
            };
            let has_more = rest.contains(['?', '#']);
            if rest.is_empty()
                || rest.starts_with(['/', ':'])
                || has_more
                || endpoint.parse::<http::Uri>().is_err()
            {
                return refuse("endpoint", endpoint, "is no host with a port; write it as https://host:port");
            }
        }
        let counts = [
            ("load_timeout_ms", self.load_timeout_ms),
            ("store_timeout_ms", self.store_timeout_ms),
            ("stall_timeout_ms", self.stall_timeout_ms),
            ("concurrency", self.concurrency as u64),
            ("known_keys", self.known_keys as u64),
            ("threads", self.threads as u64),
        ];
        match counts.iter().find(|(_, value)| *value == 0) {
            Some((field, _)) => refuse(field, "0", "must be at least 1"),
            None => Ok(()),
        }
    }

    /// How long a store may say nothing. Where a load has hardly more time than that, half of it: else an endpoint that
    /// never says anything would never be told from a deadline that was short.
    pub(crate) fn stall(&self) -> Duration {
        Duration::from_millis(self.stall_timeout_ms.min(self.load_timeout_ms.div_ceil(2)))
    }

    /// Whether signatures cover the bytes of pages sent to `endpoint`.
    pub(crate) fn signs_payload(&self, endpoint: Option<&str>) -> bool {
        let tls = endpoint.is_none_or(|endpoint| endpoint.starts_with("https://"));
        !self.unsigned_payload.unwrap_or(tls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_are_named_and_secrets_are_not() {
        let with = |change: &dyn Fn(&mut S3Config)| {
            let mut config = S3Config::new("pages");
            change(&mut config);
            config.validate().map_err(|error| error.to_string())
        };
        assert_eq!(with(&|_| ()), Ok(()));
        let endpoint = |text: &str| with(&|c| c.endpoints = vec![text.to_owned()]).unwrap_err();
        assert!(endpoint("localhost:9000").contains("\"localhost:9000\" has no scheme; write http://"));
        for wrong in
            ["https://", "http://:9000", "http:///pages", "http://host/?list-type=2", "http://host#here"]
        {
            assert!(endpoint(wrong).contains("is no host with a port"), "{wrong}");
        }
        let secret = endpoint("https://me:hunter2@host");
        assert!(secret.contains("has an @") && !secret.contains("hunter2"), "{secret}");
        assert!(with(&|c| c.bucket = "a/b".into()).unwrap_err().contains("obj_s3.bucket = \"a/b\""));
        for prefix in ["/a", "a/", "a//b", "a b", "../b", "ä"] {
            assert!(with(&|c| c.prefix = prefix.into()).unwrap_err().contains("obj_s3.prefix"), "{prefix}");
        }
        assert!(with(&|c| c.threads = 0).unwrap_err().contains("obj_s3.threads"));
        let mut config = S3Config::new("pages");
        config.access = Access::Key { id: "AKIA1".into(), secret: "hunter2".into(), token: None };
        config.proxy = Some("http://me:hunter2@proxy".into());
        let shown = format!("{config:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("AKIA1"), "{shown}");
    }
}
