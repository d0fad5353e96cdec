//! Values of fields, later layers over earlier ones.

use std::collections::BTreeMap;
use std::fmt;

use hicache_core::{Error, ErrorKind, Result};
use serde_json::{Map, Value};

use super::connector::{self, Flat};
use super::field::{self, Field, fields};
use super::kind::Kind;
use super::secret::NOT_SHOWN;
use super::suggest::nearest;
use super::{Origin, Settings};

/// A value and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

/// For each field the value of the highest layer that gave one.
#[derive(Clone)]
pub(crate) struct Layers {
    given: BTreeMap<&'static str, Given>,
    /// Fields that were given as parameters of whichever NIXL plugin is used.
    pub(crate) flat: Vec<Flat>,
    /// The plugin of the connector's that was last said to be the active one, as it was named, and where.
    pub(crate) active: Option<(String, Origin)>,
    /// What was read and means nothing.
    notes: Vec<String>,
}

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |name: &&'static str| (*name, self.shown(name));
        f.debug_map().entries(self.given.keys().map(shown)).finish()
    }
}

impl Layers {
    /// The lowest layer.
    pub(crate) fn defaults() -> Result<Self> {
        let mut layers = Self { given: BTreeMap::new(), flat: Vec::new(), active: None, notes: Vec::new() };
        for field in fields() {
            let origin = Origin::Default;
            match field.default {
                "" => drop(layers.given.insert(field.name, Given { value: Value::Null, origin })),
                default => layers.give(field, &default.into(), &origin)?,
            }
        }
        Ok(layers)
    }

    pub(crate) fn get(&self, field: &str) -> Option<&Given> {
        self.given.get(field)
    }

    pub(crate) fn value(&self, field: &str) -> Value {
        self.get(field).map_or(Value::Null, |given| given.value.clone())
    }

    /// Overlays what is at `path`: a field's value, or a table of fields. `null` is no value.
    pub(crate) fn overlay(&mut self, path: &str, value: &Value, origin: &Origin) -> Result<()> {
        if let Some(field) = field::find(path) {
            return if value.is_null() { Ok(()) } else { self.give(field, value, origin) };
        }
        if connector::overlay(self, path, value, origin)? {
            return Ok(());
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
                // A table that is no table may be a secret out of place.
                &if fields_of(path).any(|field| field.kind == Kind::Secret) {
                    NOT_SHOWN.into()
                } else {
                    other.clone()
                },
                origin,
                &format!("must be a table of {}", names_in(path).join(", ")),
            )),
        }
    }

    /// A value as it may be shown.
    pub(crate) fn shown(&self, name: &str) -> Value {
        let value = self.value(name);
        field::find(name).map_or(Value::Null, |field| field.kind.shown(&value))
    }

    /// Remembers something that was read and means nothing.
    pub(crate) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// What was read and means nothing.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Sets one field.
    pub(crate) fn give(&mut self, field: &'static Field, value: &Value, origin: &Origin) -> Result<()> {
        let read = field
            .kind
            .read(value)
            .map_err(|wrong| bad_value(field.name, &field.kind.shown(value), origin, &wrong))?;
        self.given.insert(field.name, Given { value: read, origin: origin.clone() });
        Ok(())
    }

    /// Everything, typed.
    pub(crate) fn settings(&self) -> Result<Settings> {
        let mut root = Map::new();
        for (name, given) in &self.given {
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
                self.given[given].origin
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
        if self.value("namespace.model").is_null() { self.given.iter().find_map(given) } else { None }
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

fn fields_of(table: &str) -> impl Iterator<Item = &'static Field> {
    fields().iter().filter(move |field| {
        !table.is_empty() && field.name.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'))
    })
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
