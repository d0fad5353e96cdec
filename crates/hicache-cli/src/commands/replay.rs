//! `hicache replay`: plays a workload into a storage and reads it back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use hicache::{Config, Opened, Region, Storage};
use tempfile::TempDir;

use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::policies::{PolicyKind, simulate};
use crate::process_usage::{cpu_time, peak_rss_bytes};
use crate::progress::Progress;
use crate::replay::{
    Acknowledged, BATCH_PAGES, CheckReport, Damage, Lane, Play, ReplayArguments, Report, Restart, Troubles,
    Workload, play, read_acknowledged, read_back,
};

/// The backend that keeps nothing for a restart.
const MEMORY: &str = "memory";

pub(crate) fn run(arguments: &ReplayArguments, output: &mut Output) -> Result<Exit, Failure> {
    if let Some(file) = &arguments.check_acknowledged {
        let report = check(arguments, file)?;
        if arguments.json {
            output.json(&report)?;
        } else {
            report.show(output)?;
        }
        let limited = arguments.config(&arguments.dir)?.settings().capacity_bytes.is_some();
        return Ok(match report {
            _ if report.corrupt > 0 => Exit::Wrong,
            _ if report.failed > 0 => Exit::Failed,
            _ if report.missing > 0 && !limited => Exit::Wrong,
            _ => Exit::Good,
        });
    }
    if arguments.tiers.tiers {
        return super::replay_tiers::run(arguments, output);
    }
    let report = replay(arguments)?;
    if arguments.json {
        output.json(&report)?;
    } else {
        report.show(output)?;
    }
    Ok(report.exit())
}

/// Where the storage is; a temporary directory goes with it.
pub(super) struct Place {
    pub(super) directories: Vec<PathBuf>,
    _temporary: Option<TempDir>,
}

impl Place {
    pub(super) fn new(given: &[PathBuf]) -> Result<Self, Failure> {
        if !given.is_empty() {
            return Ok(Self { directories: given.to_vec(), _temporary: None });
        }
        // A fixed place, since only the facade reads the environment.
        let temporary =
            tempfile::Builder::new().prefix("hicache-replay-").tempdir_in("/tmp").map_err(|error| {
                Failure::failed(format!("no temporary directory under /tmp ({error}); give --dir"))
            })?;
        Ok(Self { directories: vec![temporary.path().to_owned()], _temporary: Some(temporary) })
    }
}

/// A replay under way.
struct Session {
    config: Config,
    page_bytes: usize,
    region: Arc<Region>,
    lanes: usize,
    troubles: Arc<Troubles>,
}

impl Session {
    fn new(config: Config, lanes: usize, longest_request_pages: usize) -> Result<Self, Failure> {
        let page_bytes = usize::try_from(config.settings().page_bytes.unwrap_or_default())
            .map_err(|_| Failure::bad_input("--page-bytes is more than this machine can address"))?;
        let slots = lanes * longest_request_pages.clamp(1, BATCH_PAGES);
        let region = Region::allocate(slots, page_bytes)?;
        Ok(Self { config, page_bytes, region, lanes, troubles: Arc::default() })
    }

    async fn open(&self) -> Result<(Opened, f64), Failure> {
        let begun = Instant::now();
        let opened = hicache::open(&self.config).await?;
        Ok((opened, begun.elapsed().as_secs_f64()))
    }

    /// Registers the memory, once, and deals it out.
    fn lanes(&self, storage: &Arc<dyn Storage>) -> Result<Vec<Lane>, Failure> {
        let registration = storage.register(&self.region)?;
        let share = self.region.slots() / self.lanes;
        let lane = |i| {
            Lane::new(storage, &registration, i * share..(i + 1) * share, self.page_bytes, &self.troubles)
        };
        Ok((0..self.lanes).map(lane).collect())
    }

    fn lane(&self, storage: &Arc<dyn Storage>) -> Result<Lane, Failure> {
        let registration = storage.register(&self.region)?;
        let slots = self.region.slots().min(BATCH_PAGES);
        Ok(Lane::new(storage, &registration, 0..slots, self.page_bytes, &self.troubles))
    }
}

/// Does `work`, closes the storage whatever became of it, and reports the first thing that went wrong.
async fn closing<T>(
    storage: &Arc<dyn Storage>,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let result = tokio::select! {
        result = work => result,
        Ok(()) = tokio::signal::ctrl_c() => {
            let message = "interrupted; what was answered is kept".to_owned();
            Err(Failure { exit: Exit::Interrupted, message })
        }
    };
    let closed = storage.close().await;
    let result = result?;
    closed?;
    Ok(result)
}

fn replay(arguments: &ReplayArguments) -> Result<Report, Failure> {
    let workload = Workload::new(arguments)?;
    let place = Place::new(&arguments.dir)?;
    let config = arguments.config(&place.directories)?;
    let session = Session::new(config, arguments.concurrency, workload.longest_request_pages)?;
    let acknowledged = arguments.acknowledged.as_deref().map(Acknowledged::open).transpose()?;
    // One thread serves one request at a time; several are served by several.
    let helpers = if arguments.concurrency == 1 {
        0
    } else {
        std::thread::available_parallelism().map_or(1, usize::from).min(arguments.concurrency)
    };
    super::runtime(helpers)?.block_on(async {
        let mut report = first_pass(arguments, &session, &workload, &place, acknowledged).await?;
        if !arguments.no_restart && report.backend != MEMORY {
            report.restart = Some(second_pass(&session, &workload).await?);
            report.examples.extend(session.troubles.take());
        }
        report.peak_rss_bytes = peak_rss_bytes();
        if arguments.policies {
            let slots = report.slots.and_then(|slots| usize::try_from(slots).ok()).unwrap_or(usize::MAX);
            let simulated =
                PolicyKind::ALL.map(|kind| (kind.name(), simulate(&workload.requests, slots, kind).into()));
            report.policies = Some(simulated.into());
        }
        Ok(report)
    })
}

async fn first_pass(
    arguments: &ReplayArguments,
    session: &Session,
    workload: &Workload,
    place: &Place,
    acknowledged: Option<Acknowledged>,
) -> Result<Report, Failure> {
    let (Opened { storage, backend, notes, .. }, _) = session.open().await?;
    for note in notes {
        tracing::warn!("{note}");
    }
    let work = async {
        let lanes = session.lanes(&storage)?;
        let (begun, cpu_before) = (Instant::now(), cpu_time());
        let tally = play(Play::new(workload, arguments.speed(), acknowledged), lanes).await?;
        let (seconds, cpu_seconds) = (begun.elapsed().as_secs_f64(), (cpu_time() - cpu_before).as_secs_f64());
        let stat = storage.stat();
        Ok(Report {
            workload: workload.source.clone(),
            directories: place.directories.clone(),
            backend,
            page_bytes: session.page_bytes,
            concurrency: arguments.concurrency,
            capacity_bytes: stat.capacity_bytes,
            slots: stat.slots,
            requests: workload.requests.len() as u64,
            pages: workload.pages,
            unique_pages: workload.unique_pages,
            expected_hit_pages: workload.expected_hit_pages,
            hit_pages: tally.right_pages,
            stored_pages: stat.stored_pages,
            present_pages: stat.present_pages,
            foreign_hit_pages: stat.foreign_hit_pages,
            far_stored_pages: stat.far_stored_pages,
            evicted_pages: stat.evicted_pages,
            corrupt_pages: tally.corrupt_pages,
            undetected_corrupt_pages: tally.undetected_corrupt_pages,
            failed_pages: tally.failed_pages,
            refused_pages: stat.refused_pages,
            breaker_opened: stat.breaker_opened,
            breakers_open: stat.breakers_open,
            bytes_read: stat.read_bytes,
            bytes_written: stat.written_bytes,
            physical_bytes: stat.physical_bytes,
            damage: Damage::from(&stat),
            seconds,
            cpu_seconds,
            peak_rss_bytes: None,
            examples: session.troubles.take(),
            restart: None,
            policies: None,
        })
    };
    let mut report = closing(&storage, work).await?;
    // What was on its way to a far tier got there before the storage was closed.
    report.far_stored_pages = storage.stat().far_stored_pages;
    Ok(report)
}

async fn second_pass(session: &Session, workload: &Workload) -> Result<Restart, Failure> {
    let (Opened { storage, .. }, open_seconds) = session.open().await?;
    let work = async {
        let mut lane = session.lane(&storage)?;
        let begun = Instant::now();
        let progress = Progress::new("read back", workload.unique_pages, "pages");
        let read = read_back(&mut lane, workload.unique_keys(), &progress).await?;
        Ok(Restart { open_seconds, seconds: begun.elapsed().as_secs_f64(), read })
    };
    closing(&storage, work).await
}

fn check(arguments: &ReplayArguments, file: &Path) -> Result<CheckReport, Failure> {
    let keys = read_acknowledged(file)?;
    let session = Session::new(arguments.config(&arguments.dir)?, 1, BATCH_PAGES)?;
    super::runtime(0)?.block_on(async {
        let (Opened { storage, .. }, open_seconds) = session.open().await?;
        let damage = Damage::from(&storage.stat());
        let work = async {
            let mut lane = session.lane(&storage)?;
            let progress = Progress::new("check", keys.len() as u64, "pages");
            read_back(&mut lane, keys.into_iter(), &progress).await
        };
        let read = closing(&storage, work).await?;
        Ok(CheckReport {
            acknowledged: read.pages,
            present: read.hit_pages,
            missing: read.missing_pages,
            corrupt: read.corrupt_pages,
            failed: read.failed_pages,
            open_seconds,
            damage,
            examples: session.troubles.take(),
        })
    })
}
