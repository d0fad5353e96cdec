//! Which objects are there.

use std::time::{Duration, Instant};

use hicache_core::{Error, ErrorKind, PageKey, Result};
use tokio::sync::oneshot;

use super::super::NAME;
use super::super::shared::count;
use super::{Driver, Purpose};

/// Keys that are asked for together at first; then twice as many each time.
const FIRST_WINDOW: usize = 8;

/// A call of exists that is not answered yet.
pub(super) struct Asking {
    keys: Vec<PageKey>,
    /// Whether what comes after the first miss does not matter.
    prefix: bool,
    answers: Vec<Option<bool>>,
    /// Keys that have been asked for.
    asked: usize,
    window: usize,
    under_way: usize,
    deadline: Instant,
    reply: oneshot::Sender<Result<Vec<bool>>>,
}

impl Asking {
    fn is_answered(&self) -> bool {
        let misses = || self.answers[..self.asked].contains(&Some(false));
        self.under_way == 0 && (self.asked == self.keys.len() || (self.prefix && misses()))
    }

    fn answer(self) {
        let known = self.answers.into_iter().map(|answer| answer.unwrap_or(false));
        // Nobody may be waiting.
        let _ = self.reply.send(Ok(known.collect()));
    }
}

impl Driver {
    pub(super) fn take_exists(
        &mut self,
        keys: Vec<PageKey>,
        prefix: bool,
        reply: oneshot::Sender<Result<Vec<bool>>>,
    ) {
        let deadline = Instant::now() + Duration::from_millis(self.shared.config.load_timeout_ms);
        let answers = vec![None; keys.len()];
        let window = if prefix { FIRST_WINDOW } else { keys.len() };
        let asking = Asking { keys, prefix, answers, asked: 0, window, under_way: 0, deadline, reply };
        self.next_call += 1;
        self.asking.insert(self.next_call, asking);
        self.ends_at(deadline);
        self.ask_window(self.next_call);
    }

    /// Asks for the next keys of a call, or answers it.
    fn ask_window(&mut self, call: u64) {
        let Some(asking) = self.asking.get_mut(&call) else { return };
        if asking.is_answered() {
            if let Some(asking) = self.asking.remove(&call) {
                asking.answer();
            }
            return;
        }
        let from = asking.asked;
        asking.asked = (from + asking.window).min(asking.keys.len());
        asking.window *= 2;
        asking.under_way = asking.asked - from;
        let keys = asking.keys[from..asking.asked].to_vec();
        for (index, key) in (from..).zip(keys) {
            // There, but not what was stored: a load would not have it.
            if self.bad.contains(&key) {
                self.exists_known(call, index, Ok(false));
            } else {
                let object = self.shared.names.page(&key);
                self.ask(object, Purpose::Exists { call, index });
            }
        }
    }

    fn exists_known(&mut self, call: u64, index: usize, there: Result<bool>) {
        let Some(asking) = self.asking.get_mut(&call) else { return };
        match there {
            Ok(there) => {
                asking.answers[index] = Some(there);
                asking.under_way -= 1;
                if asking.under_way == 0 {
                    self.ask_window(call);
                }
            }
            Err(error) => self.fail_exists(call, error),
        }
    }

    fn fail_exists(&mut self, call: u64, error: Error) {
        if let Some(asking) = self.asking.remove(&call) {
            let _ = asking.reply.send(Err(error));
        }
    }

    pub(super) fn expire_exists(&mut self, now: Instant) {
        let over: Vec<u64> =
            self.asking.iter().filter(|(_, asking)| now >= asking.deadline).map(|(call, _)| *call).collect();
        for call in over {
            let error =
                Error::new(ErrorKind::Timeout, format!("{} did not answer in time", self.shared.place()));
            self.fail_exists(call, error.with_backend(NAME).with_operation("exists"));
            self.breaker.failed(now);
        }
        if let Some(next) = self.asking.values().map(|asking| asking.deadline).min() {
            self.ends_at(next);
        }
    }

    /// Has an object asked for.
    pub(super) fn ask(&mut self, object: String, purpose: Purpose) {
        self.next_number += 1;
        self.purposes.insert(self.next_number, purpose);
        self.unasked.push_back((self.next_number, object));
    }

    /// Hands what is to be asked for to the threads that are free.
    pub(super) fn ask_next(&mut self) {
        while let Some((number, object)) = self.unasked.pop_front() {
            let is_free = self.heads.free() > 0;
            if !self.is_wanted(number) {
                self.answered(number, Ok(false));
            } else if !is_free && !self.breaker.is_open() {
                return self.unasked.push_front((number, object));
            } else if is_free && self.breaker.admit(Instant::now()) {
                count(&self.shared.counts.heads, 1);
                self.heads.ask(vec![(number, object)]);
            } else {
                // Threads that hang in the plugin are no reason for others to wait.
                self.refuse_question(number);
            }
        }
    }

    /// Whether somebody waits for the answer.
    fn is_wanted(&self, number: u64) -> bool {
        match self.purposes.get(&number) {
            Some(Purpose::BeforeStore(job) | Purpose::AfterLoad(job, _)) => !job.answered,
            Some(Purpose::Exists { call, .. }) => self.asking.contains_key(call),
            None => false,
        }
    }

    fn refuse_question(&mut self, number: u64) {
        match self.purposes.remove(&number) {
            Some(Purpose::BeforeStore(job) | Purpose::AfterLoad(job, _)) => self.refuse(job),
            Some(Purpose::Exists { call, .. }) => {
                count(&self.shared.counts.refused_pages, 1);
                let message = format!("{} has failed and is left alone for a while", self.shared.place());
                let error = Error::new(ErrorKind::Unavailable, message).with_backend(NAME);
                self.fail_exists(call, error.with_operation("exists"));
            }
            None => {}
        }
    }

    pub(super) fn take_heads(&mut self, numbers: Vec<u64>, answer: Result<Vec<bool>>) {
        self.heads.answered();
        match &answer {
            Ok(_) => self.breaker.succeeded(),
            Err(_) => self.breaker.failed(Instant::now()),
        }
        for (at, number) in numbers.into_iter().enumerate() {
            let there = answer.as_ref().map(|answers| answers.get(at).copied().unwrap_or(false));
            self.answered(number, there.map_err(Clone::clone));
        }
    }

    fn answered(&mut self, number: u64, there: Result<bool>) {
        match self.purposes.remove(&number) {
            Some(Purpose::Exists { call, index }) => {
                let place = self.shared.place();
                let failed = |error: Error| {
                    let error = Error::new(ErrorKind::Unavailable, format!("{place} does not answer"))
                        .with_source(error);
                    error.with_backend(NAME).with_operation("exists")
                };
                self.exists_known(call, index, there.map_err(failed));
            }
            Some(purpose) => self.page_known(purpose, there),
            None => {}
        }
    }
}
