//! The address of the object store in AWS's own file, which the SDK in NIXL's object plugin reads by itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use hicache_core::{Error, Result};

use crate::environment::Environment;

/// No file of AWS's is longer.
const MOST_BYTES: u64 = 1 << 20;
const IGNORED: &str = "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS";

/// Whether no address of AWS's settings is used.
pub(super) fn is_ignored(environment: &Environment) -> bool {
    environment.get(IGNORED).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// Where the file is.
pub(super) fn file(environment: &Environment) -> Option<PathBuf> {
    let set = |name| environment.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("AWS_CONFIG_FILE").or_else(|| Some(set("HOME")?.join(".aws/config")))
}

/// The file, and the address in it of the profile that is used. `None` without a file.
pub(super) fn endpoint(environment: &Environment) -> Option<(PathBuf, Result<Option<String>>)> {
    let path = file(environment).filter(|_| !is_ignored(environment))?;
    let text = match read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => {
            let error = Error::config(format!("it can't be read: {error}"));
            return Some((path, Err(error)));
        }
    };
    let profile = environment.get("AWS_PROFILE").map(|name| name.to_string_lossy().trim().to_owned());
    let profile = profile.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned());
    Some((path, Ok(endpoint_of(&sections(&text), &profile))))
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    if File::open(path)?.take(MOST_BYTES + 1).read_to_string(&mut text)? as u64 > MOST_BYTES {
        return Err(std::io::Error::other(format!("it is over {MOST_BYTES} bytes")));
    }
    Ok(text)
}

type Sections = BTreeMap<String, BTreeMap<String, String>>;

/// The values of each section; those under a name without a value, which stand further in, as `name.inner`.
fn sections(text: &str) -> Sections {
    let mut sections = Sections::new();
    let (mut section, mut above) = (None, None);
    for line in text.lines() {
        let plain = line.trim();
        if plain.is_empty() || plain.starts_with(['#', ';']) {
            continue;
        }
        if let Some(header) = plain.strip_prefix('[') {
            let name = header.split(']').next().unwrap_or(header).replace('"', "");
            section = Some(name.split_whitespace().collect::<Vec<_>>().join(" "));
            above = None;
            continue;
        }
        let (Some(section), Some((name, value))) = (&section, plain.split_once('=')) else { continue };
        let name = name.trim().to_ascii_lowercase();
        // What stands behind is a comment only after a space: an address may have a `#`.
        let of_it = |value, sign| str::split(value, sign).next().unwrap_or(value);
        let value = of_it(of_it(value, " #"), " ;").trim().to_owned();
        let name = match &above {
            Some(above) if line.starts_with([' ', '\t']) => format!("{above}.{name}"),
            _ => {
                above = value.is_empty().then(|| name.clone());
                name
            }
        };
        sections.entry(section.clone()).or_default().insert(name, value);
    }
    sections
}

fn endpoint_of(sections: &Sections, profile: &str) -> Option<String> {
    let named = sections.get(&format!("profile {profile}"));
    // The default one may be named either way; a name goes before.
    let own = named.or_else(|| sections.get(profile).filter(|_| profile == "default"))?;
    if own.get("ignore_configured_endpoint_urls").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return None;
    }
    let services = own.get("services").and_then(|name| sections.get(&format!("services {name}")));
    let of_s3 = services.and_then(|services| services.get("s3.endpoint_url"));
    of_s3.or_else(|| own.get("endpoint_url")).filter(|url| !url.is_empty()).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
# A comment.
[default]
region = us-east-1
endpoint_url = http://all:1 # of everything
[profile dev]
services = near
endpoint_url=http://dev:2
[profile \"two words\"]
endpoint_url = http://h:3/#/x
[profile off]
ignore_configured_endpoint_urls = true
endpoint_url = http://off:4
[services near]
ec2 =
  endpoint_url = http://ec2:5
s3 =
    endpoint_url = http://s3:6
    other = x
[profile lost]
services = none
[profile bare]
region = x
[dev]
endpoint_url = http://no-profile:7
";

    #[test]
    fn the_services_go_before_the_profile() {
        let parsed = sections(FILE);
        let of = |profile: &str| endpoint_of(&parsed, profile);
        assert_eq!(of("default").as_deref(), Some("http://all:1"));
        assert_eq!(of("dev").as_deref(), Some("http://s3:6"));
        assert_eq!(of("two words").as_deref(), Some("http://h:3/#/x"));
        for none in ["off", "lost", "bare", "missing", "near"] {
            assert_eq!(of(none), None, "{none}");
        }
        let either = sections("[default]\nendpoint_url=a\n[profile default]\nendpoint_url=b\n");
        assert_eq!(endpoint_of(&either, "default").as_deref(), Some("b"));
    }

    #[test]
    fn what_is_no_such_file_says_nothing() {
        for text in [
            "",
            "endpoint_url = x",
            "[default",
            "[]\n=\n = \n[default]\nendpoint_url",
            "[default]\nendpoint_url =",
        ] {
            assert_eq!(endpoint_of(&sections(text), "default"), None, "{text:?}");
        }
    }

    #[test]
    fn the_file_is_found_by_variables() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        std::fs::write(home.path().join(".aws/config"), FILE).unwrap();
        let home = home.path().to_str().unwrap();
        let found = |variables: &[(&str, &str)]| {
            let environment = Environment::from_iter(variables.iter().copied());
            endpoint(&environment).map(|(_, found)| found.map_err(|error| error.to_string()))
        };
        assert_eq!(found(&[("HOME", home)]), Some(Ok(Some("http://all:1".into()))));
        assert_eq!(found(&[("HOME", home), ("AWS_PROFILE", "dev")]), Some(Ok(Some("http://s3:6".into()))));
        assert_eq!(found(&[("HOME", home), (IGNORED, "true")]), None);
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[("HOME", home), ("AWS_CONFIG_FILE", "/nowhere/config")]), None);
        // A directory is no file.
        let error = found(&[("AWS_CONFIG_FILE", home)]).unwrap().unwrap_err();
        assert!(error.contains("can't be read"), "{error}");
    }
}
