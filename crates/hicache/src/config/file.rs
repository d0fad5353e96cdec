//! Reading a configuration file.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use hicache_core::{Error, Result};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::Origin;

/// No configuration is longer; a device or a page file given by mistake is.
const MOST_BYTES: u64 = 1 << 20;

/// Reads TOML, JSON or YAML: by the ending of the name, or else whichever it is.
///
/// # Errors
/// `Config` for what can't be read or parsed, with the place in the file.
pub(crate) fn read(path: &Path, named_by: &Origin) -> Result<Map<String, Value>> {
    let file = format!("the configuration file {} ({named_by})", path.display());
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MOST_BYTES + 1).read_to_string(&mut text))
        .map_err(|error| Error::config(format!("{file} can't be read")).with_source(error))?;
    if text.len() as u64 > MOST_BYTES {
        return Err(Error::config(format!("{file} is over {MOST_BYTES} bytes: not a configuration")));
    }
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
    let parsed = match ending.as_str() {
        "toml" => from_toml(&text).map_err(|error| format!("is not right as TOML: {error}")),
        "json" => from_json(&text).map_err(|error| format!("is not right as JSON: {error}")),
        "yaml" | "yml" => from_yaml(&text).map_err(|error| format!("is not right as YAML: {error}")),
        _ => from_any(&text),
    };
    match parsed {
        Ok(Value::Object(table)) => Ok(table),
        Ok(Value::Null) => Ok(Map::new()),
        Ok(_) => Err(Error::config(format!("{file} holds no table of fields"))),
        Err(wrong) => Err(Error::config(format!("{file} {wrong}"))),
    }
}

fn from_toml(text: &str) -> Result<Value, String> {
    toml::from_str::<Strict>(text).map(|strict| strict.0).map_err(|error| {
        // Its own form shows the line, which may have a secret in it.
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map(|before| format!(" in line {}", before.matches('\n').count() + 1));
        format!("{}{}", error.message().trim_end(), line.unwrap_or_default())
    })
}

fn from_json(text: &str) -> Result<Value, String> {
    serde_json::from_str::<Strict>(text).map(|strict| strict.0).map_err(|error| error.to_string())
}

fn from_yaml(text: &str) -> Result<Value, String> {
    serde_norway::from_str::<Strict>(text).map(|strict| strict.0).map_err(|error| error.to_string())
}

/// JSON first, since it is YAML too; TOML before YAML, to which most text is a scalar.
fn from_any(text: &str) -> Result<Value, String> {
    let table = |value: Value| match value {
        Value::Object(_) | Value::Null => Ok(value),
        _ => Err("not a table".to_owned()),
    };
    let json = match from_json(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let toml = match from_toml(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    from_yaml(text).and_then(table).map_err(|yaml| {
        format!(
            "has an ending that says nothing, and it is not JSON ({json}), TOML ({toml}) or YAML ({yaml})"
        )
    })
}

/// Any value, in which no key is given twice.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Any.deserialize(deserializer).map(Self)
    }
}

struct Any;

impl<'de> DeserializeSeed<'de> for Any {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table, a list, text, a number, true or false")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        // NaN and infinities become text, which no field takes as a number.
        Ok(Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Any)? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut table = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if table.contains_key(&key) {
                return Err(A::Error::custom(format!("`{key}` is given twice")));
            }
            let value = entries.next_value_seed(Any)?;
            table.insert(key, value);
        }
        Ok(table.into())
    }
}
