//! What a field takes: one description from which values are read, errors are worded and documentation is made.

use std::collections::BTreeMap;

use hicache_core::namespace::ParallelPosition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::byte_size;
use super::secret::NOT_SHOWN;
use super::suggest::nearest;
use crate::registry::{KNOWN, built_names, known};

/// What a field takes. Every kind is also read from text, so that one rule holds for files, environment variables and
/// programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text that is not empty.
    Text,
    /// The same, and it is never shown.
    Secret,
    /// An address, with or without its scheme.
    Host,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Yes or no.
    Flag,
    /// A whole number in these bounds, both included.
    Count(u64, u64),
    /// A number of bytes, at least this many.
    Size(u64),
    /// A number of bytes above 0, or `auto`.
    Limit,
    /// At most this many addresses of servers.
    Addresses(usize),
    /// Directories.
    Directories,
    /// A command and its arguments.
    Words,
    /// A backend of this build, or `auto`.
    Backend,
    /// Backends of the project, in an order.
    Backends,
    /// Positions in parallel dimensions.
    Positions,
    /// Named texts.
    Texts,
}

impl Kind {
    /// What it takes, to follow "must be".
    pub fn describe(self) -> String {
        match self {
            Self::Text => "text that is not empty".into(),
            Self::Secret => "text that is not empty; it is not shown".into(),
            Self::Host => "an address (host:port, or with its scheme http://host:port), without user or password".into(),
            Self::Word(words) => format!("one of {}", words.join(", ")),
            Self::Flag => "true or false".into(),
            Self::Count(least, most) => format!("a whole number from {least} to {most}"),
            Self::Size(0 | 1) => byte_size::RULE.into(),
            Self::Size(least) => format!("{}, at least {}", byte_size::RULE, byte_size::show(least)),
            Self::Limit => format!("{} above 0, or `auto`", byte_size::RULE),
            Self::Addresses(1) => "an address with its scheme (http://host:port), without user or password".into(),
            Self::Addresses(_) => {
                "an address with its scheme (https://host:port), without user or password; a list, or several with \
                 commas between"
                    .into()
            }
            Self::Directories => "a directory, a list of directories, or several in one text with commas between".into(),
            Self::Words => "a command, or a list of a command and its arguments".into(),
            Self::Backend => format!("`auto` or a backend ({})", known_names().join(", ")),
            Self::Backends => format!("a list of backends ({}), each once", known_names().join(", ")),
            Self::Positions => {
                "a table of name to size and rank (tp = { size = 2, rank = 0 }; no rank where all hold the same bytes), \
                 in a variable as JSON"
                    .into()
            }
            Self::Texts => "a table of name to text, in a variable as JSON".into(),
        }
    }

    /// Reads a value into the one form that [`Settings`](super::Settings) takes; `Err` says what would be right.
    pub(crate) fn read(self, given: &Value) -> Result<Value, String> {
        let text = given.as_str().map(str::trim);
        let read = match self {
            Self::Text | Self::Secret => text.filter(|text| !text.is_empty()).map(Value::from),
            Self::Host => text.filter(|text| !text.is_empty() && !text.contains('@')).map(Value::from),
            Self::Word(words) => text
                .and_then(|text| words.iter().find(|word| word.eq_ignore_ascii_case(text)))
                .map(|&w| w.into()),
            Self::Flag => read_flag(given).map(Value::from),
            Self::Count(least, most) => {
                let count = given.as_u64().or_else(|| text?.parse().ok());
                count.filter(|count| (least..=most).contains(count)).map(Value::from)
            }
            Self::Size(least) => read_size(given).filter(|&bytes| bytes >= least.max(1)).map(Value::from),
            Self::Limit if text.is_some_and(|text| text.eq_ignore_ascii_case("auto")) => Some(Value::Null),
            Self::Limit => read_size(given).filter(|&bytes| bytes > 0).map(Value::from),
            Self::Addresses(most) => read_addresses(given, most),
            Self::Directories => return read_directories(given, self.describe()),
            Self::Words => read_words(given).map(Value::from),
            Self::Backend => return self.read_backend(given),
            Self::Backends => return self.read_backends(given),
            Self::Positions => read_table::<BTreeMap<String, ParallelPosition>>(given),
            Self::Texts => read_table::<BTreeMap<String, String>>(given),
        };
        read.ok_or_else(|| format!("must be {}", self.describe()))
    }

    fn read_backend(self, given: &Value) -> Result<Value, String> {
        let right = || format!("must be `auto` or a backend of this build ({})", built_names().join(", "));
        let name = given.as_str().map(str::trim).ok_or_else(right)?;
        if name.eq_ignore_ascii_case("auto") {
            return Ok("auto".into());
        }
        match known(name) {
            Some(known) if known.built => Ok(known.name.into()),
            Some(known) => {
                let feature = known.feature.unwrap_or_default();
                Err(format!("needs the Cargo feature `{feature}`, which this build lacks; it {}", right()))
            }
            None => Err(format!("{}{}", right(), hint(name, built_names()))),
        }
    }

    fn read_backends(self, given: &Value) -> Result<Value, String> {
        let wrong = || format!("must be {}", self.describe());
        let given = texts(given).filter(|names| !names.is_empty()).ok_or_else(wrong)?;
        let mut names: Vec<&str> = Vec::new();
        for name in given {
            let Some(known) = known(&name) else {
                return Err(format!("{}, not {name:?}{}", wrong(), hint(&name, known_names())));
            };
            if names.contains(&known.name) {
                return Err(format!("names {:?} twice; {}", known.name, wrong()));
            }
            names.push(known.name);
        }
        Ok(names.into())
    }

    /// A value as an error may show it.
    pub(crate) fn shown(self, value: &Value) -> Value {
        match self {
            Self::Secret if !value.is_null() => NOT_SHOWN.into(),
            Self::Addresses(_) | Self::Host if value.to_string().contains('@') => {
                "(not shown: it has an @ in it)".into()
            }
            _ => value.clone(),
        }
    }

    /// A value as people read it.
    pub(crate) fn show(self, value: &Value) -> String {
        match (self, value) {
            (Self::Limit, Value::Null) => "auto".into(),
            (_, Value::Null) => "not set".into(),
            (Self::Secret, _) => NOT_SHOWN.into(),
            (Self::Size(_) | Self::Limit, Value::Number(bytes)) => {
                bytes.as_u64().map_or_else(|| bytes.to_string(), byte_size::show)
            }
            (_, Value::String(text)) => text.clone(),
            (Self::Words, Value::Array(items)) => {
                items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
            }
            (Self::Directories | Self::Backends | Self::Addresses(_), Value::Array(items)) => {
                items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
            }
            (_, other) => other.to_string(),
        }
    }
}

fn known_names() -> [&'static str; KNOWN.len()] {
    KNOWN.map(|known| known.name)
}

fn hint<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    nearest(given, names).map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

/// `"false"` is false.
fn read_flag(given: &Value) -> Option<bool> {
    let text = match given {
        Value::Bool(flag) => return Some(*flag),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.trim().to_ascii_lowercase(),
        _ => return None,
    };
    match text.as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn read_size(given: &Value) -> Option<u64> {
    given.as_u64().or_else(|| byte_size::parse(given.as_str()?))
}

/// Texts of a list, or of one text with commas; blank ones are dropped.
fn texts(given: &Value) -> Option<Vec<String>> {
    let all: Vec<&str> = match given {
        Value::String(text) => text.split(',').collect(),
        Value::Array(items) => items.iter().map(Value::as_str).collect::<Option<_>>()?,
        _ => return None,
    };
    Some(all.into_iter().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect())
}

/// A command is one word where it is text: paths have spaces in them.
fn read_words(given: &Value) -> Option<Vec<String>> {
    let words: Vec<&str> = match given {
        Value::String(text) => vec![text.trim()],
        Value::Array(items) => items.iter().map(Value::as_str).collect::<Option<_>>()?,
        _ => return None,
    };
    (!words.is_empty() && words.iter().all(|word| !word.is_empty()))
        .then(|| words.into_iter().map(str::to_owned).collect())
}

/// No password gets into a configuration, which is shown.
fn read_addresses(given: &Value, most: usize) -> Option<Value> {
    let addresses = texts(given).filter(|addresses| (1..=most).contains(&addresses.len()))?;
    let good = |address: &String| {
        let host = address.strip_prefix("http://").or_else(|| address.strip_prefix("https://"));
        host.is_some_and(|host| !host.is_empty() && !host.contains('@'))
    };
    addresses.iter().all(good).then(|| addresses.into())
}

fn read_directories(given: &Value, right: String) -> Result<Value, String> {
    let directories = texts(given).ok_or_else(|| format!("must be {right}"))?;
    if directories.is_empty() {
        return Err(format!("names no directory; it must be {right}"));
    }
    if let Some(home) = directories.iter().find(|directory| *directory == "~" || directory.starts_with("~/"))
    {
        return Err(format!("has {home:?}; only a shell knows what ~ is: write the directory out"));
    }
    Ok(directories.into())
}

/// A table of the given shape, or the same as JSON text.
fn read_table<T: DeserializeOwned + Serialize>(given: &Value) -> Option<Value> {
    let table: T = match given {
        Value::String(text) => serde_json::from_str(text).ok()?,
        Value::Object(_) => T::deserialize(given).ok()?,
        _ => return None,
    };
    serde_json::to_value(table).ok()
}
