//! One extent under way: short results, retries, end of file. The same for both engines.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hicache_core::{Direction, Error, ErrorKind, Extent, Result};
use rustix::io::Errno;

use crate::file::{OpenFile, Through};

/// Times that one operation is begun again after `EAGAIN` or `EINTR` without a byte moved in between.
const MOST_ATTEMPTS: u32 = 32;
const FIRST_PAUSE: Duration = Duration::from_micros(500);
const LONGEST_PAUSE: Duration = Duration::from_millis(64);
/// Most bytes that Linux moves in one call: `MAX_RW_COUNT` for pages of 4 KiB.
pub(crate) const MOST_BYTES: usize = 0x7fff_f000;

/// An extent that is being moved.
pub(crate) struct Operation {
    /// Which batch of its worker it belongs to.
    pub(crate) batch: usize,
    /// Its place in the batch.
    pub(crate) position: usize,
    pub(crate) direction: Direction,
    pub(crate) extent: Extent,
    pub(crate) file: Arc<OpenFile>,
    /// How the call that is under way, or was last, gets at the file.
    pub(crate) through: Through,
    backend: &'static str,
    total: u64,
    done: u64,
    attempts: u32,
    /// The kernel can't pin this memory, which direct I/O takes.
    unpinnable: bool,
}

/// What comes after a call.
#[derive(Debug)]
pub(crate) enum Step {
    /// The operation has ended.
    Finished(Result<u64>),
    /// Begin again with what is left.
    Again,
    /// Begin again with what is left, after this time.
    After(Duration),
}

impl Operation {
    pub(crate) fn new(
        backend: &'static str,
        direction: Direction,
        (batch, position): (usize, usize),
        extent: Extent,
        file: Arc<OpenFile>,
    ) -> Self {
        let total = extent.memory.bytes() as u64;
        let through = file.way(&extent, 0);
        let (done, attempts, unpinnable) = (0, 0, false);
        Self { batch, position, direction, extent, file, through, backend, total, done, attempts, unpinnable }
    }

    /// First byte in the file of what is left.
    pub(crate) fn offset(&self) -> u64 {
        self.extent.offset + self.done
    }

    /// Bytes moved so far.
    pub(crate) fn done(&self) -> u64 {
        self.done
    }

    /// Addresses and lengths of what is left, in order.
    pub(crate) fn segments(&self) -> impl Iterator<Item = (*mut u8, usize)> {
        let mut skip = self.done as usize;
        self.extent.memory.pieces().iter().filter_map(move |piece| {
            let skipped = skip.min(piece.len());
            skip -= skipped;
            let left = piece.len() - skipped;
            (left > 0).then(|| (piece.lease().address().wrapping_add(skipped), left))
        })
    }

    /// Takes the result of a call and says what comes next.
    pub(crate) fn advance(&mut self, result: Result<usize, Errno>) -> Step {
        let step = self.judge(result);
        if !matches!(step, Step::Finished(_)) {
            let way = self.file.way(&self.extent, self.done);
            self.through = if self.unpinnable { Through::Buffered } else { way };
        }
        step
    }

    fn judge(&mut self, result: Result<usize, Errno>) -> Step {
        match result {
            // The end of the file, or a device that takes no more: the count tells.
            Ok(0) => Step::Finished(Ok(self.done)),
            Ok(bytes) if bytes as u64 > self.total - self.done => Step::Finished(Err(self.too_much(bytes))),
            Ok(bytes) => {
                self.done += bytes as u64;
                self.attempts = 0;
                if self.done == self.total { Step::Finished(Ok(self.done)) } else { Step::Again }
            }
            Err(Errno::INTR | Errno::AGAIN) if self.attempts < MOST_ATTEMPTS => {
                let pause = FIRST_PAUSE * (1 << self.attempts.min(10));
                self.attempts += 1;
                if result == Err(Errno::INTR) { Step::Again } else { Step::After(pause.min(LONGEST_PAUSE)) }
            }
            // What a file system that needs more alignment than it says, or than we ask, answers.
            Err(Errno::INVAL | Errno::OPNOTSUPP) if self.through == Through::Direct => {
                self.file.refuse_direct();
                Step::Again
            }
            // Memory that is mapped from a device, for one, can be copied to and from but not pinned. Other memory can.
            Err(Errno::FAULT) if self.through == Through::Direct => {
                self.unpinnable = true;
                Step::Again
            }
            Err(errno) => Step::Finished(Err(self.failed(errno))),
        }
    }

    fn failed(&self, errno: Errno) -> Error {
        let way = match self.through {
            Through::Direct => "directly",
            Through::Buffered => "through the page cache",
        };
        let what = format!(
            "{} bytes at offset {} of {} could not be moved {way}",
            self.total,
            self.extent.offset,
            self.file.path.display()
        );
        Error::io(self.direction.as_str(), what, io::Error::from_raw_os_error(errno.raw_os_error()))
            .with_backend(self.backend)
            .with_bytes(self.total, self.done)
    }

    fn too_much(&self, bytes: usize) -> Error {
        Error::new(ErrorKind::Unexpected, "the kernel reports more bytes than were asked for")
            .with_backend(self.backend)
            .with_operation(self.direction.as_str())
            .with_bytes(self.total - self.done, bytes as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use hicache_core::{Access, EngineFile, OwnerId, PageMemory, Region, Registration};

    use super::*;
    use crate::config::IoMode;

    /// A read of three pieces of 4096 bytes at offset 8192.
    fn operation(io: IoMode) -> Operation {
        let owner = OwnerId::new();
        let registration = Registration::new(owner, Region::allocate(3, 4096).unwrap(), Box::new(()));
        let pieces = (0..3).map(|slot| registration.piece(slot, 0, 4096, Access::Write).unwrap());
        let memory = PageMemory::from_pieces(pieces).unwrap();
        let file = Arc::new(tempfile::tempfile().unwrap());
        let open = Arc::new(OpenFile::new(Arc::clone(&file), Path::new("file"), io).unwrap());
        let extent = Extent { file: EngineFile::new(owner, file, Box::new(())), offset: 8192, memory };
        Operation::new("test", Direction::Read, (0, 0), extent, open)
    }

    fn finished(step: Step) -> Result<u64> {
        match step {
            Step::Finished(outcome) => outcome,
            other => Err(Error::new(ErrorKind::Unexpected, format!("{other:?}"))),
        }
    }

    #[test]
    fn short_results_go_on_where_they_stopped() {
        let mut op = operation(IoMode::Auto);
        let start = op.segments().map(|(address, _)| address).collect::<Vec<_>>();
        for (bytes, offset, left) in [(100, 8292, vec![3996, 4096, 4096]), (3996, 12_288, vec![4096, 4096])] {
            assert!(matches!(op.advance(Ok(bytes)), Step::Again));
            assert_eq!(op.offset(), offset);
            assert_eq!(op.segments().map(|(_, bytes)| bytes).collect::<Vec<_>>(), left);
        }
        assert!(matches!(op.advance(Ok(5000)), Step::Again));
        assert_eq!(op.segments().collect::<Vec<_>>(), [(start[2].wrapping_add(904), 3192)]);
        // 9096 bytes in, nothing is aligned for direct I/O any more.
        assert_eq!(op.through, Through::Buffered);
        assert_eq!(finished(op.advance(Ok(3192))).unwrap(), 12_288);
    }

    #[test]
    fn the_end_of_the_file_is_never_the_whole() {
        let mut op = operation(IoMode::Buffered);
        assert!(matches!(op.advance(Ok(4097)), Step::Again));
        assert_eq!(finished(op.advance(Ok(0))).unwrap(), 4097);
        let error = finished(operation(IoMode::Buffered).advance(Ok(12_289))).unwrap_err();
        assert_eq!((error.kind(), error.bytes()), (ErrorKind::Unexpected, Some((12_288, 12_289))));
    }

    #[test]
    fn passing_troubles_are_waited_for_but_not_for_ever() {
        for (errno, code) in [(Errno::AGAIN, 11), (Errno::INTR, 4)] {
            let mut op = operation(IoMode::Buffered);
            let mut waited = Duration::ZERO;
            let mut rounds = 0;
            let error = loop {
                match op.advance(Err(errno)) {
                    Step::Again => rounds += 1,
                    Step::After(pause) => (rounds, waited) = (rounds + 1, waited + pause),
                    Step::Finished(outcome) => break outcome.unwrap_err(),
                }
            };
            assert_eq!((rounds, error.errno()), (MOST_ATTEMPTS, Some(code)));
            assert!(waited < Duration::from_secs(3));
            // Any progress starts the count again.
            let mut op = operation(IoMode::Buffered);
            for _ in 0..MOST_ATTEMPTS * 3 {
                assert!(!matches!(op.advance(Err(errno)), Step::Finished(_)));
                assert!(matches!(op.advance(Ok(1)), Step::Again));
            }
        }
    }

    #[test]
    fn memory_that_cannot_be_pinned_goes_through_the_page_cache() {
        let mut op = operation(IoMode::Direct);
        if op.through == Through::Direct {
            assert!(matches!(op.advance(Err(Errno::FAULT)), Step::Again));
            assert_eq!((op.through, op.file.way(&op.extent, 0)), (Through::Buffered, Through::Direct));
            assert!(matches!(op.advance(Ok(4096)), Step::Again));
            assert_eq!(op.through, Through::Buffered);
        }
        assert_eq!(finished(op.advance(Err(Errno::FAULT))).unwrap_err().errno(), Some(14));
    }

    #[test]
    fn direct_io_that_is_refused_becomes_buffered() {
        let mut op = operation(IoMode::Direct);
        if op.through == Through::Direct {
            assert!(matches!(op.advance(Err(Errno::INVAL)), Step::Again));
            assert_eq!((op.through, op.file.way(&op.extent, 0)), (Through::Buffered, Through::Buffered));
        }
        let error = finished(op.advance(Err(Errno::INVAL))).unwrap_err();
        assert_eq!((error.kind(), error.errno(), error.operation()), (ErrorKind::Io, Some(22), Some("read")));
    }
}
