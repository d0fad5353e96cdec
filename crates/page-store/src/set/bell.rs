//! Waking a writer that sleeps: a datagram socket in its set. What is in a datagram does not matter; whoever is woken
//! looks for itself.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

const NAME: &str = "bell";

/// The own bell.
#[derive(Debug)]
pub(crate) struct Bell {
    socket: UnixDatagram,
}

impl Bell {
    /// Hangs a bell into a set. `None` where the file system has no sockets; then others wait for the next call.
    pub(crate) fn hang(set: &Path) -> Option<Self> {
        let made = through_descriptor(set, |path| {
            // That of a writer before us.
            let _ = fs::remove_file(path);
            let socket = UnixDatagram::bind(path)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        match made {
            Ok(socket) => Some(Self { socket }),
            Err(error) => {
                tracing::debug!(set = %set.display(), %error, "no bell; others wait for the next call");
                None
            }
        }
    }

    /// The socket, to be waited for.
    pub(crate) fn socket(&self) -> std::io::Result<UnixDatagram> {
        self.socket.try_clone()
    }
}

/// Wakes the writer of a set, if it has a bell and is not dead.
pub(crate) fn ring(set: &Path) {
    let rung = through_descriptor(set, |path| {
        let socket = UnixDatagram::unbound()?;
        // A bell that nobody answers must not make us wait.
        socket.set_nonblocking(true)?;
        socket.send_to(b"!", path)
    });
    if let Err(error) = rung {
        tracing::trace!(set = %set.display(), %error, "nobody heard the bell");
    }
}

/// Addresses of sockets are at most 108 bytes long; a path through the directory's descriptor always fits.
fn through_descriptor<T>(set: &Path, call: impl FnOnce(&Path) -> std::io::Result<T>) -> std::io::Result<T> {
    let directory = fs::File::open(set)?;
    call(&PathBuf::from(format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_heard_also_far_down() {
        let root = tempfile::tempdir().unwrap();
        let set = root.path().join("d".repeat(100)).join("e".repeat(100));
        fs::create_dir_all(&set).unwrap();
        ring(&set);
        drop(Bell::hang(&set).unwrap());
        ring(&set);
        let bell = Bell::hang(&set).unwrap();
        let socket = bell.socket().unwrap();
        let mut word = [0; 8];
        assert!(socket.recv(&mut word).is_err());
        for _ in 0..1000 {
            ring(&set);
        }
        assert!(socket.recv(&mut word).is_ok());
    }
}
