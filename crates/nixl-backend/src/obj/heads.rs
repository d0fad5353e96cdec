//! Threads that ask which objects are there: the plugin blocks until it knows.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use hicache_core::{Error, ErrorKind, Result};

use super::driver::Message;
use super::wire::Heads;

/// Objects of one question, each with the number that its answer goes by.
pub(crate) type Question = Vec<(u64, String)>;

/// The threads. They end when this is dropped, each after what it is asking.
#[derive(Debug)]
pub(crate) struct HeadThreads {
    questions: Sender<Question>,
    threads: usize,
    under_way: usize,
}

impl HeadThreads {
    pub(crate) fn start(heads: Vec<Box<dyn Heads>>, answers: &Sender<Message>) -> Result<Self> {
        let (questions, receiver) = channel::<Question>();
        let receiver = Arc::new(Mutex::new(receiver));
        let threads = heads.len();
        for mut heads in heads {
            let (receiver, answers) = (Arc::clone(&receiver), answers.clone());
            let ask = move || {
                while let Some(question) = next(&receiver) {
                    let (numbers, objects): (Vec<u64>, Vec<String>) = question.into_iter().unzip();
                    let answer = heads.heads(&objects);
                    if answers.send(Message::Heads { numbers, answer }).is_err() {
                        return;
                    }
                }
            };
            thread::Builder::new().name("hicache-nixl-head".into()).spawn(ask).map_err(|error| {
                Error::new(ErrorKind::Unavailable, "no threads for the object store").with_source(error)
            })?;
        }
        Ok(Self { questions, threads, under_way: 0 })
    }

    /// How many questions can be asked at once.
    pub(crate) fn free(&self) -> usize {
        self.threads.saturating_sub(self.under_way)
    }

    pub(crate) fn ask(&mut self, question: Question) {
        self.under_way += 1;
        // They end only after this.
        let _ = self.questions.send(question);
    }

    pub(crate) fn answered(&mut self) {
        self.under_way -= 1;
    }
}

fn next(receiver: &Mutex<Receiver<Question>>) -> Option<Question> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}
