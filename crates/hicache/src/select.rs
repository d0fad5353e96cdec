//! The backend to use.

use std::fmt;
use std::path::PathBuf;

use hicache_core::{Backend, Error, ErrorKind, MemoryKind, ProbeReport, Result, Verdict};
use serde::Serialize;

use crate::config::suggest::nearest;
use crate::config::{Config, Origin};
use crate::probe::{memory, probe_one};
use crate::registry::{GDS, KNOWN};

/// A backend that `auto` passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Its name.
    pub backend: String,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was skipped: {}", self.backend, self.reason)
    }
}

/// The answer of [`select()`].
#[derive(Debug)]
pub struct Selected {
    /// The backend to use.
    pub backend: Box<dyn Backend>,
    /// Those before it in the order, with the reason for each.
    pub skipped: Vec<Skipped>,
    /// Every probe that was run, the chosen backend's last.
    pub reports: Vec<ProbeReport>,
}

/// Chooses among `backends`. A name in the field `backend` is that one or an error; `auto` is the first of the field
/// `order` whose probe moves bytes in every storage directory.
///
/// # Errors
/// `Config` for a name that is not in `backends`; `Unavailable`, with the reasons, if none can be used.
pub async fn select(config: &Config, mut backends: Vec<Box<dyn Backend>>) -> Result<Selected> {
    let settings = config.settings();
    let mut selection = Selection {
        directories: &settings.storage_dir,
        memory: memory(config),
        skipped: Vec::new(),
        reports: Vec::new(),
    };
    if settings.backend != "auto" {
        let Some(at) = backends.iter().position(|backend| backend.name() == settings.backend) else {
            let names: Vec<&str> = backends.iter().map(|backend| backend.name()).collect();
            return Err(unknown(config, &names));
        };
        let backend = backends.swap_remove(at);
        return match selection.probe(&*backend).await {
            Ok(()) => Ok(selection.with(backend)),
            Err(reason) => Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "backend = {:?} ({}) can't be used: {reason}; mend that, or write `auto`",
                    settings.backend,
                    config.origin("backend")
                ),
            )
            .with_backend(backend.name())),
        };
    }
    // Nobody asked for what stands in the default order and is not in this build.
    let was_given = config.origin("order") != Origin::Default;
    for name in &settings.order {
        let reason = match backends.iter().position(|backend| backend.name() == name) {
            None if was_given => absent(name),
            None => continue,
            Some(at) => {
                let backend = backends.swap_remove(at);
                match selection.probe(&*backend).await {
                    Ok(()) => return Ok(selection.with(backend)),
                    Err(reason) => reason,
                }
            }
        };
        selection.skipped.push(Skipped { backend: name.clone(), reason });
    }
    let reasons: Vec<String> = selection.skipped.iter().map(|skipped| skipped.to_string()).collect();
    Err(Error::new(
        ErrorKind::Unavailable,
        format!("no backend of order ({}) can be used: {}", config.origin("order"), reasons.join("; ")),
    ))
}

struct Selection<'a> {
    directories: &'a [PathBuf],
    memory: MemoryKind,
    skipped: Vec<Skipped>,
    reports: Vec<ProbeReport>,
}

impl Selection<'_> {
    /// Whether the backend works in every directory; else the first reason.
    async fn probe(&mut self, backend: &dyn Backend) -> Result<(), String> {
        if backend.name() == GDS && self.memory.is_host() {
            return Err("it moves memory of a GPU only; `device`, the number of one, is not set".to_owned());
        }
        for directory in self.directories {
            let report = probe_one(backend, directory, self.memory).await;
            let refused = (report.verdict != Verdict::Usable).then(|| report.reason.clone());
            self.reports.push(report);
            if let Some(reason) = refused {
                return Err(format!("in {}: {reason}", directory.display()));
            }
        }
        Ok(())
    }

    fn with(self, backend: Box<dyn Backend>) -> Selected {
        Selected { backend, skipped: self.skipped, reports: self.reports }
    }
}

fn absent(name: &str) -> String {
    let feature = KNOWN.iter().find(|known| known.name == name).and_then(|known| known.feature);
    feature.map_or_else(
        || "it is not among the backends to choose from".to_owned(),
        |feature| format!("not in this build, which lacks the Cargo feature `{feature}`"),
    )
}

fn unknown(config: &Config, names: &[&str]) -> Error {
    let wanted = &config.settings().backend;
    let hint = nearest(wanted, names.iter().copied()).map(|name| format!("; did you mean `{name}`?"));
    Error::config(format!(
        "backend = {wanted:?} ({}): not among the backends to choose from, which are {}{}",
        config.origin("backend"),
        names.join(", "),
        hint.unwrap_or_default()
    ))
}
