//! The forms in which SGLang's NIXL connector is configured, so that a table that was written for it is read here.
//!
//! - `{"plugin": {"posix": {…}, "obj": {…, "active": true}}}`: each plugin's table is ours of the same plugin, and the
//!   active one is the backend, unless `backend` is given beside it.
//! - The flat form, `{"use_uring": "true"}`: parameters of the plugin that is chosen elsewhere, by `backend` or by
//!   `SGLANG_HICACHE_NIXL_BACKEND_PLUGIN`.
//! - `use_direct_io`, which is `io` here. Its cleaner's settings are read and said to mean nothing.
//!
//! Text that is empty says nothing: the connector's own sample has such fields.

use hicache_core::{Error, Result};
use serde_json::{Map, Value};

use super::Origin;
use super::field::{self, Field};
use super::kind::Kind;
use super::layers::{Layers, bad_value};
use super::suggest::nearest;
use crate::registry::{NIXL, NixlPlugin};

/// The table of all plugins.
const PLUGIN: &str = "plugin";
/// Marks the plugin to use.
const ACTIVE: &str = "active";
/// Its fields that are ours by another name.
const DIRECT: &str = "use_direct_io";
/// Its fields that have no meaning here.
const CLEANER: [&str; 3] = ["l3_cleaner_enabled", "l3_cleaner_high_watermark", "l3_cleaner_low_watermark"];

/// A parameter that was given in the flat form.
#[derive(Clone, Debug)]
pub(crate) struct Flat {
    pub(crate) name: String,
    pub(crate) field: &'static Field,
    pub(crate) origin: Origin,
}

/// Reads a field of the connector; whether it was one.
pub(crate) fn overlay(layers: &mut Layers, path: &str, value: &Value, origin: &Origin) -> Result<bool> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    match (first, rest) {
        (PLUGIN, None) => plugins(layers, value, origin)?,
        (PLUGIN, Some(rest)) => match rest.split_once('.') {
            None => plugin(layers, rest, value, origin)?,
            Some((name, parameter)) => {
                let table = Map::from_iter([(parameter.to_owned(), value.clone())]);
                plugin(layers, name, &table.into(), origin)?;
            }
        },
        (DIRECT, None) => {
            if let Some(io) = field::find("io").filter(|_| !says_nothing(value)) {
                let direct =
                    Kind::Flag.read(value).map_err(|wrong| bad_value(DIRECT, value, origin, &wrong))?;
                layers.give(
                    io,
                    &if direct == Value::Bool(true) { "direct" } else { "buffered" }.into(),
                    origin,
                )?;
            }
        }
        (name, None) if CLEANER.contains(&name) => layers.note(format!(
            "{name} ({origin}) means nothing here: capacity_bytes is a limit that needs no cleaner"
        )),
        (name, None) if field::find(name).is_none() && !field::is_table(name) => {
            let Some(field) = parameter(name) else { return Ok(false) };
            if !says_nothing(value) {
                layers.give(field, value, origin)?;
                layers.flat.push(Flat { name: name.to_owned(), field, origin: origin.clone() });
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Refuses parameters in the flat form that are not of the plugin in use.
pub(crate) fn check(layers: &Layers) -> Result<()> {
    let backend = layers.value("backend");
    let backend = backend.as_str().unwrap_or_default();
    for Flat { name, field, origin } in &layers.flat {
        let of = table_of(field.name);
        let Some(plugin) = NIXL.iter().find(|plugin| plugin.table == of) else { continue };
        if backend != plugin.backend {
            return Err(Error::config(format!(
                "{name} ({origin}) is a parameter of NIXL's plugin {}, and backend is {backend}; write backend = {}, \
                 or {} for the parameter",
                plugin.name, plugin.backend, field.name
            )));
        }
    }
    Ok(())
}

fn says_nothing(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty())
}

fn table_of(field: &str) -> &str {
    field.split_once('.').map_or("", |(table, _)| table)
}

/// The field of a parameter's bare name: each is a parameter of one plugin only.
fn parameter(name: &str) -> Option<&'static Field> {
    NIXL.iter()
        .find_map(|plugin| field::find(&format!("{}.{name}", plugin.table)).filter(|field| !is_ours(field)))
}

/// Fields of the plugins' tables that the plugins don't know.
fn is_ours(field: &Field) -> bool {
    let ours = ["prefix", "load_timeout_ms", "store_timeout_ms", "concurrency", "staging_bytes"];
    ours.iter().any(|name| field.name.ends_with(&format!(".{name}")))
}

fn plugins(layers: &mut Layers, value: &Value, origin: &Origin) -> Result<()> {
    let Some(table) = value.as_object() else {
        return if value.is_null() { Ok(()) } else { Err(no_table(PLUGIN, origin, "a table of plugins")) };
    };
    table.iter().try_for_each(|(name, value)| plugin(layers, name, value, origin))
}

/// Reads a plugin's table. The active one is the backend.
fn plugin(layers: &mut Layers, name: &str, value: &Value, origin: &Origin) -> Result<()> {
    let Some(plugin) = NIXL.iter().find(|plugin| plugin.is(name)) else {
        let names = NIXL.iter().map(|plugin| plugin.name);
        let hint =
            nearest(name, names.clone()).map(|name| format!("; did you mean `{}`?", name.to_lowercase()));
        let names = names.map(str::to_lowercase).collect::<Vec<_>>().join(", ");
        return Err(Error::config(format!(
            "unknown plugin {name:?} in plugin.{name} ({origin}); those of NIXL that are used here are {names}{}",
            hint.unwrap_or_default()
        )));
    };
    let Some(table) = value.as_object() else {
        let path = format!("{PLUGIN}.{name}");
        return if value.is_null() { Ok(()) } else { Err(no_table(&path, origin, "a table of parameters")) };
    };
    let mut active = false;
    for (parameter, value) in table {
        if says_nothing(value) {
            continue;
        }
        let path = format!("{}.{parameter}", plugin.table);
        match field::find(&path) {
            Some(field) => layers.give(field, value, origin)?,
            None if parameter == ACTIVE => {
                let wrong =
                    |wrong: String| bad_value(&format!("{PLUGIN}.{name}.{ACTIVE}"), value, origin, &wrong);
                active = Kind::Flag.read(value).map_err(wrong)? == Value::Bool(true);
            }
            None => return Err(unknown_parameter(plugin.table, name, parameter, origin)),
        }
    }
    if active { activate(layers, plugin, name, origin) } else { Ok(()) }
}

/// Makes the plugin's backend the one to use, unless `backend` is given beside it.
fn activate(layers: &mut Layers, plugin: &NixlPlugin, name: &str, origin: &Origin) -> Result<()> {
    let before = layers.active.replace((name.to_owned(), origin.clone())).filter(|(_, of)| of == origin);
    match before {
        Some((other, _)) if !plugin.is(&other) => {
            return Err(Error::config(format!(
                "plugin.{other} and plugin.{name} ({origin}) are both active; only one can be used"
            )));
        }
        // What stands there may be from then.
        Some(_) => return Ok(()),
        None => {}
    }
    let is_given_beside_it = layers.get("backend").is_some_and(|given| given.origin == *origin);
    match field::find("backend").filter(|_| !is_given_beside_it) {
        Some(backend) => layers.give(backend, &plugin.backend.into(), origin),
        None => Ok(()),
    }
}

fn unknown_parameter(table: &str, plugin: &str, parameter: &str, origin: &Origin) -> Error {
    let own = |field: &'static Field| field.name.strip_prefix(table).and_then(|rest| rest.strip_prefix('.'));
    let names: Vec<&str> = field::fields().iter().filter_map(own).chain([ACTIVE]).collect();
    let hint = match nearest(parameter, names.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("its parameters are {}", names.join(", ")),
    };
    Error::config(format!("unknown parameter {PLUGIN}.{plugin}.{parameter} ({origin}); {hint}"))
}

/// Without the value, which may have secrets in it.
fn no_table(path: &str, origin: &Origin, right: &str) -> Error {
    Error::config(format!("{path} ({origin}) must be {right}"))
}
