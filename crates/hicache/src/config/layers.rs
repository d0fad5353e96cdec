//! Values of fields, later layers over earlier ones.

use std::collections::BTreeMap;

use hicache_core::{Error, ErrorKind, Result};
use serde_json::{Map, Value};

use super::field::{self, Field, fields};
use super::suggest::nearest;
use super::{Origin, Settings};

/// A value and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

/// For each field the value of the highest layer that gave one.
#[derive(Clone, Debug)]
pub(crate) struct Layers(BTreeMap<&'static str, Given>);

impl Layers {
    /// The lowest layer.
    pub(crate) fn defaults() -> Result<Self> {
        let mut layers = Self(BTreeMap::new());
        for field in fields() {
            let origin = Origin::Default;
            match field.default {
                "" => drop(layers.0.insert(field.name, Given { value: Value::Null, origin })),
                default => layers.give(field, &default.into(), &origin)?,
            }
        }
        Ok(layers)
    }

    pub(crate) fn get(&self, field: &str) -> Option<&Given> {
        self.0.get(field)
    }

    pub(crate) fn value(&self, field: &str) -> Value {
        self.get(field).map_or(Value::Null, |given| given.value.clone())
    }

    /// Overlays what is at `path`: a field's value, or a table of fields. `null` is no value.
    pub(crate) fn overlay(&mut self, path: &str, value: &Value, origin: &Origin) -> Result<()> {
        if let Some(field) = field::find(path) {
            return if value.is_null() { Ok(()) } else { self.give(field, value, origin) };
        }
        if !field::is_table(path) {
            return Err(unknown(path, origin));
        }
        match value {
            Value::Null => Ok(()),
            Value::Object(table) => table.iter().try_for_each(|(name, value)| {
                let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                self.overlay(&inner, value, origin)
            }),
            other => Err(bad_value(
                path,
                other,
                origin,
                &format!("must be a table of {}", names_in(path).join(", ")),
            )),
        }
    }

    /// Sets one field.
    pub(crate) fn give(&mut self, field: &'static Field, value: &Value, origin: &Origin) -> Result<()> {
        let read = field
            .kind
            .read(value)
            .map_err(|wrong| bad_value(field.name, &field.kind.shown(value), origin, &wrong))?;
        self.0.insert(field.name, Given { value: read, origin: origin.clone() });
        Ok(())
    }

    /// Everything, typed.
    pub(crate) fn settings(&self) -> Result<Settings> {
        let mut root = Map::new();
        for (name, given) in &self.0 {
            let (table, last) = match name.split_once('.') {
                Some((table, last)) => (Some(table), last),
                None => (None, *name),
            };
            let at = match table {
                Some(table) => root.entry(table).or_insert_with(|| Map::new().into()).as_object_mut(),
                None => Some(&mut root),
            };
            if let Some(at) = at {
                at.insert(last.to_owned(), given.value.clone());
            }
        }
        if let Some(given) = self.namespace_without_model() {
            return Err(Error::config(format!(
                "namespace.model is not set, but {given} is ({}); give the model's name too",
                self.0[given].origin
            )));
        }
        if self.value("namespace.model").is_null() {
            root.insert("namespace".into(), Value::Null);
        }
        serde_json::from_value(root.into()).map_err(|error| {
            Error::new(ErrorKind::Unexpected, "the table of fields and the settings disagree")
                .with_source(error)
        })
    }

    /// A field of the namespace that somebody gave, if nobody gave the model.
    fn namespace_without_model(&self) -> Option<&'static str> {
        let given = |(name, given): (&&'static str, &Given)| {
            (name.starts_with("namespace.") && given.origin != Origin::Default).then_some(*name)
        };
        if self.value("namespace.model").is_null() { self.0.iter().find_map(given) } else { None }
    }
}

/// The error for a value that a field does not take; `wrong` follows the field, the value and the origin.
pub(crate) fn bad_value(name: &str, value: &Value, origin: &Origin, wrong: &str) -> Error {
    const MOST: usize = 100;
    let mut shown: String = value.to_string().chars().take(MOST + 1).collect();
    if shown.chars().count() > MOST {
        shown = shown.chars().take(MOST).chain(['…']).collect();
    }
    Error::config(format!("{name} = {shown} ({origin}) {wrong}"))
}

fn unknown(path: &str, origin: &Origin) -> Error {
    let names = fields().iter().map(|field| field.name);
    let hint = match nearest(path, names) {
        Some(name) => format!("did you mean `{name}`?"),
        None => {
            // The fields of the innermost table that exists.
            let table = std::iter::successors(Some(path), |path| {
                Some(path.rsplit_once('.').map_or("", |(up, _)| up))
            })
            .find(|path| field::is_table(path))
            .unwrap_or_default();
            let place = if table.is_empty() { String::new() } else { format!(" of {table}") };
            format!("the fields{place} are {}", names_in(table).join(", "))
        }
    };
    Error::config(format!("unknown field {path:?} ({origin}); {hint}"))
}

/// Names directly in a table.
fn names_in(table: &str) -> Vec<&'static str> {
    let mut names: Vec<&str> = fields()
        .iter()
        .filter_map(|field| {
            if table.is_empty() {
                Some(field.name)
            } else {
                field.name.strip_prefix(table)?.strip_prefix('.')
            }
        })
        .map(|rest| rest.split('.').next().unwrap_or(rest))
        .collect();
    names.dedup();
    names
}
