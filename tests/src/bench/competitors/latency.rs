//! How long a batch of reads takes while others write as much as they can, and while nobody does.

use std::time::Instant;

use futures::future::{Either, select};

use super::Competitor;
use super::order::Order;
use super::store::{Bench, Way};
use crate::bench::Problem;
use crate::bench::measure::{Measure, Stopwatch, quantile};
use crate::bench::spec::{Spec, Work};

/// Batches of a round.
const BATCHES: usize = 100;

/// One lane reads, all others write.
pub(super) struct Latency {
    bench: Bench,
    order: Order,
}

impl Latency {
    pub(super) fn prepare(spec: &Spec) -> Result<Self, Problem> {
        let mut bench = Bench::open(spec, spec.pages)?;
        // Full, every slot written: what comes now takes the place of something. The pages that are read are used all the
        // time, so it is others that go.
        bench.fill(spec.pages * 3 / 2)?;
        Ok(Self { bench, order: Order::shuffled(spec.pages) })
    }

    /// Pages that are there: written anew if they were evicted meanwhile.
    fn readable(&mut self) -> Result<Vec<u64>, Problem> {
        let numbers = self.order.take(self.bench.spec.batch);
        self.bench.batches(&[(Way::Store, numbers.clone())])?;
        Ok(numbers)
    }
}

impl Competitor for Latency {
    fn round(&mut self) -> Result<Measure, Problem> {
        let Spec { work, batch, in_flight, page_bytes, .. } = self.bench.spec;
        let lists: Vec<Vec<u64>> = (0..4).map(|_| self.readable()).collect::<Result<_, _>>()?;
        let mut written = 0;
        let fresh: Vec<Vec<u64>> = (0..BATCHES * in_flight * 8).map(|_| self.bench.fresh(batch)).collect();
        let mut fresh = fresh.into_iter();
        let bench = &self.bench;
        let mut seconds = Vec::with_capacity(BATCHES);
        let watch = Stopwatch::start();
        bench.runtime.block_on(async {
            let mut writes: Vec<_> = Vec::new();
            for number in 0..BATCHES {
                let began = Instant::now();
                let mut read = Box::pin(bench.batch(Way::Load, 0, &lists[number % lists.len()])?);
                loop {
                    if work == Work::LatencyUnderWrites {
                        while writes.len() + 1 < in_flight {
                            let lane = free_lane(&writes, in_flight);
                            let Some(numbers) = fresh.next() else { break };
                            writes.push((lane, Box::pin(bench.batch(Way::Store, lane, &numbers)?)));
                        }
                    }
                    if writes.is_empty() {
                        read.await?;
                        break;
                    }
                    let one = futures::future::select_all(writes.iter_mut().map(|(_, write)| write.as_mut()));
                    match select(read, one).await {
                        Either::Left((done, _)) => {
                            done?;
                            break;
                        }
                        Either::Right(((done, at, _), still)) => {
                            done?;
                            drop(writes.swap_remove(at));
                            written += batch;
                            read = still;
                        }
                    }
                }
                seconds.push(began.elapsed().as_secs_f64());
            }
            for (_, write) in writes {
                write.await?;
            }
            Ok::<(), Problem>(())
        })?;
        let pages = (BATCHES * batch) as u64;
        let mut measure = watch.stop(pages * page_bytes as u64, pages);
        measure.figures.insert("p50_ms".to_owned(), 1e3 * quantile(&mut seconds, 0.5));
        measure.figures.insert("p99_ms".to_owned(), 1e3 * quantile(&mut seconds, 0.99));
        measure.figures.insert("written_gigabytes".to_owned(), (written * page_bytes) as f64 / 1e9);
        Ok(measure)
    }
}

fn free_lane<T>(writes: &[(usize, T)], lanes: usize) -> usize {
    (1..lanes).find(|lane| writes.iter().all(|(taken, _)| taken != lane)).unwrap_or(0)
}
