//! The arguments that commands share.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use hicache::{Config, ConfigBuilder, process_environment};
use tracing_subscriber::filter::LevelFilter;

use crate::commands::{explain, list, probe, stat, verify};
use crate::exit::{EXIT_CODES, Failure};
use crate::replay::ReplayArguments;

/// Keeps the KV cache of LLM servers on storage: says which backends work here, replays recorded workloads, checks
/// cache directories.
#[derive(Debug, Parser)]
#[command(name = "hicache", version, after_help = EXIT_CODES, max_term_width = 110)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) log: LogArguments,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say which backends work on this machine, and why the others don't
    Probe(probe::ProbeArguments),
    /// Explain the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Play a workload into a storage, compare every byte that comes back, reopen it and read everything again
    Replay(Box<ReplayArguments>),
    /// Read and check every page of a store, running or dead
    Verify(verify::VerifyArguments),
    /// Show the sizes of a store, running or dead
    Stat(stat::StatArguments),
    /// List the pages of a store, running or dead
    List(list::ListArguments),
    /// What `probe` runs in a process of its own, since it may hang
    #[cfg(feature = "gds")]
    #[command(hide = true)]
    ProbeGds(crate::commands::gds::ProbeGdsArguments),
}

/// What can be done with the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show every field with its value and where that came from
    Explain(explain::ExplainArguments),
}

/// What is logged.
#[derive(Debug, Args)]
pub(crate) struct LogArguments {
    /// Log more: once for what is done, twice for details, three times for everything
    #[arg(short, long, action = ArgAction::Count, global = true, conflicts_with = "log")]
    verbose: u8,
    /// What to log on standard error [default: warn]
    #[arg(long, value_name = "LEVEL", global = true)]
    log: Option<LogLevel>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogArguments {
    /// From which level on to log.
    pub(crate) fn level(&self) -> LevelFilter {
        match (self.log, self.verbose) {
            (Some(LogLevel::Off), _) => LevelFilter::OFF,
            (Some(LogLevel::Error), _) => LevelFilter::ERROR,
            (Some(LogLevel::Warn), _) | (None, 0) => LevelFilter::WARN,
            (Some(LogLevel::Info), _) | (None, 1) => LevelFilter::INFO,
            (Some(LogLevel::Debug), _) | (None, 2) => LevelFilter::DEBUG,
            (Some(LogLevel::Trace), _) | (None, _) => LevelFilter::TRACE,
        }
    }
}

/// Where the configuration comes from.
#[derive(Debug, Args)]
pub(crate) struct ConfigArguments {
    /// Read this configuration file (TOML, JSON or YAML), not the one that HICACHE_CONFIG names
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set a field of the configuration, over file and environment; `hicache config explain` lists the fields
    #[arg(long, value_name = "FIELD=VALUE", value_parser = parse_setting)]
    set: Vec<(String, String)>,
}

impl ConfigArguments {
    /// Defaults, file, environment and `--set`; more explicit values may be put over them.
    pub(crate) fn builder(&self) -> ConfigBuilder {
        let mut builder = Config::builder().environment(&process_environment());
        if let Some(file) = &self.config {
            builder = builder.file(file);
        }
        self.set.iter().fold(builder, |builder, (field, value)| builder.set(field, value.as_str()))
    }
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (field, value) = text.split_once('=').ok_or("write FIELD=VALUE, as in io=buffered")?;
    Ok((field.trim().to_owned(), value.to_owned()))
}

/// Builds a configuration and logs what looks like a mistake in it.
pub(crate) fn build(builder: ConfigBuilder) -> Result<Config, Failure> {
    let config = builder.build()?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    Ok(config)
}
