//! The process of a competitor: it prepares, then plays a round for each line that it is sent, and answers with what the
//! round has cost.

use std::io::{BufRead, Write};

use super::Problem;
use super::competitors;
use super::spec::Spec;

pub(super) fn run(spec: &str, rounds: Option<usize>) -> Result<(), Problem> {
    let spec: Spec = serde_json::from_str(spec)?;
    let mut competitor = competitors::prepare(&spec)?;
    if let Some(rounds) = rounds {
        for _ in 0..rounds {
            competitor.round()?;
        }
        return Ok(());
    }
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    for line in std::io::stdin().lock().lines() {
        line?;
        let measure = competitor.round()?;
        writeln!(out, "{}", serde_json::to_string(&measure)?)?;
        out.flush()?;
    }
    Ok(())
}
