//! fio with its io_uring engine, as somebody who knows the disk would call it.

use std::process::Command;

use serde_json::Value;

use super::Competitor;
use crate::bench::Problem;
use crate::bench::measure::Measure;
use crate::bench::spec::{Spec, Work};

/// Whether there is one.
pub(crate) fn is_installed() -> bool {
    Command::new("fio").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// One call a round, on one file.
pub(super) struct Fio {
    spec: Spec,
}

impl Fio {
    pub(super) fn prepare(spec: &Spec) -> Result<Self, Problem> {
        let fio = Self { spec: spec.clone() };
        // It lays the file out in its first call.
        fio.call()?;
        Ok(fio)
    }

    fn call(&self) -> Result<Value, Problem> {
        let Spec { page_bytes, pages, depth, direct, .. } = self.spec;
        let way = if self.spec.work == Work::Get { "randread" } else { "randwrite" };
        let output = Command::new("fio")
            .args(["--name=bench", "--ioengine=io_uring", "--fixedbufs=1", "--output-format=json"])
            .arg("--filename")
            .arg(self.spec.directory.join("fio"))
            .arg(format!("--rw={way}"))
            .arg(format!("--bs={page_bytes}"))
            .arg(format!("--size={}", pages * page_bytes as u64))
            .arg(format!("--io_size={}", self.spec.round_bytes()))
            .arg(format!("--iodepth={depth}"))
            .arg(format!("--direct={}", u8::from(direct)))
            .args(if self.spec.huge { &["--mem=mmap", "--mem_align=2M"][..] } else { &[] })
            .output()?;
        if !output.status.success() {
            return Err(format!("fio: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        // Notes of its own may stand before it.
        let text = String::from_utf8_lossy(&output.stdout);
        let start = text.find('{').ok_or("fio printed no JSON")?;
        Ok(serde_json::from_str(&text[start..])?)
    }
}

impl Competitor for Fio {
    fn round(&mut self) -> Result<Measure, Problem> {
        let report = self.call()?;
        let job = &report["jobs"][0];
        let moved = &job[if self.spec.work == Work::Get { "read" } else { "write" }];
        let number = |value: &Value| value.as_f64().ok_or("a figure is missing in what fio printed");
        let bytes = number(&moved["io_bytes"])?;
        let seconds = number(&moved["runtime"])? / 1e3;
        let cpu_percent = number(&job["usr_cpu"])? + number(&job["sys_cpu"])?;
        Ok(Measure {
            seconds,
            cpu_seconds: seconds * cpu_percent / 100.0,
            bytes: bytes as u64,
            pages: bytes as u64 / self.spec.page_bytes as u64,
            ..Measure::default()
        })
    }
}
