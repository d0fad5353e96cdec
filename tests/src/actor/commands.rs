//! The commands.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use hicache_core::{PageKey, Storage};
use hicache_testkit::numbered_key;
use serde_json::{Value, json};

use super::pages::{Counts, Got, Memory, Page};
use super::{ActorArguments, Commands, Problem, open, random, replay};
use crate::history::History;

/// Versions that pages without a history can have.
pub(super) const VERSIONS: u64 = 64;
/// Pages of a listing that are asked for at once.
const LISTED: usize = 1000;

/// The process: a store, memory for it, and where it says what is wrong.
pub(super) struct Actor {
    pub(super) arguments: ActorArguments,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) memory: Memory,
    pub(super) history: Option<History>,
    findings: Option<File>,
    /// Wrong, stale and lost pages since the last answer.
    found: Vec<String>,
}

impl Actor {
    pub(super) async fn open(arguments: ActorArguments) -> Result<Self, Problem> {
        let history = match &arguments.history {
            Some(path) => Some(History::open(path, arguments.keys, arguments.owners)?),
            None => None,
        };
        if let (Some(history), Some(owner)) = (&history, arguments.owner) {
            history.settle(owner)?;
        }
        let findings = match &arguments.findings {
            Some(path) => Some(OpenOptions::new().append(true).create(true).open(path)?),
            None => None,
        };
        let storage = open::open(&arguments).await?;
        let memory = Memory::new(&storage, 4 * arguments.page_bytes)?;
        Ok(Self { arguments, storage, memory, history, findings, found: Vec::new() })
    }

    pub(super) async fn close(self) -> Result<(), Problem> {
        Ok(self.storage.close().await?)
    }

    /// Notes a page that is not as it must be: at once, for this process may be killed.
    pub(super) fn finding(&mut self, text: String) -> Result<(), Problem> {
        if let Some(file) = &mut self.findings {
            file.write_all(format!("pid {}: {text}\n", std::process::id()).as_bytes())?;
        }
        self.found.push(text);
        Ok(())
    }

    /// Does one command. A problem is one of the whole command; what becomes of pages is in the answer.
    pub(super) async fn obey(&mut self, command: &str, more: &mut Commands) -> Result<Value, Problem> {
        let words: Vec<&str> = command.split_whitespace().collect();
        let mut answer = match &words[..] {
            ["store", from, to] => self.store(range(from, to)?, 0, false).await,
            ["store", from, to, version] => self.store(range(from, to)?, version.parse()?, false).await,
            ["overwrite", from, to, version] => self.store(range(from, to)?, version.parse()?, true).await,
            ["load", from, to] => self.load(range(from, to)?).await,
            ["exists", from, to] => {
                let there = self.storage.exists(&keys(range(from, to)?)).await?;
                Ok(json!({ "there": there.iter().filter(|there| **there).count() }))
            }
            ["delete", from, to] => self.delete(range(from, to)?).await,
            ["clear"] => Ok(json!({ "cleared": self.storage.clear().await? })),
            ["list"] => self.list().await,
            ["stat"] => self.stat(),
            ["census"] => self.census().await,
            ["fill", from] => self.fill(from.parse()?).await,
            ["random", seconds, seed, clears] => {
                random::random(self, seconds.parse()?, seed.parse()?, clears.parse()?, more).await
            }
            ["replay", options @ ..] => replay::replay(self, options, more).await,
            ["nothing"] => Ok(json!({})),
            ["close"] => {
                self.storage.close().await?;
                Ok(json!({ "closed": true }))
            }
            _ => Err(format!("no such command: {command:?}").into()),
        }?;
        answer["wrong"] = json!(std::mem::take(&mut self.found));
        Ok(answer)
    }

    fn pages(&self, numbers: Range<u64>, version: u64) -> Vec<Page> {
        numbers.map(|number| Page { number, version, bytes: self.arguments.page_bytes }).collect()
    }

    async fn store(&mut self, numbers: Range<u64>, version: u64, overwrite: bool) -> Result<Value, Problem> {
        if version >= VERSIONS {
            return Err(format!("version {version}; {VERSIONS} are the most").into());
        }
        let mut counts = Counts::default();
        counts.add_outcomes(&self.memory.store(&self.pages(numbers, version), overwrite).await?);
        Ok(counts.json())
    }

    async fn load(&mut self, numbers: Range<u64>) -> Result<Value, Problem> {
        let pages = self.pages(numbers, 0);
        let got = self.memory.load(&pages, |_| 0..VERSIONS).await?;
        let mut counts = Counts::default();
        counts.add_got(&got);
        let versions = self.versions(&pages, &got)?;
        let mut answer = counts.json();
        answer["versions"] = json!(versions);
        Ok(answer)
    }

    /// The version of each page, or -1; notes wrong ones.
    pub(super) fn versions(&mut self, pages: &[Page], got: &[Got]) -> Result<Vec<i64>, Problem> {
        let mut versions = Vec::with_capacity(got.len());
        for (page, got) in pages.iter().zip(got) {
            versions.push(if let Got::Version(version) = got { *version as i64 } else { -1 });
            if let Got::Wrong = got {
                self.finding(format!("WRONG bytes in page {}", page.number))?;
            }
        }
        Ok(versions)
    }

    async fn delete(&mut self, numbers: Range<u64>) -> Result<Value, Problem> {
        let mut counts = Counts::default();
        counts.add_outcomes(&self.storage.delete(&keys(numbers)).await?);
        Ok(counts.json())
    }

    pub(super) async fn list(&mut self) -> Result<Value, Problem> {
        let (mut names, mut pages, mut cursor) = (HashSet::new(), 0_u64, None);
        loop {
            let listing = self.storage.list("", cursor.as_ref(), LISTED).await?;
            pages += listing.pages.len() as u64;
            names.extend(listing.pages.into_iter().map(|page| (page.pool, page.name)));
            cursor = listing.next;
            if cursor.is_none() {
                return Ok(json!({ "pages": pages, "different": names.len() }));
            }
        }
    }

    fn stat(&self) -> Result<Value, Problem> {
        Ok(json!({ "stat": self.storage.stat(), "owner": self.arguments.owner }))
    }

    /// Stores new pages, from this number on, until pages are evicted for them or none is taken; answers how many.
    async fn fill(&mut self, from: u64) -> Result<Value, Problem> {
        const STEP: u64 = 64;
        let (mut counts, mut next) = (Counts::default(), from);
        let before = self.storage.stat().evicted_pages;
        // What a full store evicts for a while is what was there before.
        let mut evicting = 0;
        while evicting < 64 && counts.failed == 0 && next - from < 1 << 20 {
            let pages = self.pages(next..next + STEP, 0);
            counts.add_outcomes(&self.memory.store(&pages, false).await?);
            next += STEP;
            evicting += u64::from(self.storage.stat().evicted_pages > before);
        }
        let mut answer = counts.json();
        answer["next"] = json!(next);
        answer["pages"] = json!(self.storage.stat().pages);
        Ok(answer)
    }
}

fn range(from: &str, to: &str) -> Result<Range<u64>, Problem> {
    Ok(from.parse()?..to.parse()?)
}

fn keys(numbers: Range<u64>) -> Vec<PageKey> {
    numbers.map(numbered_key).collect()
}
