//! The object that says what the pages of a namespace are of.

use hicache_core::{Error, Namespace, Result};
use serde::{Deserialize, Serialize};

use crate::fault::shortened;

/// What this code writes.
const FORMAT: u32 = 1;

/// Readable by people.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    format: u32,
    fingerprint: String,
    namespace: Namespace,
}

pub(crate) fn write(namespace: &Namespace) -> String {
    let manifest = Manifest {
        format: FORMAT,
        fingerprint: namespace.fingerprint().to_string(),
        namespace: namespace.clone(),
    };
    let mut text = serde_json::to_string_pretty(&manifest).unwrap_or_default();
    text.push('\n');
    text
}

/// Refuses a manifest of another namespace or of a newer format, and what is none.
pub(crate) fn check(object: &str, bytes: &[u8], namespace: &Namespace) -> Result<()> {
    let mend = "remove the object if it is not ours, or set another obj_s3.prefix";
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| {
        Error::config(format!("object {object:?} should be a manifest and is not JSON; {mend}"))
            .with_source(error)
    })?;
    match value["format"].as_u64() {
        Some(format) if format == u64::from(FORMAT) => {}
        Some(format) => {
            return Err(Error::config(format!(
                "object {object:?} is a manifest of format {format}, and this build reads {FORMAT}; {mend}"
            )));
        }
        None => {
            return Err(Error::config(format!(
                "object {object:?} should be a manifest and has no format; {mend}"
            )));
        }
    }
    let manifest: Manifest = serde_json::from_value(value).map_err(|error| {
        Error::config(format!("object {object:?} should be a manifest; {mend}")).with_source(error)
    })?;
    if manifest.namespace != *namespace {
        return Err(Error::config(format!(
            "object {object:?} says that its pages are of {}, and {namespace:?} was asked for; {mend}",
            shortened(&format!("{:?}", manifest.namespace))
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
        assert!(check(write(&Namespace::new("n")).as_bytes()).unwrap_err().contains("\"n\""));
        assert!(check(b"<html>").unwrap_err().contains("not JSON"));
        assert!(check(b"{}").unwrap_err().contains("no format"));
        assert!(check(b"{\"format\":2}").unwrap_err().contains("format 2"));
        assert!(check(b"{\"format\":1}").unwrap_err().contains("should be a manifest"));
    }
}
