//! `hicache probe`: which backends work on this machine.

use std::path::PathBuf;

use clap::Args;
use comfy_table::ContentArrangement;
use hicache::{ProbeReport, Verdict, process_environment};
use serde::Serialize;

use crate::arguments::{self, ConfigArguments};
use crate::exit::{Exit, Failure};
use crate::output::{Output, table};

/// Width of the table: reasons and checks are sentences.
const TABLE_COLUMNS: u16 = 120;

/// Arguments of `hicache probe`.
#[derive(Debug, Args)]
pub(crate) struct ProbeArguments {
    /// Probe for this storage directory, not the configured ones; may be repeated. Nothing stays behind in it
    #[arg(long, value_name = "DIR")]
    dir: Vec<PathBuf>,
    /// cuFile's library, where the system's loader does not find it
    #[cfg(feature = "gds")]
    #[arg(long, value_name = "FILE")]
    cufile: Option<PathBuf>,
    /// Probe this backend and no other
    #[arg(long, value_name = "BACKEND")]
    only: Option<String>,
    #[command(flatten)]
    config: ConfigArguments,
    /// Print one JSON object: `selected` (the backend that would be used, or null) and `directories`
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    selected: Option<String>,
    directories: Vec<Probed>,
}

#[derive(Serialize)]
struct Probed {
    directory: PathBuf,
    backends: Vec<ProbeReport>,
}

pub(crate) fn run(arguments: &ProbeArguments, output: &mut Output) -> Result<Exit, Failure> {
    let mut builder = arguments.config.builder();
    if !arguments.dir.is_empty() {
        builder = builder.storage_dir(&arguments.dir);
    }
    #[cfg(feature = "gds")]
    if let Some(library) = &arguments.cufile {
        builder = builder.set("gds.library", library.display().to_string());
    }
    // What may hang is probed by a process of this program's, where no other is named. Under Python it is that one's.
    if process_environment().python().is_none()
        && builder.clone().build()?.settings().probe_helper.is_none()
        && let Ok(own) = std::env::current_exe()
    {
        builder = builder.set("probe_helper", serde_json::json!([own.display().to_string()]));
    }
    let config = arguments::build(builder)?;
    let settings = config.settings();
    let directories: Vec<Probed> = super::runtime(0)?.block_on(async {
        let mut probed = Vec::new();
        for directory in &settings.storage_dir {
            let backends = match &arguments.only {
                Some(name) => vec![hicache::probe_named(&config, name, directory).await?],
                None => hicache::probe_all(&config, directory).await,
            };
            probed.push(Probed { directory: directory.clone(), backends });
        }
        Ok::<_, Failure>(probed)
    })?;
    let wanted = match (&arguments.only, settings.backend.as_str()) {
        (Some(_), _) => &directories.first().map(Probed::names).unwrap_or_default(),
        (None, "auto") => settings.order.as_slice(),
        (None, _) => std::slice::from_ref(&settings.backend),
    };
    // Without a device pages are in memory of the host.
    let could_be =
        |name: &&String| name.as_str() != "gds" || settings.device.is_some() || arguments.only.is_some();
    let selected = wanted
        .iter()
        .filter(could_be)
        .find(|name| directories.iter().all(|probed| probed.usable(name)))
        .cloned();
    let report = Report { selected, directories };
    if arguments.json {
        output.json(&report)?;
    } else {
        show(&report, output)?;
    }
    match report.selected {
        Some(_) => Ok(Exit::Good),
        None => Err(Failure::failed(format!("none of {} can be used here", wanted.join(", ")))),
    }
}

impl Probed {
    fn names(&self) -> Vec<String> {
        self.backends.iter().map(|report| report.backend.to_owned()).collect()
    }

    fn usable(&self, name: &str) -> bool {
        let usable = |report: &&ProbeReport| report.backend == name && report.verdict == Verdict::Usable;
        self.backends.iter().any(|report| usable(&report))
    }
}

fn show(report: &Report, output: &mut Output) -> Result<(), Failure> {
    for Probed { directory, backends } in &report.directories {
        output.line(format_args!("For {}:", directory.display()))?;
        let mut rows = table(["backend", "verdict", "reason", "checks"]);
        rows.set_content_arrangement(ContentArrangement::Dynamic).set_width(TABLE_COLUMNS);
        for report in backends {
            let verdict = match report.verdict {
                Verdict::Usable => "usable",
                Verdict::Unavailable => "unavailable",
            };
            let checks: Vec<String> = report
                .checks
                .iter()
                .map(|check| {
                    format!("{} {}: {}", if check.passed { "yes" } else { "no " }, check.name, check.detail)
                })
                .collect();
            rows.add_row([report.backend, verdict, &report.reason, &checks.join("\n")]);
        }
        output.line(rows)?;
    }
    match &report.selected {
        Some(name) => output.line(format_args!("Would be used: {name}")),
        None => output.line("Would be used: none"),
    }
}
