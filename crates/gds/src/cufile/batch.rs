//! Several operations with one call.
//!
//! One of the files with `unsafe` (ARCHITECTURE.md).

use std::ffi::{c_int, c_long, c_uint, c_void};
use std::fmt;
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hicache_core::{Direction, Error, ErrorKind, Result};

use super::abi::{self, BatchParams, CUfileBatchHandle, CUfileIOEvents, CUfileIOParams, Timespec};
use super::driver::Driver;
use super::handle::Handle;
use super::status::{check, failure, moved};
use crate::CUFILE;

/// Longest that one question for what is done takes, in nanoseconds.
const TURN_NANOSECONDS: c_long = 100_000_000;
/// A batch of which nothing ends for so long is cancelled.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);
/// A batch that was cancelled, or not taken, and of which nothing ends for so long is lost.
const LONGEST_END: Duration = Duration::from_secs(2);
/// The next question comes after this time where an answer came at once and told nothing.
const PAUSE: Duration = Duration::from_millis(1);

/// One operation of a batch.
pub struct BatchOperation {
    /// The file.
    pub handle: Arc<Handle>,
    /// Which way.
    pub direction: Direction,
    /// The memory; the address itself, without an offset: library 1.19.1 ignored those in batches.
    pub address: *mut u8,
    /// How many bytes.
    pub bytes: usize,
    /// Where in the file.
    pub offset: u64,
}

// SAFETY: an address is no more than a number here; who submits it vouches for the memory.
unsafe impl Send for BatchOperation {}

/// The functions of batches, all of them there.
struct Functions {
    submit: abi::BatchSubmit,
    get_status: abi::BatchGetStatus,
    cancel: abi::BatchCancel,
    destroy: abi::BatchDestroy,
}

/// Room for batches of up to so many operations, one batch at a time.
pub struct BatchQueue {
    raw: CUfileBatchHandle,
    depth: usize,
    functions: Functions,
    driver: Arc<Driver>,
    longest_silence: Duration,
    /// Whether a batch was lost: the queue is then neither used nor destroyed any more.
    lost: bool,
}

// SAFETY: used by one thread at a time (`&mut self`); cuFile's batches are bound to no thread.
unsafe impl Send for BatchQueue {}

/// A batch of which nobody knows what became: its memory may still be used.
#[derive(Debug)]
pub struct Lost(pub Error);

/// What the library writes to and reads from until the batch is over.
struct InFlight {
    params: Box<[CUfileIOParams]>,
    events: Box<[CUfileIOEvents]>,
}

impl BatchQueue {
    /// Sets a queue up.
    ///
    /// # Errors
    /// `Unsupported` where the library has no batches, and what cuFile answers.
    pub fn new(driver: &Arc<Driver>, depth: usize) -> Result<Self> {
        let library = driver.library();
        let of = &library.functions;
        let set_up = of.batch_set_up.ok_or_else(|| library.lacks("cuFileBatchIOSetUp"))?;
        let functions = Functions {
            submit: of.batch_submit.ok_or_else(|| library.lacks("cuFileBatchIOSubmit"))?,
            get_status: of.batch_get_status.ok_or_else(|| library.lacks("cuFileBatchIOGetStatus"))?,
            cancel: of.batch_cancel.ok_or_else(|| library.lacks("cuFileBatchIOCancel"))?,
            destroy: of.batch_destroy.ok_or_else(|| library.lacks("cuFileBatchIODestroy"))?,
        };
        let entries = c_uint::try_from(depth).ok().filter(|&entries| entries > 0);
        let entries = entries.ok_or_else(|| {
            Error::config(format!("a batch of {depth} operations can't be; it needs at least 1"))
        })?;
        let mut raw: CUfileBatchHandle = ptr::null_mut();
        // SAFETY: it writes one handle.
        check("cuFileBatchIOSetUp", unsafe { set_up(&raw mut raw, entries) })?;
        let driver = Arc::clone(driver);
        Ok(Self { raw, depth, functions, driver, longest_silence: LONGEST_SILENCE, lost: false })
    }

    /// Most operations in a batch.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Gives a batch up after another time of silence.
    #[cfg(test)]
    pub(crate) fn set_longest_silence(&mut self, longest: Duration) {
        self.longest_silence = longest;
    }

    /// Submits the operations and waits until each is over: bytes moved, or why not, in their order.
    ///
    /// # Errors
    /// [`Lost`] where the library stops answering for what it has taken, or answers that an operation took too long, which does
    /// not say that it was stopped. The memory of all operations must then never be
    /// used again, the queue neither.
    ///
    /// # Safety
    /// As [`Handle::transfer`], for the memory of each operation, until this returns; after [`Lost`], for ever.
    ///
    /// # Panics
    /// If there are more operations than [`BatchQueue::depth`].
    pub unsafe fn run(&mut self, operations: &[BatchOperation]) -> Result<Vec<Result<u64>>, Lost> {
        assert!(
            operations.len() <= self.depth,
            "{} operations in a batch of {}",
            operations.len(),
            self.depth
        );
        let mut outcomes: Vec<Option<Result<u64>>> = operations.iter().map(|_| None).collect();
        let mut memory = InFlight::new(operations);
        let count = operations.len() as c_uint;
        // SAFETY: the parameters live until the batch is over, or for ever; the caller vouches for the memory in them.
        let submitted = unsafe { (self.functions.submit)(self.raw, count, memory.params.as_mut_ptr(), 0) };
        // What an error says of the operations before the one at fault is not documented: they may be on their way.
        let refused = check("cuFileBatchIOSubmit", submitted).err();
        let mut ending = refused.is_some();
        if ending {
            self.cancel();
        }
        let mut left = operations.len();
        let mut last_news = Instant::now();
        while left > 0 {
            let asked_at = Instant::now();
            let answered = match self.ask(&mut memory, if ending { 0 } else { left }) {
                Ok(answered) => answered,
                Err(error) => return Err(self.lose(memory, refused.unwrap_or(error))),
            };
            let before = left;
            for event in memory.events.iter().take(answered) {
                let outcome = match outcome_of(event) {
                    Over::No => continue,
                    Over::Unknown(error) => return Err(self.lose(memory, error)),
                    Over::Yes(outcome) => outcome,
                };
                match outcomes.get_mut(event.cookie as usize) {
                    Some(known @ None) => {
                        *known = Some(outcome);
                        left -= 1;
                    }
                    // Told twice, which changes nothing.
                    Some(Some(_)) => {}
                    None => {
                        let text = "cuFile answers for an operation that nobody submitted";
                        return Err(self.lose(memory, Error::new(ErrorKind::Unexpected, text)));
                    }
                }
            }
            if left < before {
                last_news = Instant::now();
                continue;
            }
            let silence = last_news.elapsed();
            if ending && silence >= LONGEST_END {
                let error = refused.unwrap_or_else(|| {
                    let text =
                        format!("cuFile tells nothing of {left} operations of a batch, nor of their end");
                    Error::new(ErrorKind::Timeout, text).with_backend(CUFILE)
                });
                return Err(self.lose(memory, error));
            }
            if !ending && silence >= self.longest_silence {
                (ending, last_news) = (true, Instant::now());
                self.cancel();
            }
            if asked_at.elapsed() < PAUSE {
                std::thread::sleep(PAUSE);
            }
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    /// Asks what is over, and waits for `least` of that for the time of a turn. How many events were written.
    fn ask(&self, memory: &mut InFlight, least: usize) -> Result<usize> {
        let mut answered = c_uint::try_from(memory.events.len()).unwrap_or(c_uint::MAX);
        let mut timeout = Timespec { tv_sec: 0, tv_nsec: TURN_NANOSECONDS };
        // SAFETY: room for `answered` events, as it says; the timeout is of this frame and is not kept.
        let asked = unsafe {
            (self.functions.get_status)(
                self.raw,
                least as c_uint,
                &raw mut answered,
                memory.events.as_mut_ptr(),
                &raw mut timeout,
            )
        };
        check("cuFileBatchIOGetStatus", asked).map(|()| answered as usize)
    }

    fn cancel(&self) {
        // SAFETY: the queue is set up. An error changes nothing: what is over is told by the status alone.
        let _ = unsafe { (self.functions.cancel)(self.raw) };
    }

    /// Asks for the rest to be cancelled, and gives up what the library may still use: its arguments, the queue, the driver.
    fn lose(&mut self, memory: InFlight, error: Error) -> Lost {
        self.cancel();
        self.lost = true;
        std::mem::forget((memory, Arc::clone(&self.driver)));
        Lost(error)
    }
}

impl InFlight {
    fn new(operations: &[BatchOperation]) -> Self {
        let params = operations.iter().enumerate().map(|(number, operation)| CUfileIOParams {
            mode: abi::CUFILE_BATCH,
            batch: BatchParams {
                dev_ptr_base: operation.address.cast(),
                file_offset: operation.offset as c_long,
                dev_ptr_offset: 0,
                size: operation.bytes,
            },
            fh: operation.handle.raw(),
            opcode: match operation.direction {
                Direction::Read => abi::CUFILE_READ,
                Direction::Write => abi::CUFILE_WRITE,
            },
            // Its number, not an address.
            cookie: ptr::without_provenance_mut::<c_void>(number),
        });
        let nothing = CUfileIOEvents { cookie: ptr::null_mut(), status: 0, ret: 0 };
        Self { params: params.collect(), events: vec![nothing; operations.len()].into() }
    }
}

/// What an event says of its operation.
enum Over {
    /// It is on its way.
    No,
    /// Its memory is not in use any more.
    Yes(Result<u64>),
    /// The library has given it up, which does not say that the device has.
    Unknown(Error),
}

fn outcome_of(event: &CUfileIOEvents) -> Over {
    let failed = |text: &str| {
        let code = c_int::try_from((event.ret as isize).unsigned_abs()).unwrap_or(0);
        if code > abi::CUFILEOP_BASE_ERR {
            failure("a batch", code, 0)
        } else {
            Error::new(ErrorKind::Io, format!("an operation of a batch {text}, code {code}"))
                .with_backend(CUFILE)
        }
    };
    match event.status {
        abi::CUFILE_COMPLETE => {
            let unknown = || std::io::Error::other("the batch tells no cause");
            Over::Yes(moved("a batch", event.ret as isize, unknown))
        }
        abi::CUFILE_FAILED => Over::Yes(Err(failed("failed"))),
        abi::CUFILE_INVALID => Over::Yes(Err(failed("was refused"))),
        abi::CUFILE_CANCELED => Over::Yes(Err(failed("was cancelled"))),
        abi::CUFILE_TIMEOUT => Over::Unknown(failed("took too long")),
        _ => Over::No,
    }
}

impl Drop for BatchQueue {
    fn drop(&mut self) {
        if self.lost {
            return; // Its operations may not be over.
        }
        // SAFETY: set up by us; every batch of it is over.
        unsafe { (self.functions.destroy)(self.raw) }
    }
}

impl fmt::Debug for BatchQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchQueue").field("depth", &self.depth).finish_non_exhaustive()
    }
}
