//! A store that is open and has nothing to do.

use std::fs;
use std::time::Duration;

use super::Competitor;
use super::store::{Bench, Way};
use crate::bench::Problem;
use crate::bench::measure::{Measure, Stopwatch};
use crate::bench::spec::Spec;

/// How long it is watched in a round.
const WATCHED: Duration = Duration::from_secs(2);

/// A store that has stored and loaded, and waits.
pub(super) struct Idle {
    bench: Bench,
}

impl Idle {
    pub(super) fn prepare(spec: &Spec) -> Result<Self, Problem> {
        let mut bench = Bench::open(spec, spec.pages * 2)?;
        bench.fill(spec.pages)?;
        bench.batches(&[(Way::Load, (0..spec.batch as u64).collect())])?;
        // Segments that were only opened for a while are closed meanwhile.
        std::thread::sleep(WATCHED);
        Ok(Self { bench })
    }
}

/// How often the threads of this process but the one that asks have gone to sleep, after they were woken.
fn wake_ups() -> Result<u64, Problem> {
    let own = rustix::thread::gettid().as_raw_nonzero().to_string();
    let mut sum = 0;
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?;
        if task.file_name().to_str() == Some(&own) {
            continue;
        }
        let status = fs::read_to_string(task.path().join("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += line.ok_or("no context switches in a thread's status")?.trim().parse::<u64>()?;
    }
    Ok(sum)
}

impl Competitor for Idle {
    fn round(&mut self) -> Result<Measure, Problem> {
        let before = wake_ups()?;
        let watch = Stopwatch::start();
        std::thread::sleep(WATCHED);
        let mut measure = watch.stop(0, self.bench.spec.pages);
        let woken = (wake_ups()? - before) as f64 / measure.seconds;
        measure.figures.insert("wake_ups_per_s".to_owned(), woken);
        Ok(measure)
    }
}
