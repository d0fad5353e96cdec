//! Putting the layers together.

use std::fmt;
use std::path::{Path, PathBuf};

use hicache_core::{Error, Namespace, Result};
use serde_json::Value;

use super::field::{Field, fields};
use super::foreign::{FALLBACKS, FOREIGN, Fallback};
use super::layers::{Layers, bad_value};
use super::suggest::nearest_above;
use super::{Config, Origin, aws_profile, check, connector, field, file};
use crate::environment::{Environment, OTHERS};

/// The variable that names the configuration file.
pub(crate) const FILE_VARIABLE: &str = "HICACHE_CONFIG";

/// Every variable that says something of a configuration, but for those of other programs.
pub(crate) fn variables() -> impl Iterator<Item = String> {
    let ours = fields().iter().map(Field::variable);
    ours.chain([FILE_VARIABLE.to_owned()]).chain(FOREIGN.iter().map(|foreign| foreign.variable.to_owned()))
}

/// What a profile of AWS's may say.
const ADDRESS: &str = "nixl_obj.endpoint_override";

/// How near a name of a variable must be to one of ours to be taken for a slip.
const VARIABLE_NEAR: f64 = 0.8;

/// The layers of a configuration to be. The order of the calls does not matter, except between explicit values of the
/// same field: the last one stays. Everything is read and checked by [`ConfigBuilder::build`].
#[derive(Clone, Default)]
pub struct ConfigBuilder {
    file: Option<PathBuf>,
    environment: Environment,
    explicit: Vec<(String, Value)>,
}

impl fmt::Debug for ConfigBuilder {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.explicit.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("ConfigBuilder")
            .field("file", &self.file)
            .field("explicit", &names)
            .finish_non_exhaustive()
    }
}

impl ConfigBuilder {
    /// The file to read: TOML, JSON or YAML by its ending, or else by trying. Goes before `HICACHE_CONFIG`.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// The environment; without this call there is none.
    #[must_use]
    pub fn environment(mut self, environment: &Environment) -> Self {
        self.environment = environment.clone();
        self
    }

    /// An explicit value of a field (`"posix_uring.depth"`) or a whole table of them (`"posix_uring"`). `null` is no
    /// value.
    #[must_use]
    pub fn set(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.explicit.push((field.to_owned(), value.into()));
        self
    }

    /// Explicit values in one table, as they stand in a file: SGLang's `extra_config` without what SGLang consumes.
    #[must_use]
    pub fn table(self, table: serde_json::Map<String, Value>) -> Self {
        self.set("", table)
    }

    /// The storage directories, as an explicit value. They must be UTF-8, since files and variables can say no other.
    #[must_use]
    pub fn storage_dir<P: AsRef<Path>>(self, directories: impl IntoIterator<Item = P>) -> Self {
        // What is not UTF-8 keeps its replacement character, by which `check` refuses it.
        let texts = directories.into_iter().map(|path| path.as_ref().to_string_lossy().into_owned());
        self.set("storage_dir", texts.collect::<Vec<_>>())
    }

    /// The namespace, as explicit values of the fields that it has; the others stay with the lower layers.
    #[must_use]
    pub fn namespace(self, namespace: &Namespace) -> Self {
        match serde_json::to_value(namespace) {
            Ok(table) => self.set("namespace", table),
            Err(_) => self, // Texts, numbers and maps with text keys can't fail.
        }
    }

    /// Reads the file, overlays the layers and checks the result.
    ///
    /// # Errors
    /// `Config` for a file that can't be read, an unknown field, a bad value, and values that don't go together. The
    /// message names field, value and origin, and what would be right.
    pub fn build(self) -> Result<Config> {
        let mut layers = Layers::defaults()?;
        self.overlay_fallbacks(&mut layers);
        if let Some((path, named_by)) = self.file_to_read()? {
            let table = file::read(&path, &named_by)?;
            layers.overlay("", &table.into(), &Origin::File(path))?;
        }
        self.overlay_environment(&mut layers)?;
        for (path, value) in &self.explicit {
            layers.overlay(path, value, &Origin::Explicit)?;
        }
        self.add_the_profiles(&mut layers);
        connector::check(&layers)?;
        let settings = layers.settings()?;
        check::check(&settings, &layers)?;
        let warnings = layers.notes().iter().cloned().chain(self.warnings()).collect();
        Ok(Config { settings, layers, warnings, environment: self.environment })
    }

    fn file_to_read(&self) -> Result<Option<(PathBuf, Origin)>> {
        if let Some(path) = &self.file {
            return Ok(Some((path.clone(), Origin::Explicit)));
        }
        let path = self.variable(FILE_VARIABLE)?;
        Ok(path.map(|path| (path.into(), Origin::Environment(FILE_VARIABLE.into()))))
    }

    /// They go below the file: NIXL reads them where it is told nothing. What is wrong with them is no error, since they
    /// may be meant for somebody else.
    fn overlay_fallbacks(&self, layers: &mut Layers) {
        let ignored = aws_profile::is_ignored(&self.environment);
        for Fallback { variable, field: name, .. } in &FALLBACKS {
            if ignored && *name == ADDRESS {
                continue;
            }
            let given = self.variable(variable).and_then(|text| {
                let Some((text, field)) = text.zip(field::find(name)) else { return Ok(()) };
                layers.give(field, &text.into(), &Origin::Environment((*variable).into()))
            });
            if let Err(error) = given {
                layers.note(format!("{variable} is left out: {}", error.message()));
            }
        }
    }

    /// Below them all what a profile of AWS's says; its file is opened only for a bucket that is given no address.
    fn add_the_profiles(&self, layers: &mut Layers) {
        if layers.value("nixl_obj.bucket").is_null() || !layers.value(ADDRESS).is_null() {
            return;
        }
        let Some((file, found)) = aws_profile::endpoint(&self.environment) else { return };
        let given = found.and_then(|text| {
            let Some((text, field)) = text.zip(field::find(ADDRESS)) else { return Ok(()) };
            layers.give(field, &text.into(), &Origin::File(file.clone()))
        });
        if let Err(error) = given {
            layers.note(format!("{} is left out: {}", file.display(), error.message()));
        }
    }

    /// SGLang's variables first, so that ours go over them.
    fn overlay_environment(&self, layers: &mut Layers) -> Result<()> {
        for foreign in &FOREIGN {
            let (Some(text), Some(field)) = (self.variable(foreign.variable)?, field::find(foreign.field))
            else {
                continue;
            };
            let origin = Origin::Environment(foreign.variable.into());
            let value = (foreign.translate)(text)
                .map_err(|wrong| bad_value(foreign.field, &text.into(), &origin, &wrong))?;
            layers.give(field, &value, &origin)?;
        }
        for field in fields() {
            let variable = field.variable();
            if let Some(text) = self.variable(&variable)? {
                layers.give(field, &text.into(), &Origin::Environment(variable))?;
            }
        }
        Ok(())
    }

    /// The text of a variable; `None` where it is not set or blank.
    fn variable(&self, name: &str) -> Result<Option<&str>> {
        let Some(value) = self.environment.get(name) else { return Ok(None) };
        // Its value may be a secret.
        let text = value
            .to_str()
            .ok_or_else(|| Error::config(format!("environment variable {name} must be UTF-8, and is not")))?;
        Ok(Some(text.trim()).filter(|text| !text.is_empty()))
    }

    /// Variables that begin like ours, are none of ours, and are nearly one. Others that begin so belong to somebody
    /// else: Kubernetes gives every container `HICACHE_PORT` where a service is called hicache.
    fn warnings(&self) -> Vec<String> {
        let known: Vec<String> = variables().chain(OTHERS.map(str::to_owned)).collect();
        let strange = self.environment.names().filter(|name| !known.iter().any(|known| known == name));
        let warn = |name: &str| {
            let meant = nearest_above(VARIABLE_NEAR, name, known.iter().map(String::as_str))?;
            Some(format!("environment variable {name} means nothing here; did you mean {meant}?"))
        };
        strange.filter_map(warn).collect()
    }
}
