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
        let answers = vec![None; keys.len()];
        let window = if prefix { FIRST_WINDOW } else { keys.len() };
        let asking = Asking { keys, prefix, answers, asked: 0, window, under_way: 0, reply };
        self.next_call += 1;
        self.asking.insert(self.next_call, asking);
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

    /// Gives up what was asked for too long ago.
    pub(super) fn expire_questions(&mut self, now: Instant) {
        for number in self.heads.expire(now) {
            self.breakers.question_failed(now);
            self.answered(number, Err(Error::new(ErrorKind::Timeout, "it did not answer in time")));
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
            let (now, is_free) = (Instant::now(), self.heads.free() > 0);
            let Some(limit) = self.time_of(number) else {
                self.purposes.remove(&number); // Nobody waits for the answer.
                continue;
            };
            // The answer would be for nothing: the page would not be stored.
            let in_vain = matches!(self.purposes.get(&number), Some(Purpose::BeforeStore(_)))
                && self.breakers.stores.refuses(now);
            let questions = &mut self.breakers.questions;
            if !is_free && !in_vain && !questions.is_open() && !self.heads.are_stuck() {
                return self.unasked.push_front((number, object));
            }
            if is_free && !in_vain && questions.admit(now) {
                count(&self.shared.counts.heads, 1);
                self.heads.ask(number, object, now, now + limit);
            } else {
                // Threads that hang in the plugin are no reason for others to wait.
                self.refuse_question(number);
            }
        }
    }

    /// How long the answer may take; `None` if nobody waits for it.
    fn time_of(&self, number: u64) -> Option<Duration> {
        match self.purposes.get(&number)? {
            Purpose::BeforeStore(job) | Purpose::AfterLoad(job, _) => Some(job.left),
            Purpose::Exists { call, .. } => self
                .asking
                .contains_key(call)
                .then(|| Duration::from_millis(self.shared.config.load_timeout_ms)),
        }
    }

    fn refuse_question(&mut self, number: u64) {
        match self.purposes.remove(&number) {
            Some(Purpose::BeforeStore(job)) => self.refuse(job),
            Some(Purpose::AfterLoad(job, _)) => {
                // It failed, as far as anybody can tell.
                self.breakers.load_failed(Instant::now());
                self.refuse(job);
            }
            Some(Purpose::Exists { call, .. }) => {
                count(&self.shared.counts.refused_pages, 1);
                let message = format!("{} has failed and is left alone for a while", self.shared.place());
                let error = Error::new(ErrorKind::Unavailable, message).with_backend(NAME);
                self.fail_exists(call, error.with_operation("exists"));
            }
            None => {}
        }
    }

    pub(super) fn take_head(&mut self, number: u64, answer: Result<bool>) {
        let ended = self.heads.answered(number);
        match &answer {
            // Late, too: the store answers.
            Ok(_) => self.breakers.questions.succeeded(),
            Err(_) if ended.overdue => {}
            Err(_) => self.breakers.question_failed(Instant::now()),
        }
        if let Some(Purpose::BeforeStore(job) | Purpose::AfterLoad(job, _)) = self.purposes.get_mut(&number) {
            job.left = job.left.saturating_sub(ended.took);
        }
        self.answered(number, answer);
    }

    fn answered(&mut self, number: u64, there: Result<bool>) {
        match self.purposes.remove(&number) {
            Some(Purpose::Exists { call, index }) => {
                let place = self.shared.place();
                let failed = |error: Error| {
                    let error =
                        Error::new(no_answer(&error), format!("{place} does not answer")).with_source(error);
                    error.with_backend(NAME).with_operation("exists")
                };
                self.exists_known(call, index, there.map_err(failed));
            }
            Some(purpose) => self.page_known(purpose, there),
            None => {}
        }
    }
}

/// What a question that failed makes of what was asked for.
pub(super) fn no_answer(error: &Error) -> ErrorKind {
    match error.kind() {
        ErrorKind::Timeout => ErrorKind::Timeout,
        _ => ErrorKind::Unavailable,
    }
}
