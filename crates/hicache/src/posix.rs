//! The backends of `hicache-posix-uring` with their part of the configuration.

use hicache_core::Backend;
use hicache_posix_uring::{IoMode, PreadBackend, PreadConfig, UringBackend, UringConfig};

use crate::config::{Io, Settings};

/// io_uring, then pread and pwrite.
pub(crate) fn backends(settings: &Settings) -> [Box<dyn Backend>; 2] {
    let io = match settings.io {
        Io::Direct => IoMode::Direct,
        Io::Buffered => IoMode::Buffered,
        Io::Auto => IoMode::Auto,
    };
    let uring = UringBackend {
        config: UringConfig {
            io,
            depth: settings.posix_uring.depth,
            rings: settings.posix_uring.rings.map_or(rings(io), |rings| rings as usize),
            register_buffers: settings.posix_uring.register_buffers,
            registered_files: settings.posix_uring.registered_files,
            huge_pages: settings.posix_uring.huge_pages,
        },
    };
    let pread = PreadBackend {
        config: PreadConfig {
            io,
            threads: settings.posix_pread.threads as usize,
            huge_pages: settings.posix_pread.huge_pages,
        },
    };
    [Box::new(uring), Box::new(pread)]
}

/// What the page cache holds is copied by the thread of a ring, and one thread has not all of the memory's bandwidth.
/// Direct I/O leaves that thread idle.
fn rings(io: IoMode) -> usize {
    if io == IoMode::Buffered { 2 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// Names and defaults stand in two crates, so that the table of fields is the same in every build.
    #[test]
    fn the_defaults_are_the_engines() {
        let config = Config::builder().build().unwrap();
        let [uring, pread] = backends(config.settings());
        assert_eq!(format!("{uring:?}"), format!("{:?}", UringBackend::default()));
        let buffered = Config::builder().set("io", "buffered").build().unwrap();
        let copying = UringConfig { io: IoMode::Buffered, rings: 2, ..UringConfig::default() };
        let [uring, _] = backends(buffered.settings());
        assert_eq!(format!("{uring:?}"), format!("{:?}", UringBackend { config: copying }));
        assert_eq!(format!("{pread:?}"), format!("{:?}", PreadBackend::default()));
        assert_eq!((uring.name(), pread.name()), (hicache_posix_uring::URING, hicache_posix_uring::PREAD));
    }

    #[test]
    fn every_field_reaches_its_engine() {
        let config = Config::builder()
            .set("io", "direct")
            .set("posix_uring", serde_json::json!({
                "depth": 4096, "rings": 64, "register_buffers": false, "registered_files": 32768, "huge_pages": false
            }))
            .set("posix_pread", serde_json::json!({"threads": 256, "huge_pages": false}))
            .build()
            .unwrap();
        let [uring, pread] = backends(config.settings());
        let mode = IoMode::Direct;
        let expected = UringConfig {
            io: mode,
            depth: UringConfig::MAX_DEPTH,
            rings: UringConfig::MAX_RINGS,
            register_buffers: false,
            registered_files: UringConfig::MAX_FILES,
            huge_pages: false,
        };
        assert_eq!(format!("{uring:?}"), format!("{:?}", UringBackend { config: expected }));
        let expected = PreadConfig { io: mode, threads: PreadConfig::MAX_THREADS, huge_pages: false };
        assert_eq!(format!("{pread:?}"), format!("{:?}", PreadBackend { config: expected }));
    }
}
