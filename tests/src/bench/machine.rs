//! Where it was measured.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

use super::Problem;

/// What decides the figures.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    kernel: String,
    cores: usize,
    memory_bytes: u64,
    file_system: String,
    huge_pages: String,
    load: String,
}

impl Machine {
    pub(super) fn look(ground: &Path) -> Result<Self, Problem> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let meminfo = read("/proc/meminfo");
        let kib = meminfo.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
        let stat = Command::new("stat").args(["--file-system", "--format=%T"]).arg(ground).output()?;
        Ok(Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            memory_bytes: kib << 10,
            file_system: String::from_utf8_lossy(&stat.stdout).trim().to_owned(),
            huge_pages: chosen(&read("/sys/kernel/mm/transparent_hugepage/enabled")),
            load: read("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" "),
        })
    }
}

/// The word in brackets.
fn chosen(text: &str) -> String {
    text.split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or("none", |(word, _)| word)
        .to_owned()
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "kernel {}, {} cores, {} GiB, {}, huge pages: {}, load at the beginning: {}",
            self.kernel,
            self.cores,
            self.memory_bytes >> 30,
            self.file_system,
            self.huge_pages,
            self.load
        )
    }
}
