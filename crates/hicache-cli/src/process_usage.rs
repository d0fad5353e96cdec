//! What this process has used.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Processor time of all threads of this process, in user and kernel mode.
pub(crate) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    // Never negative, and its nanoseconds are below a second.
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// Most memory that this process had resident so far, in bytes; `None` where the system does not say.
pub(crate) fn peak_rss_bytes() -> Option<u64> {
    peak_of(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn peak_of(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read() {
        assert_eq!(peak_of("Name:\tx\nVmPeak:\t 9 kB\nVmHWM:\t    5172 kB\n"), Some(5172 << 10));
        assert_eq!(peak_of("VmHWM:\tmuch\n"), None);
        assert!(peak_rss_bytes().unwrap() > 100 << 10);
    }

    #[test]
    fn work_takes_time() {
        let before = cpu_time();
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_millis(20) {}
        assert!(cpu_time() > before);
    }
}
