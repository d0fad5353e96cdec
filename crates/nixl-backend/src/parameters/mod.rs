//! What each plugin is told when its backend is made, typed; NIXL itself takes pairs of text.
//!
//! Only what differs from NIXL's own default is handed on, so that a release with other names still starts.

mod files;
mod obj;
mod secret;

use std::fmt;

use hicache_core::{Error, Result};

use crate::Plugin;

pub use files::{
    GdsMtParameters, GdsParameters, PosixParameters, PosixQueue, ThreeFsMemory, ThreeFsParameters,
};
pub use obj::{ObjChecksum, ObjParameters};
pub use secret::Secret;

/// Parameters of one plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parameters {
    /// Of `3FS`.
    ThreeFs(ThreeFsParameters),
    /// Of `POSIX`.
    Posix(PosixParameters),
    /// Of `GDS_MT`.
    GdsMt(GdsMtParameters),
    /// Of `GDS`.
    Gds(GdsParameters),
    /// Of `OBJ`.
    Obj(ObjParameters),
}

impl Parameters {
    /// NIXL's defaults.
    pub fn of(plugin: Plugin) -> Self {
        match plugin {
            Plugin::ThreeFs => Self::ThreeFs(ThreeFsParameters::default()),
            Plugin::Posix => Self::Posix(PosixParameters::default()),
            Plugin::GdsMt => Self::GdsMt(GdsMtParameters::default()),
            Plugin::Gds => Self::Gds(GdsParameters::default()),
            Plugin::Obj => Self::Obj(ObjParameters::default()),
        }
    }

    /// The plugin that takes them.
    pub const fn plugin(&self) -> Plugin {
        match self {
            Self::ThreeFs(_) => Plugin::ThreeFs,
            Self::Posix(_) => Plugin::Posix,
            Self::GdsMt(_) => Plugin::GdsMt,
            Self::Gds(_) => Plugin::Gds,
            Self::Obj(_) => Plugin::Obj,
        }
    }

    /// Refuses what the plugin would refuse, or take and go wrong with.
    ///
    /// # Errors
    /// `Config` that names the parameter, its value and what would be right.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::ThreeFs(parameters) => parameters.validate(),
            Self::Posix(parameters) => parameters.validate(),
            Self::GdsMt(parameters) => parameters.validate(),
            Self::Gds(parameters) => parameters.validate(),
            Self::Obj(parameters) => parameters.validate(),
        }
    }

    /// As NIXL takes them.
    pub fn pairs(&self) -> Pairs {
        let mut pairs = Pairs(Vec::new());
        match self {
            Self::ThreeFs(parameters) => parameters.write(&mut pairs),
            Self::Posix(parameters) => parameters.write(&mut pairs),
            Self::GdsMt(parameters) => parameters.write(&mut pairs),
            Self::Gds(parameters) => parameters.write(&mut pairs),
            Self::Obj(parameters) => parameters.write(&mut pairs),
        }
        pairs
    }
}

/// Names and values for NIXL. The debug form has the names only: values may be secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Pairs(Vec<(String, String)>);

impl Pairs {
    /// The pairs.
    pub fn as_slice(&self) -> &[(String, String)] {
        &self.0
    }

    fn push(&mut self, name: &str, value: impl fmt::Display) {
        self.0.push((name.to_owned(), value.to_string()));
    }

    fn push_unless_default<T: fmt::Display + PartialEq>(&mut self, name: &str, value: T, default: T) {
        if value != default {
            self.push(name, value);
        }
    }

    fn push_given(&mut self, name: &str, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.push(name, value);
        }
    }
}

impl fmt::Debug for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// Refuses a number outside its bounds.
fn within(plugin: Plugin, name: &str, value: u64, least: u64, most: u64) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::config(format!("{name} = {value} of NIXL's {plugin} must be from {least} to {most}")))
}

/// Refuses text that is empty, or that a parameter can't hold.
fn text(plugin: Plugin, name: &str, value: &str) -> Result<()> {
    if value.is_empty() || value.contains('\0') {
        return Err(Error::config(format!("{name} of NIXL's {plugin} must be text that is not empty")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_say_little() {
        for plugin in Plugin::ALL {
            let parameters = Parameters::of(plugin);
            assert_eq!(parameters.plugin(), plugin);
            if plugin != Plugin::Obj {
                parameters.validate().unwrap();
            }
        }
        assert_eq!(Parameters::of(Plugin::Gds).pairs().as_slice(), []);
        let named = |parameters: Parameters| format!("{:?}", parameters.pairs());
        assert_eq!(named(Parameters::of(Plugin::Posix)), "[\"use_aio\"]");
    }

    #[test]
    fn no_debug_form_shows_a_secret() {
        let parameters = Parameters::Obj(ObjParameters {
            bucket: Some("pages".into()),
            access_key: Some(Secret::new("AKIA-hidden")),
            secret_key: Some(Secret::new("hidden-secret")),
            session_token: Some(Secret::new("hidden-token")),
            ..ObjParameters::default()
        });
        let pairs = parameters.pairs();
        let handed_on: Vec<&str> = pairs.as_slice().iter().map(|(_, value)| value.as_str()).collect();
        assert!(
            ["AKIA-hidden", "hidden-secret", "hidden-token"].iter().all(|secret| handed_on.contains(secret))
        );
        for shown in [format!("{parameters:?}"), format!("{pairs:?}")] {
            assert!(!shown.contains("hidden"), "{shown}");
        }
    }
}
