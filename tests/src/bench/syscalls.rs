//! System calls a page, by strace: the difference between one round and three, so that opening and closing do not count.

use std::path::Path;
use std::process::{Command, Stdio};

use super::Problem;
use super::rounds::command;
use super::spec::{Spec, Work};

/// `None` where strace is not there, and for work that has no pages.
pub(super) fn syscalls_a_page(spec: &Spec, ground: &Path) -> Result<Option<f64>, Problem> {
    if !matches!(spec.work, Work::Get | Work::Reuse) {
        return Ok(None);
    }
    let (Some(few), Some(more)) = (count(spec, ground, 1)?, count(spec, ground, 3)?) else {
        return Ok(None);
    };
    Ok(Some(more.saturating_sub(few) as f64 / (2 * spec.round_pages) as f64))
}

fn count(spec: &Spec, ground: &Path, rounds: usize) -> Result<Option<u64>, Problem> {
    let directory = tempfile::tempdir_in(ground)?;
    let summary = directory.path().join("summary");
    let traced = command(&Spec { directory: directory.path().to_owned(), ..spec.clone() })?;
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-o"]).arg(&summary).arg(traced.get_program()).args(traced.get_args());
    strace.args(["--rounds", &rounds.to_string()]);
    let Ok(status) = strace.stdout(Stdio::null()).stderr(Stdio::null()).status() else { return Ok(None) };
    if !status.success() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&summary)?;
    let total = text.lines().find(|line| line.trim_end().ends_with("total"));
    Ok(total.and_then(|line| line.split_whitespace().nth(3)?.parse().ok()))
}
