//! The backend of `hicache-obj-s3` with its part of the configuration.

use hicache_core::Backend;
use hicache_obj_s3::{Access, Encryption, RequestPath, S3Backend, S3Config};

use crate::config::{Role, Settings};

/// The object store.
pub(crate) fn backend(settings: &Settings) -> Box<dyn Backend> {
    Box::new(S3Backend { config: config(settings) })
}

/// `None` where no bucket is named.
pub(crate) fn config(settings: &Settings) -> Option<S3Config> {
    let s3 = &settings.obj_s3;
    let access = match (&s3.profile, &s3.credentials_file) {
        (None, None) => Access::Chain,
        (name, file) => Access::Profile { name: name.clone(), file: file.clone() },
    };
    Some(S3Config {
        bucket: s3.bucket.clone()?,
        prefix: s3.prefix.clone(),
        endpoints: s3.endpoint.clone().unwrap_or_default(),
        objects: None,
        region: s3.region.clone(),
        path_style: s3.path_style,
        access,
        ca_file: s3.ca_file.clone(),
        proxy: s3.proxy.as_ref().and_then(|proxy| proxy.first().cloned()),
        unsigned_payload: s3.unsigned_payload.parse().ok(),
        store_checksum: s3.store_checksum,
        encryption: match s3.encryption.as_str() {
            "store" => Encryption::Store,
            "kms" => Encryption::Kms(s3.kms_key.clone()),
            _ => Encryption::Bucket,
        },
        read_only: settings.role == Role::Reader,
        load_timeout_ms: s3.load_timeout_ms,
        store_timeout_ms: s3.store_timeout_ms,
        stall_timeout_ms: s3.stall_timeout_ms,
        concurrency: s3.concurrency,
        known_keys: s3.known_keys,
        present_age_ms: s3.present_age_ms,
        absent_age_ms: s3.absent_age_ms,
        requests: if s3.requests == "sdk" { RequestPath::Sdk } else { RequestPath::Lean },
        threads: s3.threads,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_defaults_are_the_storages() {
        let built = Config::builder().set("obj_s3.bucket", "pages").build().unwrap();
        let (ours, own) = (config(built.settings()).unwrap(), S3Config::new("pages"));
        // Its debug form leaves out what may hold secrets, so fields are compared.
        assert_eq!(format!("{ours:?}"), format!("{own:?}"));
        assert_eq!(
            (ours.path_style, ours.store_checksum, ours.requests),
            (own.path_style, own.store_checksum, own.requests)
        );
        assert_eq!((ours.unsigned_payload, &ours.encryption), (own.unsigned_payload, &own.encryption));
        let numbers = |c: &S3Config| {
            let times = [
                c.load_timeout_ms,
                c.store_timeout_ms,
                c.stall_timeout_ms,
                c.present_age_ms,
                c.absent_age_ms,
            ];
            (times, [c.concurrency, c.known_keys, c.threads])
        };
        assert_eq!(numbers(&ours), numbers(&own));
        assert!(config(Config::builder().build().unwrap().settings()).is_none());
    }
}
