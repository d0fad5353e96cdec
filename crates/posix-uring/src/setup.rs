//! Setting up an io_uring: the best flags that the kernel takes, and its tables.

use std::io;

use hicache_core::{Error, ErrorKind, Result};
use io_uring::{Builder, IoUring};
use rustix::io::Errno;

use crate::URING;
use crate::config::UringConfig;

/// Slots of the table of buffers: a TiB in parts of 256 MiB.
pub(crate) const BUFFER_SLOTS: u32 = 4096;

/// What a ring was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingReport {
    /// Flags of its setup, as the kernel's headers spell them, in lower case.
    pub flags: &'static str,
    /// Slots of its table of files, or why it has none.
    pub files: Result<u32, String>,
    /// Slots of its table of buffers, or why it has none.
    pub buffers: Result<u32, String>,
}

type Attempt = (&'static str, fn(&mut Builder));

/// From the best to the least; an older kernel refuses what it does not know with EINVAL.
const ATTEMPTS: [Attempt; 4] = [
    // Linux 6.1: completions are handled only when the thread asks for them, without interrupting it.
    ("single_issuer defer_taskrun coop_taskrun submit_all", |builder| {
        builder.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun().setup_submit_all();
    }),
    ("single_issuer coop_taskrun submit_all", |builder| {
        builder.setup_single_issuer().setup_coop_taskrun().setup_submit_all();
    }),
    ("coop_taskrun submit_all", |builder| {
        builder.setup_coop_taskrun().setup_submit_all();
    }),
    ("none", |_| {}),
];

/// Makes a ring that this thread alone will use.
///
/// # Errors
/// `Unavailable`, saying what refuses it.
pub(crate) fn set_up(config: &UringConfig) -> Result<(IoUring, RingReport)> {
    // Besides the operations there are the read of the eventfd and, at the end, a cancel.
    let entries = (config.depth + 2).next_power_of_two();
    let (ring, flags) = first_accepted(entries)?;
    if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
        return Err(Error::new(
            ErrorKind::Unavailable,
            "this kernel's io_uring is too old; Linux 5.11 is needed",
        )
        .with_backend(URING));
    }
    let submitter = ring.submitter();
    let files = table("registered_files is 0", config.registered_files, |slots| {
        submitter.register_files_sparse(slots)
    });
    let slots = if config.register_buffers { BUFFER_SLOTS } else { 0 };
    let buffers = table("register_buffers is false", slots, |slots| submitter.register_buffers_sparse(slots));
    Ok((ring, RingReport { flags, files, buffers }))
}

fn first_accepted(entries: u32) -> Result<(IoUring, &'static str)> {
    let mut refusal = io::Error::from_raw_os_error(Errno::INVAL.raw_os_error());
    for (flags, set) in ATTEMPTS {
        let mut builder = IoUring::builder();
        builder.dontfork();
        set(&mut builder);
        match builder.build(entries) {
            Ok(ring) => return Ok((ring, flags)),
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => refusal = error,
            Err(error) => return Err(unavailable(error)),
        }
    }
    Err(unavailable(refusal))
}

fn table(unwanted: &str, slots: u32, register: impl FnOnce(u32) -> io::Result<()>) -> Result<u32, String> {
    if slots == 0 {
        return Err(unwanted.to_owned());
    }
    register(slots).map(|()| slots).map_err(|error| error.to_string())
}

fn unavailable(source: io::Error) -> Error {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let reason = match source.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSYS) => "this kernel has no io_uring, or a seccomp filter hides it".to_owned(),
        Some(Errno::PERM | Errno::ACCESS) => match disabled.trim() {
            "" | "0" => {
                "io_uring is refused, most likely by a seccomp filter (containers often have one)".to_owned()
            }
            value => format!("io_uring is refused by the sysctl kernel.io_uring_disabled = {value}"),
        },
        Some(Errno::NOMEM) => "no memory for an io_uring; raise the memlock limit (ulimit -l)".to_owned(),
        Some(Errno::MFILE | Errno::NFILE) => {
            "no file descriptor for an io_uring; raise the limit (ulimit -n)".to_owned()
        }
        _ => "an io_uring can't be set up".to_owned(),
    };
    Error::new(ErrorKind::Unavailable, reason).with_backend(URING).with_operation("open").with_source(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_reason() {
        let reason = |errno: Errno| unavailable(io::Error::from_raw_os_error(errno.raw_os_error()));
        assert_eq!(reason(Errno::NOSYS).kind(), ErrorKind::Unavailable);
        assert!(reason(Errno::NOSYS).message().contains("no io_uring"));
        assert!(reason(Errno::PERM).message().contains("refused"));
        assert!(reason(Errno::NOMEM).message().contains("memlock"));
        assert!(reason(Errno::MFILE).message().contains("ulimit -n"));
    }
}
