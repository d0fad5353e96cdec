//! What `hicache replay` is asked.

use std::path::PathBuf;

use clap::Args;
use clap::builder::RangedU64ValueParser;
use hicache::{Config, ConfigBuilder, Namespace};

use crate::arguments::ConfigArguments;
use crate::exit::Failure;
use crate::tiers::TierArguments;

const LONG_ABOUT: &str = "\
Play a workload into a storage, compare every byte that comes back, reopen it and read everything again.

A request is a list of block ids; each stands for a page of 512 tokens and everything before it. The key of a page is \
SGLang's page hash, chained over the ids: SHA-256 over the key of the page before it and the id as 4 (or 8) bytes. For \
each request the storage is asked for all its keys; the longest prefix that is there is loaded, 128 pages a call as \
SGLang does, and every byte is compared with what the key demands; the rest is stored. Then the storage is closed and \
opened again, and each different page is loaded once.

With --json one object is printed:
  requests, pages, unique_pages   of the workload
  expected_hit_pages              hits of an empty store with room for everything, one request at a time
  hit_pages                       loaded, and right
  stored_pages, evicted_pages     written to, and taken from, the store
  present_pages                   to be stored, and there already
  foreign_hit_pages               of the hits, those of pages that another process or the far tier had
  far_stored_pages                written to the far tier, with one
  corrupt_pages                   all pages with wrong bytes; of them undetected_corrupt_pages passed as right by the
                                  store and were found by the comparison here
  failed_pages                    not moved, for another reason
  refused_pages, breaker_opened, breakers_open   while the medium was cut off; how often it was, how much of it is
  slots                           pages that fit into the capacity, or null
  bad_records, bad_snapshots, bad_manifests, lost_pages
                                  found damaged, and pages found missing, when the store was opened
  bytes_read, bytes_written, physical_bytes, page_bytes, capacity_bytes
  seconds, cpu_seconds            of playing, without opening and restart; peak_rss_bytes of the process so far
  backend, workload, directories, concurrency, examples (of what went wrong)
  restart                         open_seconds, seconds, pages, hit_pages, corrupt_pages, missing_pages, failed_pages;
                                  null with --no-restart and with the memory backend, which keeps nothing
  policies                        with --policies: by name hit_pages, stored_pages, evicted_pages; else null

With --tiers and --json another object is printed:
  sizes, hits, ideal              pages of the tiers; pages found in each; what an ideal simulation of these sizes finds
  computed_pages, refused_requests, failed_loads
  storage_found_pages             that storage had; hits.storage_pages were there in time
  corrupt_pages, leaked_pages, abandoned_pages, drained
  storage_bytes, loaded_bytes     brought from storage; brought to the device
  first_token_ms                  mean: all, without_storage, device_only, no_cache; as if no request waited for another
  first_token_seen_ms             with --realtime: mean from arrival on by the clock, computing sped up; else null
  concurrency, speed
  seconds, metrics                metrics as Prometheus reads them";

/// Arguments of `hicache replay`.
#[derive(Debug, Args)]
#[command(long_about = LONG_ABOUT)]
pub(crate) struct ReplayArguments {
    /// Replay this trace: one JSON object a line with timestamp, input_length, output_length and hash_ids (Mooncake)
    #[arg(long, value_name = "FILE", help_heading = "Workload")]
    pub(crate) trace: Option<PathBuf>,
    /// Replay made-up conversations that share system prompts (the default without --trace)
    #[arg(long, conflicts_with = "trace", help_heading = "Workload")]
    pub(crate) synthetic: bool,
    /// Seed of the made-up conversations
    #[arg(long, default_value_t = 1, conflicts_with = "trace", help_heading = "Workload")]
    pub(crate) seed: u64,
    /// Only so many requests; of made-up ones exactly so many [default: the whole trace, 2000 made-up ones]
    #[arg(long, value_name = "N", help_heading = "Workload")]
    pub(crate) requests: Option<u64>,
    /// Begin each request at its time, not as soon as there is room
    #[arg(long, help_heading = "Workload")]
    pub(crate) realtime: bool,
    /// With --realtime: so many times as fast; with --tiers computing is, too
    #[arg(long, value_name = "FACTOR", requires = "realtime", value_parser = factor, help_heading = "Workload")]
    pub(crate) speed: Option<f64>,
    /// Requests in flight, at most
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024),
        help_heading = "Workload")]
    pub(crate) concurrency: usize,

    /// Storage directory, which stays; may be repeated, one a disk. Without it a temporary one under /tmp, which does
    /// not stay. The configured storage_dir is never used: it belongs to servers
    #[arg(long, value_name = "DIR", help_heading = "Storage")]
    pub(crate) dir: Vec<PathBuf>,
    /// Backend: auto, or a name that `hicache probe` shows
    #[arg(long, value_name = "NAME", help_heading = "Storage")]
    backend: Option<String>,
    /// Whether files bypass the page cache: direct, buffered or auto
    #[arg(long, value_name = "MODE", help_heading = "Storage")]
    io: Option<String>,
    /// Bytes of a page, such as 65536 or 64KiB
    #[arg(long, value_name = "BYTES", default_value = "65536", help_heading = "Storage")]
    page_bytes: String,
    /// Most bytes taken from the disk, metadata included, such as 3GiB; at the limit pages are evicted
    #[arg(long, value_name = "BYTES", help_heading = "Storage")]
    capacity: Option<String>,
    /// Size of a segment file, such as 64MiB
    #[arg(long, value_name = "BYTES", help_heading = "Storage")]
    segment_bytes: Option<String>,
    /// What a power failure may take: none (nothing is synced) or group (all that was answered is synced)
    #[arg(long, value_name = "MODE", help_heading = "Storage")]
    durability: Option<String>,
    #[command(flatten)]
    config: ConfigArguments,

    /// Do not reopen the storage and read everything again
    #[arg(long, help_heading = "Result")]
    pub(crate) no_restart: bool,
    /// Show beside it what LRU, ARC, S3-FIFO and the optimum would have found with as many slots
    #[arg(long, help_heading = "Result")]
    pub(crate) policies: bool,
    /// Append the 32-byte hash of every stored page to this file, after it was answered Done
    ///
    /// For tests that kill this process at any instant, and look with --check-acknowledged at what survived. Each call's
    /// hashes are appended with one write; a torn tail is cut when the file is opened again.
    #[arg(long, value_name = "FILE", hide_short_help = true, help_heading = "Result")]
    pub(crate) acknowledged: Option<PathBuf>,
    /// Replay nothing: open --dir and load every page that this file names
    ///
    /// Prints `acknowledged`, `present`, `missing`, `corrupt`, `failed`, `open_seconds`, `examples`. Missing pages are an
    /// error (exit code 1) unless there is a capacity, by which they may have been evicted.
    #[arg(
        long,
        value_name = "FILE",
        hide_short_help = true,
        requires = "dir",
        conflicts_with_all = ["trace", "synthetic", "seed", "requests", "realtime", "speed", "concurrency", "no_restart", "policies",
            "acknowledged"],
        help_heading = "Result"
    )]
    pub(crate) check_acknowledged: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tiers: TierArguments,
    /// Print one JSON object
    #[arg(long, help_heading = "Result")]
    pub(crate) json: bool,
}

fn factor(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    (0.001..=1e6)
        .contains(&value)
        .then_some(value)
        .ok_or_else(|| format!("{text} is not from 0.001 to 1000000"))
}

impl ReplayArguments {
    /// How many times as fast as the workload's own time it is played; `None` for as fast as it goes.
    pub(crate) fn speed(&self) -> Option<f64> {
        self.realtime.then(|| self.speed.unwrap_or(1.0))
    }

    /// The configuration of a storage in `directories`.
    ///
    /// The namespace is the model `replay` with the page size: workloads share what they share, since their pages are
    /// made from their keys.
    ///
    /// # Errors
    /// Bad input for what the configuration refuses.
    pub(crate) fn config(&self, directories: &[PathBuf]) -> Result<Config, Failure> {
        let mut namespace = Namespace::new("replay");
        namespace.page_tokens = Some(512);
        let builder = self.builder(directories);
        // Built twice: the size of a page, whatever its unit, is part of the namespace.
        let page_bytes = self.page_bytes(&builder)?;
        namespace.extra.insert("page_bytes".into(), page_bytes.to_string());
        Ok(builder.namespace(&namespace).build()?)
    }

    /// The configuration of the third tier in `directories`, with room for `pages` pages unless a capacity was given.
    ///
    /// # Errors
    /// As [`ReplayArguments::config`].
    pub(crate) fn tier_config(&self, directories: &[PathBuf], pages: u64) -> Result<Config, Failure> {
        let mut builder = self.builder(directories);
        let page_bytes = self.page_bytes(&builder)?;
        let mut namespace = Namespace::new("replay-tiers");
        namespace.extra.insert("page_bytes".into(), page_bytes.to_string());
        if self.capacity.is_none() {
            // Slots, their records, and what a set takes before its first page.
            let slot = page_bytes.next_multiple_of(4096) + 256;
            builder = builder.set("capacity_bytes", (pages * slot + (256 << 10)).to_string());
        }
        Ok(builder.namespace(&namespace).build()?)
    }

    fn page_bytes(&self, builder: &ConfigBuilder) -> Result<u64, Failure> {
        let builder = builder.clone().namespace(&Namespace::new("replay"));
        Ok(builder.build()?.settings().page_bytes.unwrap_or_default())
    }

    fn builder(&self, directories: &[PathBuf]) -> ConfigBuilder {
        let given = [
            ("backend", &self.backend),
            ("io", &self.io),
            ("capacity_bytes", &self.capacity),
            ("segment_bytes", &self.segment_bytes),
            ("durability", &self.durability),
        ];
        let mut builder =
            self.config.builder().storage_dir(directories).set("page_bytes", self.page_bytes.as_str());
        for (field, value) in given {
            if let Some(value) = value {
                builder = builder.set(field, value.as_str());
            }
        }
        builder
    }
}
