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
    /// In which format pages are; none for this crate's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    objects: Option<String>,
}

pub(crate) fn write(namespace: &Namespace, objects: Option<&str>) -> String {
    let manifest = Manifest {
        format: FORMAT,
        fingerprint: namespace.fingerprint().to_string(),
        namespace: namespace.clone(),
        objects: objects.map(str::to_owned),
    };
    let mut text = serde_json::to_string_pretty(&manifest).unwrap_or_default();
    text.push('\n');
    text
}

/// Refuses a manifest of another namespace or of a newer format, one whose pages are in another format than `objects`, and what is
/// none.
pub(crate) fn check(object: &str, bytes: &[u8], namespace: &Namespace, objects: Option<&str>) -> Result<()> {
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
    if manifest.objects.as_deref() != objects {
        let name = |objects: Option<&str>| shortened(&format!("{:?}", objects.unwrap_or("obj-s3")));
        return Err(Error::config(format!(
            "object {object:?} says that pages are in the format {}, and {} is used here: another backend stores its pages \
             under this prefix; set another obj_s3.prefix",
            name(manifest.objects.as_deref()),
            name(objects)
        )));
    }
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
        let check = |bytes: &[u8]| check("o", bytes, &namespace, None).map_err(|error| error.to_string());
        assert_eq!(check(write(&namespace, None).as_bytes()), Ok(()));
        assert!(check(write(&Namespace::new("n"), None).as_bytes()).unwrap_err().contains("\"n\""));
        assert!(check(b"<html>").unwrap_err().contains("not JSON"));
        assert!(check(b"{}").unwrap_err().contains("no format"));
        assert!(check(b"{\"format\":2}").unwrap_err().contains("format 2"));
        assert!(check(b"{\"format\":1}").unwrap_err().contains("should be a manifest"));
    }

    #[test]
    fn pages_in_another_format_are_refused() {
        let namespace = Namespace::new("m");
        let (own, nixl) = (write(&namespace, None), write(&namespace, Some("nixl 1")));
        assert!(!own.contains("objects"), "as before there were others: {own}");
        let check = |text: &str, objects| check("o", text.as_bytes(), &namespace, objects);
        check(&nixl, Some("nixl 1")).unwrap();
        let error = check(&nixl, None).unwrap_err().to_string();
        assert!(error.contains("format \"nixl 1\"") && error.contains("another obj_s3.prefix"), "{error}");
        let error = check(&own, Some("nixl 1")).unwrap_err().to_string();
        assert!(error.contains("format \"obj-s3\", and \"nixl 1\" is used"), "{error}");
    }
}
