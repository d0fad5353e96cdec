//! A workload made up from a seed: multi-turn conversations that share system prompts.
//!
//! The demo and the tests need a workload that is always there, runs in seconds and whose hits are known without asking
//! a cache. A conversation sends its whole history at each turn, so a turn finds every page of the turn before it; its
//! first turn finds the system prompt if any conversation has used that one. Nothing else is shared. So the figures
//! are counted from what the generator does, and a replay with room for everything must give exactly these.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::RangeInclusive;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::request::BLOCK_TOKENS;
use super::{Request, WorkloadError};

/// Tokens of a system prompt: 1 to 4 pages.
const SYSTEM_TOKENS: RangeInclusive<u64> = 512..=2_559;
/// Tokens that a user adds at a turn: a question, or a document.
const MESSAGE_TOKENS: RangeInclusive<u64> = 512..=4_608;
/// Tokens of an answer.
const ANSWER_TOKENS: RangeInclusive<u64> = 64..=1_024;
/// Milliseconds that an answer takes, per token.
const ANSWER_MS_PER_TOKEN: u64 = 20;
/// One turn in so many asks for another answer to the same prompt, which then is stored to its end.
const ASKED_AGAIN_ONE_IN: u64 = 16;

/// What decides a synthetic workload. Equal values give equal requests, on every machine and in every later version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyntheticConfig {
    /// Start of the random numbers.
    pub seed: u64,
    /// Requests to generate. 0 is a workload of none.
    pub requests: u64,
    /// Conversations alive at once; as one ends, another takes its place. 1 to 10,000.
    pub conversations: u64,
    /// Different system prompts, the first ones in more demand. 1 to 10,000.
    pub system_prompts: u64,
    /// Most turns of a conversation; each has 1 to this many. 1 to 64.
    pub turns: u64,
    /// Mean time between an answer and the next turn, in milliseconds. 0 to 86,400,000 (a day).
    pub think_time_ms: u64,
}

impl Default for SyntheticConfig {
    /// 2,000 requests over half an hour: 26,582 pages, 59 % of them hits, and 10,966 different ones, so under 1 GiB with
    /// pages of 64 KiB.
    fn default() -> Self {
        Self {
            seed: 1,
            requests: 2_000,
            conversations: 48,
            system_prompts: 12,
            turns: 4,
            think_time_ms: 30_000,
        }
    }
}

/// What a store that forgets nothing answers to the requests generated so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Requests.
    pub requests: u64,
    /// Pages over all requests.
    pub pages: u64,
    /// Different pages.
    pub unique_pages: u64,
    /// Pages found stored.
    pub hit_pages: u64,
}

/// Generates a synthetic workload, request by request in order of time.
///
/// Only whole blocks of a prompt are pages: the rest of it changes with the next turn. Block ids count up from 0 in the
/// order in which they first occur.
#[derive(Debug)]
pub struct Synthetic {
    config: SyntheticConfig,
    random: ChaCha8Rng,
    prompts: Vec<SystemPrompt>,
    conversations: Vec<Conversation>,
    /// When each conversation goes on, and its index; the index decides between equal times.
    due: BinaryHeap<Reverse<(u64, usize)>>,
    expected: Expected,
}

/// Instructions that many conversations begin with.
#[derive(Debug)]
struct SystemPrompt {
    tokens: u64,
    /// Its whole blocks; `None` until a conversation uses it.
    blocks: Option<Vec<u64>>,
}

/// A conversation that is alive.
#[derive(Debug, Default)]
struct Conversation {
    /// Everything said up to the last question.
    prompt_tokens: u64,
    /// The last answer, part of the next prompt.
    answer_tokens: u64,
    /// The whole blocks of the prompt.
    blocks: Vec<u64>,
    /// Turns still to come; at 0 the next one begins another conversation.
    turns_left: u64,
}

impl Synthetic {
    /// Prepares the workload that `config` describes.
    ///
    /// # Errors
    ///
    /// [`WorkloadError::Parameter`] where a value is out of the range that its field names.
    pub fn new(config: SyntheticConfig) -> Result<Self, WorkloadError> {
        for (name, value, least, most) in [
            ("conversations", config.conversations, 1, 10_000),
            ("system_prompts", config.system_prompts, 1, 10_000),
            ("turns", config.turns, 1, 64),
            ("think_time_ms", config.think_time_ms, 0, 86_400_000),
        ] {
            if !(least..=most).contains(&value) {
                return Err(WorkloadError::Parameter { name, value, least, most });
            }
        }
        // Seeded and drawn from by hand: the conveniences of `rand` may draw otherwise in a later version.
        let mut seed = *b"________hicache synthetic work 1";
        seed[..8].copy_from_slice(&config.seed.to_le_bytes());
        let mut random = ChaCha8Rng::from_seed(seed);
        let prompts = (0..config.system_prompts)
            .map(|_| SystemPrompt { tokens: draw(&mut random, SYSTEM_TOKENS), blocks: None })
            .collect();
        let due = (0..config.conversations as usize)
            .map(|index| Reverse((draw(&mut random, 0..=2 * config.think_time_ms), index)))
            .collect();
        let conversations = (0..config.conversations).map(|_| Conversation::default()).collect();
        Ok(Self { config, random, prompts, conversations, due, expected: Expected::default() })
    }

    /// The figures of the requests handed out so far; of the whole workload once the iterator is at its end.
    pub fn expected(&self) -> Expected {
        self.expected
    }

    /// Begins another conversation at `index`. Returns how many of its blocks an earlier one has brought.
    fn begin(&mut self, index: usize) -> usize {
        // The smaller of two draws: the first prompts are in most demand.
        let last = self.config.system_prompts - 1;
        let choice = draw(&mut self.random, 0..=last).min(draw(&mut self.random, 0..=last));
        let turns = draw(&mut self.random, 1..=self.config.turns);
        let message_tokens = draw(&mut self.random, MESSAGE_TOKENS);

        let prompt = &mut self.prompts[choice as usize];
        let known = prompt.blocks.as_ref().map_or(0, Vec::len);
        let unique_pages = &mut self.expected.unique_pages;
        let shared = prompt.blocks.get_or_insert_with(|| {
            let mut blocks = Vec::new();
            extend(&mut blocks, prompt.tokens, unique_pages);
            blocks
        });
        self.conversations[index] = Conversation {
            prompt_tokens: prompt.tokens + message_tokens,
            answer_tokens: 0,
            blocks: shared.clone(),
            turns_left: turns,
        };
        known
    }

    /// Goes on with the conversation at `index`. Returns how many of its blocks it has brought before: all.
    fn go_on(&mut self, index: usize) -> usize {
        let asked_again = draw(&mut self.random, 1..=ASKED_AGAIN_ONE_IN) == 1;
        let message_tokens = draw(&mut self.random, MESSAGE_TOKENS);
        let conversation = &mut self.conversations[index];
        if !asked_again {
            conversation.prompt_tokens += conversation.answer_tokens + message_tokens;
        }
        conversation.blocks.len()
    }
}

impl Iterator for Synthetic {
    type Item = Request;

    fn next(&mut self) -> Option<Request> {
        if self.expected.requests >= self.config.requests {
            return None;
        }
        let Reverse((now, index)) = self.due.pop()?;
        let known =
            if self.conversations[index].turns_left == 0 { self.begin(index) } else { self.go_on(index) };

        let answer_tokens = draw(&mut self.random, ANSWER_TOKENS);
        let think_time_ms = draw(&mut self.random, 0..=2 * self.config.think_time_ms);
        let next = now.saturating_add(answer_tokens * ANSWER_MS_PER_TOKEN + think_time_ms);
        self.due.push(Reverse((next, index)));

        let conversation = &mut self.conversations[index];
        extend(&mut conversation.blocks, conversation.prompt_tokens, &mut self.expected.unique_pages);
        conversation.answer_tokens = answer_tokens;
        conversation.turns_left -= 1;

        self.expected.requests += 1;
        self.expected.pages += conversation.blocks.len() as u64;
        self.expected.hit_pages += known as u64;
        // At most 64 turns of some 5,000 tokens: far from the end of 32 bits.
        Some(Request {
            timestamp_ms: now,
            input_tokens: conversation.prompt_tokens as u32,
            output_tokens: answer_tokens as u32,
            blocks: conversation.blocks.clone(),
        })
    }
}

/// Appends new blocks until `blocks` holds every whole block of `tokens`. New ids follow the `used` ones, which are
/// counted up.
fn extend(blocks: &mut Vec<u64>, tokens: u64, used: &mut u64) {
    let missing = (tokens / u64::from(BLOCK_TOKENS)).saturating_sub(blocks.len() as u64);
    blocks.extend(*used..*used + missing);
    *used += missing;
}

/// A number of `range`, each about equally likely: the upper half of a 128-bit product, one draw a number.
fn draw(random: &mut ChaCha8Rng, range: RangeInclusive<u64>) -> u64 {
    let count = u128::from(range.end() - range.start()) + 1;
    range.start() + ((u128::from(random.next_u64()) * count) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Summary, summarize};

    fn generate(config: SyntheticConfig) -> (Vec<Request>, Expected) {
        let mut synthetic = Synthetic::new(config).unwrap();
        let requests = synthetic.by_ref().collect();
        (requests, synthetic.expected())
    }

    fn assert_known(config: SyntheticConfig) -> Summary {
        let (requests, expected) = generate(config);
        let summary = summarize(&requests);
        let Summary { requests, pages, unique_pages, hit_pages, chain_breaks, .. } = summary;
        assert_eq!(expected, Expected { requests, pages, unique_pages, hit_pages }, "{config:?}");
        assert_eq!((requests, chain_breaks), (config.requests, 0), "{config:?}");
        summary
    }

    #[test]
    fn the_figures_are_what_a_set_says() {
        let default = SyntheticConfig::default();
        assert_known(default);
        for seed in 0..20 {
            assert_known(SyntheticConfig { seed, requests: 300 + seed, ..default });
        }
        for config in [
            SyntheticConfig { requests: 0, ..default },
            SyntheticConfig { requests: 1, ..default },
            SyntheticConfig { conversations: 1, ..default },
            SyntheticConfig { conversations: 10_000, ..default },
            SyntheticConfig { system_prompts: 1, ..default },
            SyntheticConfig { system_prompts: 10_000, ..default },
            SyntheticConfig { turns: 1, ..default },
            SyntheticConfig { turns: 64, requests: 500, ..default },
            SyntheticConfig { think_time_ms: 0, ..default },
            SyntheticConfig { think_time_ms: 86_400_000, ..default },
        ] {
            assert_known(config);
        }
    }

    #[test]
    fn the_default_fits_a_demo() {
        let summary = assert_known(SyntheticConfig::default());
        let ratio = summary.hit_pages as f64 / summary.pages as f64;
        assert!((20_000..30_000).contains(&summary.pages), "{summary:?}");
        assert!((0.35..0.60).contains(&ratio), "{ratio} of {summary:?}");
        assert!(summary.unique_pages * (64 << 10) < 1 << 30, "{summary:?}");
    }

    #[test]
    fn what_was_handed_out_is_what_is_counted() {
        let mut synthetic = Synthetic::new(SyntheticConfig::default()).unwrap();
        assert_eq!(synthetic.expected(), Expected::default());
        let some: Vec<Request> = synthetic.by_ref().take(100).collect();
        let summary = summarize(&some);
        assert_eq!(synthetic.expected().hit_pages, summary.hit_pages);
        assert_eq!(synthetic.expected().unique_pages, summary.unique_pages);
        assert!(some.is_sorted_by_key(|request| request.timestamp_ms));
    }

    #[test]
    fn some_prompts_are_asked_again_and_conversations_interleave() {
        let (requests, _) = generate(SyntheticConfig::default());
        let again = requests.iter().enumerate().filter(|(index, request)| {
            requests[..*index].iter().any(|earlier| earlier.blocks == request.blocks)
        });
        assert!(again.count() > 20);
        let in_a_row = requests.windows(2).filter(|pair| pair[1].blocks.starts_with(&pair[0].blocks)).count();
        assert!(in_a_row < requests.len() / 10, "{in_a_row}");
    }

    #[test]
    fn parameters_out_of_range_are_refused_by_name() {
        let default = SyntheticConfig::default();
        for (config, words) in [
            (SyntheticConfig { conversations: 0, ..default }, "conversations is 0; give 1 to 10000"),
            (SyntheticConfig { system_prompts: 10_001, ..default }, "system_prompts is 10001"),
            (SyntheticConfig { turns: 65, ..default }, "turns is 65; give 1 to 64"),
            (SyntheticConfig { think_time_ms: u64::MAX, ..default }, "think_time_ms is 18446744073709551615"),
        ] {
            let error = Synthetic::new(config).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(error.line(), None);
        }
    }

    /// FNV-1a over every number of every request: enough to notice any change.
    fn digest(requests: &[Request]) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for request in requests {
            let fixed = [
                request.timestamp_ms,
                u64::from(request.input_tokens),
                u64::from(request.output_tokens),
                request.blocks.len() as u64,
            ];
            for byte in fixed.iter().chain(&request.blocks).flat_map(|number| number.to_le_bytes()) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        hash
    }

    #[test]
    fn the_output_is_the_same_for_ever() {
        let (requests, expected) = generate(SyntheticConfig::default());
        assert_eq!(
            expected,
            Expected { requests: 2_000, pages: 26_582, unique_pages: 10_966, hit_pages: 15_616 }
        );
        assert_eq!(digest(&requests), 0xa004_1ffc_d707_34ba);
        let (other, _) = generate(SyntheticConfig { seed: 2, ..SyntheticConfig::default() });
        assert_ne!(digest(&other), digest(&requests));
    }
}
