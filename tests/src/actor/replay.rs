//! Requests of a workload: for each the prefix that is there is loaded, and the rest is stored.

use std::time::Duration;

use hicache_cli::workload::{Request, Synthetic, SyntheticConfig, TraceReader};
use hicache_core::PageKey;
use hicache_testkit::numbered_key;
use serde_json::{Value, json};

use super::commands::Actor;
use super::pages::{BATCH, Counts, Got, Page};
use super::{Commands, Problem};
use crate::scenarios::dice::Dice;

/// Options of the command: `trace=<file>`, or `seed=<n>` and `conversations=<n>` of a made-up workload; `requests=<n>`, and `pause_us=<n>`, up to
/// which it waits at random before each request. With `for_ever=1` it is played again and again, with other pages each
/// time, until another command waits.
#[derive(Debug, Default)]
struct Options {
    trace: Option<String>,
    seed: u64,
    requests: usize,
    conversations: u64,
    pause_us: u64,
    for_ever: bool,
}

impl Options {
    fn read(words: &[&str]) -> Result<Self, Problem> {
        let SyntheticConfig { seed, conversations, .. } = SyntheticConfig::default();
        let mut options = Self { seed, conversations, requests: usize::MAX, ..Self::default() };
        for word in words {
            match word.split_once('=').ok_or_else(|| format!("{word:?} is not <name>=<value>"))? {
                ("trace", path) => options.trace = Some(path.to_owned()),
                ("seed", seed) => options.seed = seed.parse()?,
                ("requests", requests) => options.requests = requests.parse()?,
                ("conversations", conversations) => options.conversations = conversations.parse()?,
                ("pause_us", pause) => options.pause_us = pause.parse()?,
                ("for_ever", flag) => options.for_ever = flag == "1",
                (name, _) => return Err(format!("replay has no option {name:?}").into()),
            }
        }
        Ok(options)
    }

    fn workload(&self) -> Result<Vec<Request>, Problem> {
        Ok(match &self.trace {
            Some(path) => TraceReader::open(path)?.take(self.requests).collect::<Result<_, _>>()?,
            None => {
                let default = SyntheticConfig::default();
                let requests = default.requests.min(self.requests as u64);
                let Self { seed, conversations, .. } = *self;
                Synthetic::new(SyntheticConfig { seed, requests, conversations, ..default })?.collect()
            }
        })
    }
}

/// Plays it, and answers how long a prefix each request found.
pub(super) async fn replay(actor: &mut Actor, words: &[&str], more: &mut Commands) -> Result<Value, Problem> {
    let options = Options::read(words)?;
    let requests = options.workload()?;
    let mut dice = Dice::new(actor.arguments.seed);
    let (mut counts, mut hits, mut pages) = (Counts::default(), Vec::new(), 0);
    let mut round = 0;
    loop {
        for request in &requests {
            if options.pause_us > 0 {
                std::thread::sleep(Duration::from_micros(dice.below(options.pause_us)));
            }
            if options.for_ever && more.waiting() {
                return Ok(answer(&counts, pages, &hits));
            }
            pages += request.blocks.len();
            hits.push(serve(actor, request, round, &mut counts).await?);
        }
        round += 1;
        if !options.for_ever {
            return Ok(answer(&counts, pages, &hits));
        }
    }
}

fn answer(counts: &Counts, pages: usize, hits: &[usize]) -> Value {
    let mut answer = counts.json();
    answer["requests"] = json!(hits.len());
    answer["pages"] = json!(pages);
    answer["hit_pages"] = json!(hits.iter().sum::<usize>());
    answer["hits"] = json!(hits);
    answer
}

async fn serve(
    actor: &mut Actor,
    request: &Request,
    round: u64,
    counts: &mut Counts,
) -> Result<usize, Problem> {
    // An id stands for its block and everything before it, as a page hash does.
    let bytes = actor.arguments.page_bytes;
    let number = |block: &u64| (1 << 40) + (round << 32) + block;
    let pages: Vec<Page> =
        request.blocks.iter().map(|block| Page { number: number(block), version: 0, bytes }).collect();
    let keys: Vec<PageKey> = pages.iter().map(|page| numbered_key(page.number)).collect();
    let there = actor.storage.exists(&keys).await?.iter().take_while(|there| **there).count();
    let mut loaded = 0;
    while loaded < there {
        let part = &pages[loaded..there.min(loaded + BATCH)];
        let got = actor.memory.load(part, |_| 0..1).await?;
        counts.add_got(&got);
        actor.versions(part, &got)?;
        let right = got.iter().take_while(|got| matches!(got, Got::Version(_))).count();
        loaded += right;
        if right < part.len() {
            break;
        }
    }
    for part in pages[loaded..].chunks(BATCH) {
        counts.add_outcomes(&actor.memory.store(part, false).await?);
    }
    Ok(loaded)
}
