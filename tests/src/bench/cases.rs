//! What is measured, against what, and how good it must be.

use super::competitors::has_fio;
use super::spec::{Kind, Spec, Work};

/// How a figure of ours is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    /// Bytes a second, ours over the other's.
    Throughput,
    /// Seconds of a round, ours over the other's.
    Time,
    /// CPU seconds a gigabyte, of ours alone.
    Cpu,
    /// A figure of ours alone, by name.
    Own(&'static str),
    /// A figure by name, ours over the other's.
    Ratio(&'static str),
}

/// What must be reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bar {
    pub(super) figure: Figure,
    /// At least this; of times, costs and latencies at most.
    pub(super) limit: f64,
}

impl Bar {
    /// Whether less is better.
    pub(super) fn is_cost(&self) -> bool {
        match self.figure {
            Figure::Time | Figure::Cpu => true,
            Figure::Own(name) | Figure::Ratio(name) => name.ends_with("_ms") || name == "wake_ups_per_s",
            Figure::Throughput => false,
        }
    }
}

/// A competitor, and what it is called in the table.
#[derive(Clone, Debug)]
pub(super) struct Entrant {
    pub(super) name: &'static str,
    pub(super) spec: Spec,
}

/// Ours, the one that the bar is against, and others.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) entrants: Vec<Entrant>,
    pub(super) bars: Vec<Bar>,
    /// Whether the competitors have one directory, not one each: two files of the same kind on the same disk can differ by
    /// more than what is compared.
    pub(super) shared: bool,
}

impl Case {
    /// Drops the competitors without this in their names, and the bars if the one that they are against goes.
    pub(super) fn keep_beside(&mut self, name: &str) {
        let against = self.entrants.get(1).map(|entrant| entrant.name);
        let mut number = 0;
        self.entrants.retain(|entrant| {
            number += 1;
            number == 1 || entrant.name.contains(name)
        });
        if self.entrants.get(1).map(|entrant| entrant.name) != against {
            self.bars.clear();
        }
    }
}

const MIB: usize = 1 << 20;
const BATCH: usize = 128;
const PAGES: [(&str, usize); 3] = [("64K", 64 << 10), ("512K", 512 << 10), ("2M", 2 * MIB)];
/// Bytes of a pool, and of a round.
const POOL_BYTES: u64 = 2 << 30;
const ROUND_BYTES: u64 = 1 << 30;
/// The same where it is only to be seen that everything works.
const SMALL: u64 = 16;

fn spec(work: Work, page_bytes: usize, in_flight: usize) -> Spec {
    let pages = POOL_BYTES / page_bytes as u64;
    Spec {
        kind: Kind::Store,
        work,
        page_bytes,
        pages,
        round_pages: ROUND_BYTES / page_bytes as u64,
        batch: BATCH,
        in_flight,
        depth: 64,
        pieces: 1,
        direct: true,
        huge: true,
        verify: true,
        scattered: true,
        directory: std::path::PathBuf::new(),
    }
}

fn beside(ours: &Spec, others: &[(&'static str, Kind)]) -> Vec<Entrant> {
    let mut entrants = vec![Entrant { name: "hicache", spec: ours.clone() }];
    for &(name, kind) in others {
        // The raw ring is a limit: it does not compare what it reads, unless that is what is asked.
        let verify = ours.verify && !ours.direct;
        entrants.push(Entrant { name, spec: Spec { kind, verify, pieces: 1, ..ours.clone() } });
    }
    entrants
}

const RAW: (&str, Kind) = ("raw ring", Kind::RawRing);
const FILES: (&str, Kind) = ("file a page", Kind::Files);
const LINKED: (&str, Kind) = ("file a page, linked", Kind::LinkedFiles);

fn case(name: String, ours: &Spec, others: &[(&'static str, Kind)], bars: &[Bar]) -> Case {
    // Who reads and writes at once would read what the raw ring has written.
    let shared = matches!(ours.work, Work::Get | Work::Reuse);
    Case { name, entrants: beside(ours, others), bars: bars.to_vec(), shared }
}

fn at_least(limit: f64) -> Bar {
    Bar { figure: Figure::Throughput, limit }
}

/// All of them, with small pools: for tests. What they measure says nothing.
pub(super) fn small() -> Vec<Case> {
    let mut cases = all();
    for spec in cases.iter_mut().flat_map(|case| &mut case.entrants).map(|entrant| &mut entrant.spec) {
        let least = (spec.batch * spec.in_flight) as u64;
        spec.batch /= 8;
        spec.pages = (spec.pages / SMALL).max(least);
        spec.round_pages = (spec.round_pages / SMALL).max(least);
    }
    cases
}

/// All of them.
pub(super) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for (size, bytes) in PAGES {
        cases.extend(direct(size, bytes));
    }
    for in_flight in [1, 4] {
        let ours = Spec { scattered: false, ..spec(Work::Get, 64 << 10, in_flight) };
        cases.push(case(format!("get direct 64K x{in_flight}, as stored"), &ours, &[RAW], &[]));
    }
    for depth in [8, 16, 32, 128] {
        let ours = Spec { depth, ..spec(Work::Get, 512 << 10, 4) };
        cases.push(case(format!("get direct 512K x4, {depth} deep"), &ours, &[RAW], &[]));
    }
    for (size, bytes) in PAGES {
        let hot = Spec { direct: false, ..spec(Work::Get, bytes, 1) };
        cases.push(case(format!("get hot {size}"), &hot, &[RAW, FILES], &[at_least(0.9)]));
    }
    let half = 512 << 10;
    let small_pages = Spec { huge: false, ..spec(Work::Get, half, 4) };
    cases.push(case("get direct 512K on 4 KiB memory".to_owned(), &small_pages, &[RAW], &[]));
    let two = Spec { pieces: 2, ..spec(Work::Get, half, 4) };
    cases.push(case("get direct 512K, keys and values apart".to_owned(), &two, &[RAW], &[at_least(0.9)]));
    let layers = Spec { pieces: 64, ..spec(Work::Get, half, 4) };
    cases.push(case("get direct 512K in 64 pieces".to_owned(), &layers, &[RAW], &[]));
    cases.push(case("mixed direct 512K".to_owned(), &spec(Work::Mixed, half, 4), &[RAW], &[]));
    cases.extend([under_writes(), exists(), open(), hashes(), memory(), idle()]);
    cases
}

/// Past the page cache, on huge pages, one batch at a time and four.
fn direct(size: &str, bytes: usize) -> Vec<Case> {
    let cpu = (bytes >= 512 << 10).then_some(Bar { figure: Figure::Cpu, limit: 0.06 });
    let reuse = if bytes < 512 << 10 { 0.85 } else { 0.88 };
    let mut cases = Vec::new();
    for in_flight in [1, 4] {
        let bars = |limit| [at_least(limit)].into_iter().chain(cpu).collect::<Vec<_>>();
        let one = |work| spec(work, bytes, in_flight);
        let name = |what: &str| format!("{what} direct {size} x{in_flight}");
        let peers = |work| if in_flight == 1 { instead(work) } else { vec![RAW] };
        for (what, work, limit) in [
            ("get", Work::Get, 0.93),
            ("set, reuse", Work::Reuse, reuse),
            ("set, first fill", Work::FirstFill, 0.85),
        ] {
            cases.push(case(name(what), &one(work), &peers(work), &bars(limit)));
        }
    }
    cases
}

/// Those that somebody would use instead, as far as they are here.
fn instead(work: Work) -> Vec<(&'static str, Kind)> {
    let mut peers = vec![RAW, FILES, LINKED];
    if work != Work::FirstFill && has_fio() {
        peers.push(("fio", Kind::Fio));
    }
    #[cfg(feature = "foyer")]
    if work == Work::Get {
        peers.push(("foyer", Kind::Foyer));
    }
    peers
}

fn under_writes() -> Case {
    let writing = spec(Work::LatencyUnderWrites, 512 << 10, 3);
    let quiet = Entrant { name: "nobody writes", spec: Spec { work: Work::Latency, ..writing.clone() } };
    Case {
        name: "get 512K while evicting at full write load".to_owned(),
        entrants: vec![Entrant { name: "hicache", spec: writing }, quiet],
        bars: vec![Bar { figure: Figure::Ratio("p99_ms"), limit: 2.0 }],
        shared: false,
    }
}

fn exists() -> Case {
    let ours = Spec { pages: 100_000, ..spec(Work::Exists, 4096, 1) };
    let figure = Figure::Own("million_keys_per_s");
    case("exists, 10,000 keys a call".to_owned(), &ours, &[], &[Bar { figure, limit: 5.0 }])
}

fn open() -> Case {
    let ours = Spec { pages: 1_000_000, ..spec(Work::Open, 4096, 4) };
    let bars = [Bar { figure: Figure::Time, limit: 10.0 }];
    let case = case("open, a million pages".to_owned(), &ours, &[("cat of the index", Kind::Cat)], &bars);
    Case { shared: true, ..case }
}

/// What of the CPU a verified page costs on any store.
fn memory() -> Case {
    let ours = Spec { kind: Kind::Checksum, pages: 1024, ..spec(Work::Hash, 512 << 10, 1) };
    let others = [("bringing it to the processor", Kind::Reading)];
    case("checksum of memory that no cache holds".to_owned(), &ours, &others, &[])
}

fn idle() -> Case {
    let ours = Spec { pages: 512, ..spec(Work::Idle, 64 << 10, 1) };
    let bar = Bar { figure: Figure::Own("wake_ups_per_s"), limit: 0.0 };
    case("idle".to_owned(), &ours, &[], &[bar])
}

fn hashes() -> Case {
    let ours = Spec { kind: Kind::PageHash, round_pages: 200_000, ..spec(Work::Hash, 4096, 1) };
    let others = [("bare SHA-256", Kind::Sha256)];
    case("hash pages of 64 tokens".to_owned(), &ours, &others, &[at_least(0.9)])
}
