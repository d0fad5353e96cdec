//! The object that says what the pages of a namespace are of, for people, and for whoever opens it next. It is as the
//! S3 backend's, and says besides in which format pages are.

use hicache_core::{Error, Namespace, Result};
use serde::{Deserialize, Serialize};

const FORMAT: u32 = 1;
/// The format of `format.rs`.
pub(super) const OBJECTS: &str = "nixl 1";
/// No manifest is longer.
pub(crate) const MOST_BYTES: usize = 64 << 10;

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    fingerprint: String,
    namespace: Namespace,
    #[serde(default)]
    objects: Option<String>,
}

pub(crate) fn write(namespace: &Namespace) -> String {
    let manifest = Manifest {
        format: FORMAT,
        fingerprint: namespace.fingerprint().to_string(),
        namespace: namespace.clone(),
        objects: Some(OBJECTS.into()),
    };
    let mut text = serde_json::to_string_pretty(&manifest).unwrap_or_default();
    text.push('\n');
    text
}

/// Refuses a manifest of another namespace or format, and what is none.
pub(crate) fn check(object: &str, bytes: &[u8], namespace: &Namespace) -> Result<()> {
    let mend = "remove the object if it is not ours, or set another nixl_obj.prefix";
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| {
        Error::config(format!("object {object:?} should be a manifest and is not; {mend}")).with_source(error)
    })?;
    if manifest.format != FORMAT || manifest.objects.as_deref() != Some(OBJECTS) {
        return Err(Error::config(format!(
            "object {object:?} says that pages are of format {}, {}, and this build has format {FORMAT}, {OBJECTS}; \
             {mend}",
            manifest.format,
            manifest.objects.as_deref().unwrap_or("of obj-s3")
        )));
    }
    if manifest.namespace != *namespace {
        return Err(Error::config(format!(
            "object {object:?} says that its pages are of {:?}, and {namespace:?} was asked for; {mend}",
            manifest.namespace
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_is_taken() {
        let namespace = Namespace::new("m");
        let check = |bytes: &[u8]| check("o", bytes, &namespace).map_err(|error| error.to_string());
        assert_eq!(check(write(&namespace).as_bytes()), Ok(()));
        assert!(write(&namespace).len() < MOST_BYTES);
        assert!(check(write(&Namespace::new("n")).as_bytes()).unwrap_err().contains("\"n\""));
        assert!(check(b"<html>").unwrap_err().contains("should be a manifest"));
        let of_s3 = write(&namespace).replace("nixl 1", "other");
        assert!(check(of_s3.as_bytes()).unwrap_err().contains("format 1, other"));
        let newer = write(&namespace).replace("\"format\": 1", "\"format\": 2");
        assert!(check(newer.as_bytes()).unwrap_err().contains("format 2"));
    }
}
