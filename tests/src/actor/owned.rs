//! Keys with a history: their owner changes them, and whoever loads them knows which versions there may be.

use std::cell::RefCell;
use std::ops::Range;
use std::time::Duration;

use hicache_core::{Outcome, PageKey};
use hicache_testkit::numbered_key;
use serde_json::{Value, json};

use super::Problem;
use super::commands::Actor;
use super::pages::{Counts, Got, Page};
use super::random::shared_pages;
use crate::history::{History, Known};

/// Numbers of keys with a history begin here.
const FIRST: u64 = 1 << 32;
/// Keys that follow each other and have one owner. A load of so many is one batch.
pub(super) const BLOCK: u64 = 64;

/// For how long a page may be missed.
const MOMENTS: u32 = 10;
const MOMENT: Duration = Duration::from_millis(20);

/// What an owner does to its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Store,
    Delete,
}

impl Actor {
    fn owned_pages(&self, keys: Range<u64>) -> Vec<Page> {
        let bytes = self.arguments.page_bytes;
        keys.map(|key| Page { number: FIRST + key, version: 0, bytes }).collect()
    }

    fn history(&self) -> Result<&History, Problem> {
        self.history.as_ref().ok_or_else(|| "this actor has no --history".into())
    }

    /// Loads at most a block of keys: none is older than what was answered before, and none is lost.
    pub(super) async fn load_owned(
        &mut self,
        keys: Range<u64>,
        counts: &mut Counts,
    ) -> Result<Vec<i64>, Problem> {
        let pages = self.owned_pages(keys.clone());
        let before = self.history()?.look(keys.clone())?;
        // What may be found is known only when the load has been answered: it is looked up at the first comparison.
        let after: RefCell<Option<std::io::Result<Vec<Known>>>> = RefCell::default();
        let history = self.history.take().ok_or("this actor has no --history")?;
        let got = self
            .memory
            .load(&pages, |page| {
                let mut after = after.borrow_mut();
                let known = after.get_or_insert_with(|| history.look(keys.clone()));
                let index = (page.number - FIRST - keys.start) as usize;
                let begun = known.as_ref().map_or(0, |known| known[index].begun);
                (1..=u64::from(begun)).rev()
            })
            .await;
        let now = history.look(keys.clone());
        self.history = Some(history);
        let (got, now) = (got?, now?);
        counts.add_got(&got);
        let mut missing = Vec::new();
        for (((page, got), before), now) in pages.iter().zip(&got).zip(&before).zip(&now) {
            let (may_lose, key) = (self.arguments.may_lose, page.number - FIRST);
            match got {
                Got::Version(version)
                    if *version < u64::from(before.floor()) && !self.arguments.may_be_stale =>
                {
                    self.finding(format!("STALE: version {version} of key {key}, {before:?}"))?;
                }
                Got::Absent if before.must_be_there() && before == now && !may_lose => {
                    missing.push((key, *before))
                }
                Got::Corrupt if !may_lose => self.finding(format!("CORRUPT: key {key}, {before:?}"))?,
                _ => {}
            }
        }
        for (key, known) in missing {
            self.look_again(key, known, counts).await?;
        }
        self.versions(&pages, &got)
    }

    /// A page that must be there may be missed for a moment, while the set of a killed process is taken over. Not for
    /// longer.
    async fn look_again(&mut self, key: u64, known: Known, counts: &mut Counts) -> Result<(), Problem> {
        for _ in 0..MOMENTS {
            std::thread::sleep(MOMENT);
            let pages = self.owned_pages(key..key + 1);
            let got = self.memory.load(&pages, |_| [known.answered.into()]).await?;
            let unchanged = self.history()?.look(key..key + 1)?[0] == known;
            if !unchanged || !matches!(got[..], [Got::Absent]) {
                if unchanged {
                    counts.missed_for_a_moment += 1;
                    self.versions(&pages, &got)?;
                }
                return Ok(());
            }
        }
        self.finding(format!("LOST: key {key}, {known:?}"))
    }

    /// Changes keys of one block of its own.
    pub(super) async fn change(
        &mut self,
        keys: Range<u64>,
        change: Change,
        counts: &mut Counts,
    ) -> Result<(), Problem> {
        let versions = self.history()?.begin(keys.clone())?;
        let outcomes = match change {
            Change::Store => {
                let mut pages = self.owned_pages(keys.clone());
                for (page, version) in pages.iter_mut().zip(versions) {
                    page.version = version.into();
                }
                self.memory.store(&pages, true).await?
            }
            Change::Delete => {
                let names: Vec<PageKey> = keys.clone().map(|key| numbered_key(FIRST + key)).collect();
                self.storage.delete(&names).await?
            }
        };
        let deleted = change == Change::Delete;
        let good = |outcome: &Outcome| outcome.is_done() || deleted && matches!(outcome, Outcome::Absent);
        let good: Vec<bool> = outcomes.iter().map(good).collect();
        self.history()?.answered(keys, deleted, &good)?;
        counts.add_outcomes(&outcomes);
        Ok(())
    }

    /// Clears the namespace.
    pub(super) async fn clear_owned(&mut self) -> Result<(), Problem> {
        let owner = self.arguments.owner.ok_or("only an owner clears")?;
        let clearing = self.history()?.begin_clear(owner)?;
        if let Err(error) = self.storage.clear().await {
            self.history()?.settle(owner)?;
            return Err(error.into());
        }
        Ok(self.history()?.cleared(&clearing)?)
    }

    /// Loads every key there can be, and says which version of each is there; -1 for none.
    pub(super) async fn census(&mut self) -> Result<Value, Problem> {
        let (mut counts, mut owned) = (Counts::default(), Vec::new());
        let keys = self.history()?.keys();
        for first in (0..keys).step_by(BLOCK as usize) {
            owned.extend(self.load_owned(first..keys.min(first + BLOCK), &mut counts).await?);
        }
        let pages = shared_pages(&self.arguments);
        let got = self.memory.load(&pages, |_| 0..super::commands::VERSIONS).await?;
        counts.add_got(&got);
        let shared = self.versions(&pages, &got)?;
        let mut answer = counts.json();
        answer["owned"] = json!(owned);
        answer["shared"] = json!(shared);
        Ok(answer)
    }
}
