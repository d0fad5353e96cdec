//! Round by round, each competitor in turn.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::Serialize;

use super::Problem;
use super::cases::{Bar, Case, Figure};
use super::measure::{Measure, median};
use super::spec::Spec;
use super::syscalls::syscalls_a_page;

/// A competitor's rounds.
#[derive(Debug, Serialize)]
pub(super) struct Played {
    pub(super) name: &'static str,
    pub(super) spec: Spec,
    pub(super) measures: Vec<Measure>,
    /// `None` where nobody could count.
    pub(super) syscalls_a_page: Option<f64>,
}

/// A bar, and what came of it.
#[derive(Debug, Serialize)]
pub(super) struct Judged {
    pub(super) what: String,
    /// One a round, in order.
    pub(super) values: Vec<f64>,
    pub(super) limit: f64,
    pub(super) is_cost: bool,
}

impl Judged {
    pub(super) fn median(&self) -> f64 {
        median(self.values.iter().copied())
    }

    pub(super) fn is_met(&self) -> bool {
        if self.is_cost { self.median() <= self.limit } else { self.median() >= self.limit }
    }
}

/// What a case has come to.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) name: String,
    pub(super) played: Vec<Played>,
    pub(super) judged: Vec<Judged>,
}

impl Outcome {
    /// Whether every bar is met; `None` without one.
    pub(super) fn is_met(&self) -> Option<bool> {
        (!self.judged.is_empty()).then(|| self.judged.iter().all(Judged::is_met))
    }

    /// Ours beside another, round by round: bytes a second.
    pub(super) fn ratios(&self, other: usize) -> Vec<f64> {
        let ours = self.played[0].measures.iter();
        ours.zip(&self.played[other].measures)
            .map(|(ours, other)| ours.gigabytes_a_second() / other.gigabytes_a_second())
            .collect()
    }
}

/// A competitor's process.
struct Turn {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Turn {
    fn start(spec: &Spec) -> Result<Self, Problem> {
        let mut child = command(spec)?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (orders, answers) = (child.stdin.take(), child.stdout.take());
        let (Some(orders), Some(answers)) = (orders, answers) else { return Err("no pipes".into()) };
        let mut turn = Self { child, orders, answers: BufReader::new(answers) };
        match turn.line()?.as_str() {
            "ready" => Ok(turn),
            other => Err(format!("{:?} said {other:?}", spec.kind).into()),
        }
    }

    fn line(&mut self) -> Result<String, Problem> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err(format!("a competitor ended with {}", self.child.wait()?).into());
        }
        Ok(line.trim_end().to_owned())
    }

    fn round(&mut self) -> Result<Measure, Problem> {
        writeln!(self.orders, "round")?;
        let line = self.line()?;
        serde_json::from_str(&line).map_err(|_| line.into())
    }

    fn end(mut self) -> Result<(), Problem> {
        drop(self.orders);
        self.child.wait()?;
        Ok(())
    }
}

/// This program as that competitor.
pub(super) fn command(spec: &Spec) -> Result<Command, Problem> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("child").arg(serde_json::to_string(spec)?);
    Ok(command)
}

/// Plays a case in a directory of its own.
pub(super) fn play(
    case: Case,
    rounds: usize,
    count_syscalls: bool,
    ground: &Path,
) -> Result<Outcome, Problem> {
    let directory = tempfile::tempdir_in(ground)?;
    let mut played = Vec::new();
    let mut turns = Vec::new();
    for (number, entrant) in case.entrants.into_iter().enumerate() {
        let own = directory.path().join(if case.shared { 0 } else { number }.to_string());
        fs::create_dir_all(&own)?;
        let spec = Spec { directory: own, ..entrant.spec };
        turns.push(Turn::start(&spec)?);
        played.push(Played { name: entrant.name, spec, measures: Vec::new(), syscalls_a_page: None });
    }
    // The first round warms up.
    for round in 0..=rounds {
        let mut order: Vec<usize> = (0..turns.len()).collect();
        // Who comes after whom makes a difference too.
        if round % 2 == 1 {
            order.reverse();
        }
        for number in order {
            let measure = turns[number].round()?;
            if round > 0 {
                played[number].measures.push(measure);
            }
        }
    }
    turns.into_iter().try_for_each(Turn::end)?;
    if count_syscalls {
        drop(directory);
        for played in &mut played {
            played.syscalls_a_page = syscalls_a_page(&played.spec, ground)?;
        }
    }
    let judged = case.bars.iter().map(|bar| judge(bar, &played)).collect();
    Ok(Outcome { name: case.name, played, judged })
}

fn judge(bar: &Bar, played: &[Played]) -> Judged {
    let ours = &played[0];
    let other = played.get(1);
    let beside = |of: &dyn Fn(&Measure) -> f64| -> Vec<f64> {
        let other = other.map_or(&[][..], |other| &other.measures);
        ours.measures.iter().zip(other).map(|(ours, other)| of(ours) / of(other)).collect()
    };
    let figure = |name: &str, measure: &Measure| measure.figures.get(name).copied().unwrap_or(f64::NAN);
    let against = other.map_or("", |other| other.name);
    let (what, values) = match bar.figure {
        Figure::Throughput => (format!("of {against}"), beside(&Measure::gigabytes_a_second)),
        Figure::Time => (format!("times {against}"), beside(&|measure| measure.seconds)),
        Figure::Cpu => {
            ("CPU s/GB".to_owned(), ours.measures.iter().map(Measure::cpu_seconds_a_gigabyte).collect())
        }
        Figure::Own(name) => {
            (name.replace('_', " "), ours.measures.iter().map(|measure| figure(name, measure)).collect())
        }
        Figure::Ratio(name) => (format!("{name}, times {against}"), beside(&|measure| figure(name, measure))),
    };
    Judged { what, values, limit: bar.limit, is_cost: bar.is_cost() }
}
