//! Test runs whose output is passed on and counted: how many tests passed, and what they went without.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::say;

/// What a machine that runs the gate must have.
const IN_CI: [&str; 3] = ["io_uring", "went without: NIXL,", "went without: SeaweedFS,"];

/// Runs tests, passes their output on, and tells what was skipped: a line of a test that begins with `skipped:` or
/// `went without:`, or pytest's `SKIPPED`. With `CI=true` a backend that should run and does not is a failure.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("{command:?}"))?;
    let output = child.stdout.take().context("no output")?;
    let (mut skipped, mut tests) = (Vec::new(), 0_u64);
    for line in BufReader::new(output).lines() {
        let line = line?;
        if ["skipped:", "went without:", "SKIPPED ["].iter().any(|start| line.trim_start().starts_with(start))
        {
            skipped.push(line.trim().to_owned());
        }
        tests += passed(&line);
        say(&line);
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    if tests == 0 {
        bail!("no test was run");
    }
    say(&format!("{tests} tests passed, {} lines tell of something that was not there:", skipped.len()));
    for line in &skipped {
        say(&format!("  {line}"));
    }
    if in_ci()
        && let Some(line) = skipped.iter().find(|line| IN_CI.iter().any(|backend| line.contains(backend)))
    {
        bail!("in CI this backend must run: {line}");
    }
    Ok(())
}

/// How many tests the last line of a run says have passed: `test result: ok. 12 passed; …` of cargo, and `12 passed, 1
/// skipped in 3.40s` of pytest.
fn passed(line: &str) -> u64 {
    let line = line.strip_prefix("test result: ok. ").unwrap_or(line).trim_matches(['=', ' ']);
    let number = line.split_once(" passed").and_then(|(number, rest)| {
        // Of pytest, which says in what time; a test may print such words too.
        (rest.starts_with(';') || rest.contains(" in ")).then(|| number.parse().ok()).flatten()
    });
    number.unwrap_or(0)
}

/// Whether this is a machine that must have everything.
#[expect(clippy::disallowed_methods, reason = "a tool, not a library; CI says who it is in this way")]
pub(crate) fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

#[cfg(test)]
mod tests {
    use super::passed;

    #[test]
    fn summaries() {
        assert_eq!(passed("test result: ok. 12 passed; 0 failed; 1 ignored; finished in 0.02s"), 12);
        assert_eq!(passed("184 passed, 2 skipped in 3.40s"), 184);
        assert_eq!(passed("===== 7 passed in 61.00s (0:01:01) ====="), 7);
        assert_eq!(passed("1 failed, 7 passed in 2.00s"), 0, "the run has failed anyway");
        assert_eq!(passed("3 passed over"), 0);
    }
}
