//! Pages: loads and stores.

use std::time::{Duration, Instant};

use hicache_core::{
    Access, Completion, Direction, Error, ErrorKind, Outcome, PageBatch, PageMemory, PageRequest, Result,
    StoreOptions,
};

use super::super::format::{self, HEAD_BYTES, Wrong};
use super::super::shared::count;
use super::super::wire::NotBegun;
use super::exists::no_answer;
use super::job::{Chain, Job, Moving, Work};
use super::{Driver, Purpose};

/// How often a page is moved before it has failed.
const TRIES: u32 = 2;

impl Driver {
    pub(super) fn take_load(&mut self, requests: Vec<PageRequest>, completion: Completion<PageBatch>) {
        let jobs = self.jobs(requests, Work::Load, completion);
        self.ready.extend(jobs);
    }

    pub(super) fn take_store(
        &mut self,
        requests: Vec<PageRequest>,
        options: StoreOptions,
        completion: Completion<PageBatch>,
    ) {
        let work = Work::Store { overwrite: options.overwrite };
        for job in self.jobs(requests, work, completion) {
            // One store a key at a time, in their order.
            match self.stores.get_mut(&job.key) {
                Some(chain) if chain.hangs => self.hangs_before(&job),
                Some(chain) => chain.waiting.push_back(job),
                None => {
                    self.stores.insert(job.key, Chain::default());
                    self.start_store(job);
                }
            }
        }
    }

    /// The pages of a call that can be tried; the others are answered.
    fn jobs(
        &mut self,
        requests: Vec<PageRequest>,
        work: Work,
        completion: Completion<PageBatch>,
    ) -> Vec<Job> {
        let config = &self.shared.config;
        let limit_ms = if work == Work::Load { config.load_timeout_ms } else { config.store_timeout_ms };
        let left = Duration::from_millis(limit_ms);
        let keys: Vec<_> = requests.iter().map(|request| request.key).collect();
        let checked: Vec<(usize, Result<()>)> =
            requests.iter().map(|r| (r.memory.bytes(), self.check(&r.memory, work))).collect();
        let memory = requests.into_iter().map(|request| request.memory).collect();
        let places = self.batches.open(memory, completion);
        let mut jobs = Vec::with_capacity(places.len());
        for ((place, key), (bytes, checked)) in places.into_iter().zip(keys).zip(checked) {
            match checked {
                Err(error) => self.batches.finish(place, Outcome::Failed(error)),
                Ok(()) => {
                    let object = self.shared.names.page(&key);
                    jobs.push(Job { place, key, object, bytes, work, left, tries: 0 });
                }
            }
        }
        jobs
    }

    fn check(&self, memory: &PageMemory, work: Work) -> Result<()> {
        if memory.owner() != self.shared.owner {
            return Err(Error::config("the memory is registered with another storage"));
        }
        if work == Work::Load && memory.access() != Access::Write {
            return Err(Error::config("a load needs memory leased for writing"));
        }
        if !self.staging.fits(HEAD_BYTES.saturating_add(memory.bytes())) {
            return Err(Error::config(format!(
                "a page of {} bytes is over nixl_obj.staging_bytes = {}; set that higher",
                memory.bytes(),
                self.shared.config.staging_bytes
            )));
        }
        Ok(())
    }

    fn start_store(&mut self, job: Job) {
        let replaces = job.work == Work::Store { overwrite: true } || self.bad.contains(&job.key);
        if replaces {
            self.ready.push_back(job);
        } else {
            let object = job.object.clone();
            self.ask(object, Purpose::BeforeStore(job));
        }
    }

    /// Refuses what waits and would be refused when its turn comes; whether something was.
    pub(super) fn refuse_ready(&mut self) -> bool {
        let now = Instant::now();
        let (loads, stores) = (self.breakers.loads.refuses(now), self.breakers.stores.refuses(now));
        let is_refused = |job: &Job| if job.work == Work::Load { loads } else { stores };
        if !(loads || stores) || !self.ready.iter().any(is_refused) {
            return false;
        }
        let (refused, ready) = std::mem::take(&mut self.ready).into_iter().partition::<Vec<_>, _>(is_refused);
        self.ready = ready.into();
        refused.into_iter().for_each(|job| self.refuse(job));
        true
    }

    /// Begins to move the next page; whether there may be another one.
    pub(super) fn begin_next(&mut self) -> bool {
        let Some(mut job) = self.ready.pop_front() else { return false };
        if !self.breaker(job.work).admit(Instant::now()) {
            self.refuse(job);
            return true;
        }
        let buffer = match self.staging.take(job.object_bytes(), &mut *self.wire) {
            Ok(Some(buffer)) => buffer,
            Ok(None) if self.moving.iter().any(|moving| !moving.overdue) => {
                self.ready.push_front(job);
                return false;
            }
            Ok(None) => {
                // Nothing gives one back.
                let message = "transfers that do not end have all of nixl_obj.staging_bytes";
                let error = job.error(ErrorKind::Unavailable, message);
                self.end(job, Some(Outcome::Failed(error)));
                return true;
            }
            Err(error) => {
                let error =
                    job.error(error.kind(), "there is no memory for the page's object").with_source(error);
                self.end(job, Some(Outcome::Failed(error)));
                return true;
            }
        };
        job.tries += 1;
        match self.fill(&job, &buffer) {
            Ok(memory) => {
                let direction = if job.work == Work::Load { Direction::Read } else { Direction::Write };
                let since = Instant::now();
                match self.wire.begin(direction, &job.object, memory) {
                    Ok(flight) => {
                        self.moving.push(Moving { job, flight, buffer, since, overdue: false });
                    }
                    Err(not_begun) => {
                        let NotBegun { error, memory } = *not_begun;
                        self.let_go(buffer, memory);
                        if let Some(job) = self.moved(job, None, Err(error)) {
                            self.ready.push_back(job);
                        }
                    }
                }
            }
            Err(error) => {
                self.staging.give_back(buffer);
                self.end(job, Some(Outcome::Failed(error)));
            }
        }
        true
    }

    /// Memory for the job's object, with the page in it if it is to be stored.
    fn fill(&mut self, job: &Job, buffer: &super::super::staging::Buffer) -> Result<PageMemory> {
        let mut staged = buffer.lease(job.object_bytes())?;
        let lost = || Error::new(ErrorKind::Unexpected, "the memory of a page is gone");
        let page = self.batches.memory(job.place).ok_or_else(lost)?;
        let object = staged.bytes_mut().next().ok_or_else(lost)??;
        match job.work {
            Work::Load => format::blank(object),
            Work::Store { .. } => {
                page.copy_to(&mut object[HEAD_BYTES..])?;
                format::seal(object, &job.object);
            }
        }
        Ok(staged)
    }

    fn let_go(&mut self, buffer: super::super::staging::Buffer, memory: Option<PageMemory>) {
        match memory {
            Some(memory) => {
                drop(memory);
                self.staging.give_back(buffer);
            }
            None => self.staging.lose(buffer),
        }
    }

    /// Looks at what moves; whether something has ended.
    pub(super) fn poll(&mut self) -> bool {
        let mut ended = Vec::new();
        let mut at = 0;
        while at < self.moving.len() {
            match self.moving[at].flight.poll() {
                Some(result) => ended.push((self.moving.swap_remove(at), result)),
                None => at += 1,
            }
        }
        let any = !ended.is_empty();
        for (Moving { mut job, flight, buffer, since, overdue }, result) in ended {
            let memory = flight.finish();
            job.left = job.left.saturating_sub(since.elapsed());
            let job = match overdue {
                false => self.moved(job, memory.as_ref(), result),
                true => {
                    if result.is_ok() {
                        self.breaker(job.work).succeeded(); // Late, but the store answers.
                    }
                    self.end(job, None);
                    None
                }
            };
            self.let_go(buffer, memory);
            // With its buffer given back, so that a second try has one.
            if let Some(job) = job {
                self.ready.push_front(job);
            }
        }
        any
    }

    /// The object has been moved, or not; the job, if it is to be moved again.
    fn moved(&mut self, job: Job, memory: Option<&PageMemory>, result: Result<()>) -> Option<Job> {
        match (job.work, result) {
            (Work::Load, Ok(())) => return self.loaded(job, memory),
            (Work::Load, Err(error)) => {
                let object = job.object.clone();
                self.ask(object, Purpose::AfterLoad(job, error));
            }
            (Work::Store { .. }, Ok(())) => {
                self.breakers.stores.succeeded();
                self.bad.remove(&job.key);
                count(&self.shared.counts.stored_pages, 1);
                count(&self.shared.counts.written_bytes, job.bytes as u64);
                self.end(job, Some(Outcome::Done));
            }
            (Work::Store { .. }, Err(error)) => {
                self.breakers.store_failed(Instant::now());
                if job.tries < TRIES {
                    return Some(job);
                }
                let message = format!("{} does not take the page", self.shared.place());
                let error = job.error(ErrorKind::Io, message).with_source(error);
                self.end(job, Some(Outcome::Failed(error)));
            }
        }
        None
    }

    fn loaded(&mut self, job: Job, memory: Option<&PageMemory>) -> Option<Job> {
        self.breakers.loads.succeeded();
        let object = memory.and_then(PageMemory::contiguous).unwrap_or_default();
        let outcome = match format::verify(object, &job.object) {
            Ok(()) => {
                let copied = match self.batches.memory(job.place) {
                    Some(page) => page.copy_from(&object[HEAD_BYTES..]),
                    None => Ok(()),
                };
                match copied {
                    Ok(()) => {
                        count(&self.shared.counts.hit_pages, 1);
                        count(&self.shared.counts.read_bytes, job.bytes as u64);
                        Outcome::Done
                    }
                    Err(error) => Outcome::Failed(error),
                }
            }
            Err(Wrong::Length(length)) => Outcome::Failed(
                job.error(ErrorKind::Config, "the page was stored with another length")
                    .with_bytes(job.bytes as u64, length),
            ),
            // What came may have been cut on the way.
            Err(_) if job.tries < TRIES => return Some(job),
            Err(wrong) => {
                count(&self.shared.counts.corrupt_pages, 1);
                self.bad.insert(job.key);
                let message = match wrong {
                    Wrong::Head => format!("object {:?} is not the page that its name says", job.object),
                    _ => format!("object {:?} is not what was stored: short, or changed", job.object),
                };
                Outcome::Failed(job.error(ErrorKind::Corrupt, message))
            }
        };
        self.end(job, Some(outcome));
        None
    }

    /// An answer of the store about a page's object.
    pub(super) fn page_known(&mut self, purpose: Purpose, there: Result<bool>) {
        let (mut job, failed) = match purpose {
            Purpose::BeforeStore(job) => (job, None),
            Purpose::AfterLoad(job, error) => (job, Some(error)),
            Purpose::Exists { .. } => return,
        };
        match (failed, there) {
            (None, Ok(true)) => {
                count(&self.shared.counts.present_pages, 1);
                self.end(job, Some(Outcome::Done));
            }
            (None, Ok(false)) => self.ready.push_back(job),
            (Some(_), Ok(false)) => {
                // It was answered: there is nothing to load.
                self.breakers.loads.succeeded();
                count(&self.shared.counts.missed_pages, 1);
                self.end(job, Some(Outcome::Absent));
            }
            // It is there: what failed may have passed.
            (Some(_), Ok(true)) if job.tries < TRIES => self.ready.push_front(job),
            (Some(error), Ok(true)) => {
                self.breakers.load_failed(Instant::now());
                job.tries += 1;
                let message = format!("object {:?} is there and can't be read", job.object);
                let error = job.error(ErrorKind::Io, message).with_source(error);
                self.end(job, Some(Outcome::Failed(error)));
            }
            (failed, Err(error)) => {
                if failed.is_some() {
                    self.breakers.load_failed(Instant::now());
                }
                let message = format!("{} does not answer", self.shared.place());
                let error = job.error(no_answer(&error), message).with_source(error);
                self.end(job, Some(Outcome::Failed(error)));
            }
        }
    }

    /// The breaker is open: nothing is tried.
    pub(super) fn refuse(&mut self, job: Job) {
        count(&self.shared.counts.refused_pages, 1);
        let message = format!("{} has failed and is left alone for a while", self.shared.place());
        let error = job.error(ErrorKind::Unavailable, message);
        self.end(job, Some(Outcome::Failed(error)));
    }

    /// A page has ended, and the next store of its key can begin. Without an outcome: it was answered before.
    pub(super) fn end(&mut self, job: Job, outcome: Option<Outcome>) {
        if let Some(outcome) = outcome {
            self.answer(&job, outcome);
        }
        if job.work == Work::Load {
            return;
        }
        if let Some(chain) = self.stores.get_mut(&job.key) {
            chain.hangs = false;
            match chain.waiting.pop_front() {
                None => drop(self.stores.remove(&job.key)),
                Some(next) => self.start_store(next),
            }
        }
    }

    fn answer(&mut self, job: &Job, outcome: Outcome) {
        if outcome.error().is_some_and(|error| error.kind() != ErrorKind::Corrupt) {
            count(&self.shared.counts.failed_pages, 1);
        }
        self.batches.finish(job.place, outcome);
    }

    /// A store that may not overtake one that hangs.
    fn hangs_before(&mut self, job: &Job) {
        let error = job.error(ErrorKind::Timeout, "an earlier store of the key has not ended yet");
        self.answer(job, Outcome::Failed(error));
    }

    /// Gives callers their memory back whose pages are over their time.
    pub(super) fn expire_pages(&mut self, now: Instant) {
        for at in 0..self.moving.len() {
            let moving = &mut self.moving[at];
            if moving.overdue || now.saturating_duration_since(moving.since) < moving.job.left {
                continue;
            }
            moving.overdue = true;
            let (job, error) = (&moving.job, "the object store did not answer in time");
            let (place, key) = (job.place, (job.work != Work::Load).then_some(job.key));
            let error = job.error(ErrorKind::Timeout, error);
            count(&self.shared.counts.failed_pages, 1);
            let work = job.work;
            self.batches.finish(place, Outcome::Failed(error));
            match work {
                Work::Load => self.breakers.load_failed(now),
                Work::Store { .. } => self.breakers.store_failed(now),
            }
            if let Some(chain) = key.and_then(|key| self.stores.get_mut(&key)) {
                chain.hangs = true;
                let waiting = std::mem::take(&mut chain.waiting);
                waiting.iter().for_each(|job| self.hangs_before(job));
            }
        }
    }
}
