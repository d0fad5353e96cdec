//! What one field alone can't tell.

use std::path::{Component, Path, PathBuf};

use hicache_core::Result;

use super::layers::{Layers, bad_value};
use super::{NixlObj, Origin, Settings};

/// Fewest pages that a capacity must hold.
pub(crate) const FEWEST_PAGES: u64 = 16;

/// Refuses values that don't go together.
pub(crate) fn check(settings: &Settings, layers: &Layers) -> Result<()> {
    let refuse = |name: &str, wrong: &str| {
        let origin = layers.get(name).map_or(Origin::Default, |given| given.origin.clone());
        Err(bad_value(name, &layers.value(name), &origin, wrong))
    };
    if let Err(wrong) = directories(&settings.storage_dir) {
        return refuse("storage_dir", &wrong);
    }
    if let (Some(capacity), Some(page)) = (settings.capacity_bytes, settings.page_bytes)
        && capacity / FEWEST_PAGES < page
    {
        let least = page.saturating_mul(FEWEST_PAGES);
        let wrong = format!("must be at least {least}: {FEWEST_PAGES} pages of page_bytes = {page}");
        return refuse("capacity_bytes", &wrong);
    }
    if settings.obj_s3.kms_key.is_some() && settings.obj_s3.encryption != "kms" {
        return refuse(
            "obj_s3.kms_key",
            "is a key for obj_s3.encryption = kms, which is not set; set it, or leave the key out",
        );
    }
    if settings.nixl_obj.prefix == settings.obj_s3.prefix && same_bucket(settings) {
        return refuse(
            "nixl_obj.prefix",
            "is obj_s3.prefix too, in the same bucket, and the two write objects of different formats; set another one",
        );
    }
    settings.namespace.as_ref().map_or(Ok(()), |namespace| namespace.validate())
}

/// Whether the object stores of NIXL and of the S3 backend are one bucket at one address.
pub(crate) fn same_bucket(settings: &Settings) -> bool {
    let (nixl, s3) = (&settings.nixl_obj, &settings.obj_s3);
    let endpoints = s3.endpoint.as_deref().unwrap_or_default();
    let same_address = match nixl_address(nixl) {
        Some(address) => endpoints.iter().any(|endpoint| plain(endpoint) == address),
        None => endpoints.is_empty(),
    };
    nixl.bucket.is_some() && nixl.bucket == s3.bucket && same_address
}

/// The address of NIXL's object store, with its scheme; `None` for AWS.
pub(crate) fn nixl_address(nixl: &NixlObj) -> Option<String> {
    let with_scheme = |address: &String| match address.contains("://") {
        true => plain(address),
        false => plain(&format!("{}://{address}", nixl.scheme)),
    };
    nixl.endpoint_override.as_ref().map(with_scheme)
}

fn plain(address: &str) -> String {
    address.trim_end_matches('/').to_owned()
}

/// No directory may be given twice, under two names, or inside another: space would be counted twice.
fn directories(given: &[PathBuf]) -> Result<(), String> {
    let mut real: Vec<(&Path, PathBuf)> = Vec::new();
    for directory in given {
        if directory.to_string_lossy().contains(char::REPLACEMENT_CHARACTER) {
            return Err("must be UTF-8".into());
        }
        let place = real_path(directory)?;
        for (other, other_place) in &real {
            let (directory, other) = (directory.display(), other.display());
            if place == *other_place {
                return Err(format!(
                    "names one place twice: {other} and {directory} are both {}; leave one out",
                    place.display()
                ));
            }
            if place.starts_with(other_place) || other_place.starts_with(&place) {
                return Err(format!(
                    "has one directory inside another, {other} and {directory}; keep them apart"
                ));
            }
        }
        real.push((directory, place));
    }
    Ok(())
}

/// Where a directory is or will be: symbolic links followed as far as it exists.
fn real_path(directory: &Path) -> Result<PathBuf, String> {
    let cant = |error: std::io::Error| format!("has {}, which can't be used: {error}", directory.display());
    let absolute = std::path::absolute(directory).map_err(cant)?;
    let mut rest: Vec<Component<'_>> = Vec::new();
    let mut existing = absolute.components();
    loop {
        match std::fs::canonicalize(existing.as_path()) {
            Ok(place) if rest.is_empty() && !place.is_dir() => {
                return Err(format!("has {}, which is not a directory", directory.display()));
            }
            Ok(mut place) => {
                for component in rest.into_iter().rev() {
                    match component {
                        // Nothing of the rest exists, so there is no link for `..` to come back through.
                        Component::ParentDir => drop(place.pop()),
                        other => place.push(other),
                    }
                }
                return Ok(place);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => match existing.next_back() {
                Some(component) => rest.push(component),
                None => return Err(cant(error)),
            },
            Err(error) => return Err(cant(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_to_come_has_a_place() {
        let root = tempfile::tempdir().unwrap();
        let real = root.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(root.path(), real.join("link")).unwrap();
        assert_eq!(real_path(&real.join("link/a/b")).unwrap(), real.join("a/b"));
        assert_eq!(real_path(&real.join("a/../c")).unwrap(), real.join("c"));
        assert_eq!(real_path(Path::new("/")).unwrap(), Path::new("/"));
        assert!(real_path(Path::new("")).is_err());
        std::fs::write(real.join("file"), "").unwrap();
        assert!(real_path(&real.join("file")).unwrap_err().contains("not a directory"));
        assert!(real_path(&real.join("file/x")).is_err());
    }
}
