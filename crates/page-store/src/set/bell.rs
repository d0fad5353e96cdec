//! Waking a writer that sleeps: a datagram socket in its set. What is in a datagram does not matter; whoever is woken
//! looks for itself.

use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::{fs, io};

use tokio::sync::Notify;

const NAME: &str = "bell";

/// The own bell, with a thread that sleeps until it is rung. The worker's runtime could wait for the socket itself, but its
/// wake-ups would then go through epoll, which is a quarter more syscalls for every batch.
#[derive(Debug)]
pub(crate) struct Bell {
    socket: UnixDatagram,
    taken_down: Arc<AtomicBool>,
}

impl Bell {
    /// Hangs a bell into a set; `heard` is told of every ring. `None` where the file system has no sockets; then others
    /// wait for the next call.
    pub(crate) fn hang(set: &Path, heard: Arc<Notify>) -> Option<Self> {
        let made = through_descriptor(set, |path| {
            // That of a writer before us.
            let _ = fs::remove_file(path);
            let socket = UnixDatagram::bind(path)?;
            let ear = socket.try_clone()?;
            let taken_down = Arc::new(AtomicBool::new(false));
            let over = Arc::clone(&taken_down);
            thread::Builder::new().name("hicache-bell".into()).spawn(move || listen(&ear, &heard, &over))?;
            Ok(Self { socket, taken_down })
        });
        match made {
            Ok(bell) => Some(bell),
            Err(error) => {
                tracing::debug!(set = %set.display(), %error, "no bell; others wait for the next call");
                None
            }
        }
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.taken_down.store(true, Ordering::SeqCst);
        // Ends the thread's call, and all that could follow.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// However often it is rung before somebody looks, looking once is enough.
fn listen(socket: &UnixDatagram, heard: &Notify, taken_down: &AtomicBool) {
    loop {
        let rung = socket.recv(&mut [0; 8]);
        if taken_down.load(Ordering::SeqCst) {
            return;
        }
        match rung {
            Ok(_) => heard.notify_one(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::debug!(%error, "the bell is broken; others wait for the next call");
                return;
            }
        }
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
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_ring_is_heard_also_far_down() {
        let root = tempfile::tempdir().unwrap();
        let set = root.path().join("d".repeat(100)).join("e".repeat(100));
        fs::create_dir_all(&set).unwrap();
        ring(&set);
        let heard = Arc::new(Notify::new());
        drop(Bell::hang(&set, Arc::clone(&heard)).unwrap());
        ring(&set);
        let bell = Bell::hang(&set, Arc::clone(&heard)).unwrap();
        // An empty datagram is no end.
        through_descriptor(&set, |path| UnixDatagram::unbound()?.send_to(b"", path)).unwrap();
        for _ in 0..1000 {
            ring(&set);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let within = |notify: &Notify| {
            let wait =
                async { tokio::time::timeout(std::time::Duration::from_secs(5), notify.notified()).await };
            runtime.block_on(wait).is_ok()
        };
        assert!(within(&heard));
        thread::sleep(std::time::Duration::from_millis(50));
        while heard.notified().now_or_never().is_some() {}
        ring(&set);
        assert!(within(&heard));
        // Nobody listens any more, and the thread has gone with what it held.
        drop(bell);
        let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while Arc::strong_count(&heard) > 1 {
            assert!(std::time::Instant::now() < until, "the thread is still there");
            thread::yield_now();
        }
    }
}
