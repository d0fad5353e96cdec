//! What runs in the process.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hicache_core::{Error, ErrorKind, Result};
use rustix::process::{Signal, getpid, kill_process};

use super::device_bytes;
use super::lines::{Line, State, Step};
use crate::GDS;
use crate::cuda::{Context, Cuda};
use crate::cufile::driver::Way;
use crate::cufile::{Driver, Library};

/// Longest that the process lives, whoever waits for it.
const LONGEST_LIFE: Duration = Duration::from_secs(20);
/// The step that says whether there is a device.
pub(super) const DEVICE_STEP: &str = "CUDA";
/// Stands for the library that the system's loader finds.
pub(super) const NO_PATH: &str = "-";

/// Which question the process is asked: whether anything moves, in any way.
pub(super) const ANY_WAY: &str = "any-way";
/// Or whether it moves where compatibility mode is forbidden.
pub(super) const DIRECTLY: &str = "directly";
/// The step that moves bytes through cuFile where compatibility mode is forbidden, and the same with batches.
pub(super) const DIRECT_BYTES: &str = "bytes past host memory";
/// As [`DIRECT_BYTES`].
pub(crate) const DIRECT_BATCHES: &str = "batches past host memory";

/// Tries everything in turn and writes what is seen to `out`. To be called in a process of its own, which ends with it;
/// `arguments` are those that [`super::ask()`] gave it.
///
/// # Errors
/// What can't be written, and arguments that are none.
pub fn answer(arguments: &[String], out: &mut dyn Write) -> std::io::Result<()> {
    let wrong = |message: String| std::io::Error::new(std::io::ErrorKind::InvalidInput, message);
    let [question, device, library, directory] = arguments else {
        let message = format!(
            "{} arguments; {ANY_WAY} or {DIRECTLY}, the number of a device, a library (or {NO_PATH}) and a directory are wanted",
            arguments.len()
        );
        return Err(wrong(message));
    };
    let device = device.parse().map_err(|_| wrong(format!("{device:?} is not the number of a device")))?;
    let directly = match question.as_str() {
        ANY_WAY => false,
        DIRECTLY => true,
        other => return Err(wrong(format!("{other:?} is not a question; {ANY_WAY} and {DIRECTLY} are"))),
    };
    // A library that spins does so on this thread, and would go on for ever if whoever asked were gone.
    std::thread::spawn(|| {
        std::thread::sleep(LONGEST_LIFE);
        let _ = kill_process(getpid(), Signal::KILL);
    });
    let library = (library != NO_PATH).then(|| PathBuf::from(library));
    let mut steps = Steps { out };
    let (library, directory) = (library.as_deref(), Path::new(directory));
    let state = match directly {
        false => steps.any_way(device, library, directory)?,
        true => steps.directly(device, library, directory)?,
    };
    steps.say(&Line::Ends(state))
}

struct Steps<'a> {
    out: &'a mut dyn Write,
}

impl Steps<'_> {
    fn say(&mut self, line: &Line) -> std::io::Result<()> {
        // At the start of a line, whatever a library has printed before; in one piece.
        let text = format!("\n{}\n", serde_json::to_string(line)?);
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// Says that something is tried, tries it, and says what was seen.
    fn step<T>(
        &mut self,
        name: &str,
        work: impl FnOnce() -> Result<T>,
        detail: impl FnOnce(&T) -> String,
    ) -> std::io::Result<Result<T>> {
        self.say(&Line::Begins(name.to_owned()))?;
        let result = work();
        let (passed, detail) = match &result {
            Ok(value) => (true, detail(value)),
            Err(error) => (false, one_line(error)),
        };
        self.say(&Line::Seen(Step { name: name.to_owned(), passed, detail }))?;
        Ok(result)
    }

    /// Whether bytes move, and the best way that the driver names. Which way they went is not known then.
    fn any_way(&mut self, device: u32, path: Option<&Path>, directory: &Path) -> std::io::Result<State> {
        let context = self.device(device)?;
        // Before anything of cuFile's, which may be the last thing that happens here.
        let staged = match &context {
            Err(error) => Err(one_line(error)),
            Ok(context) => self
                .step(
                    "staged bytes",
                    || device_bytes::staged(context),
                    |bytes| format!("{bytes} bytes went to the device and back, and were compared"),
                )?
                .map(|_| ())
                .map_err(|error| one_line(&error)),
        };
        self.say(&Line::Staged(staged))?;
        let library = self.step("cuFile", || Library::load(path), describe_library)?;
        self.files()?;
        let driver = match &library {
            Ok(library) => self.step("cuFile's driver", || Driver::open(Arc::clone(library)), describe)?,
            Err(error) => Err(error.clone()),
        };
        let (context, driver) = match (context, driver) {
            (Ok(context), Ok(driver)) => (context, driver),
            (Err(error), _) | (_, Err(error)) => return Ok(State::Unavailable(one_line(&error))),
        };
        self.bytes(&driver, &context, directory, ["cuFile's bytes", "cuFile's batches"])
    }

    /// The same with compatibility mode forbidden: what moves now goes past host memory.
    fn directly(&mut self, device: u32, path: Option<&Path>, directory: &Path) -> std::io::Result<State> {
        let context = self.device(device)?;
        let opened = self.step(
            "compatibility mode forbidden",
            || {
                let (context, library) = (context?, Library::load(path)?);
                library.forbid_compat()?;
                let driver = Driver::open(library)?;
                if driver.properties().allows_compat() {
                    let message = "cuFile allows compatibility mode all the same, so nothing is known of the way of bytes";
                    return Err(Error::new(ErrorKind::Unsupported, message).with_backend(GDS));
                }
                Ok((context, driver))
            },
            |(_, driver)| describe(driver),
        )?;
        match opened {
            Ok((context, driver)) => self.bytes(&driver, &context, directory, [DIRECT_BYTES, DIRECT_BATCHES]),
            Err(error) => Ok(State::Unavailable(one_line(&error))),
        }
    }

    fn device(&mut self, device: u32) -> std::io::Result<Result<Arc<Context>>> {
        self.step(
            DEVICE_STEP,
            || Cuda::load()?.context(device),
            |context| {
                let version = context.cuda().version();
                format!("driver for CUDA {}.{}, {}", version / 1000, version % 1000 / 10, context.name())
            },
        )
    }

    /// Bytes one by one, the way that the driver names, then batches: those have crashed.
    fn bytes(
        &mut self,
        driver: &Arc<Driver>,
        context: &Arc<Context>,
        directory: &Path,
        names: [&str; 2],
    ) -> std::io::Result<State> {
        let moved = self.step(
            names[0],
            || device_bytes::through_cufile(driver, context, directory, names[0] == DIRECT_BYTES),
            |bytes| format!("{bytes} bytes were written from the device, read into it, and compared"),
        )?;
        if let Err(error) = moved {
            return Ok(State::Unavailable(one_line(&error)));
        }
        let state = match driver.properties().way() {
            Way::NvFs => State::NvFs,
            Way::P2pDma => State::P2pDma,
            Way::Compat => State::Compat,
            Way::Nothing => {
                State::Unavailable("the driver offers no way, and compatibility mode is off".to_owned())
            }
        };
        self.say(&Line::Way(state.clone()))?;
        let _ = self.step(
            names[1],
            || device_bytes::in_batches(driver, context, directory),
            |_| "operations of one batch went where they should".to_owned(),
        )?;
        Ok(state)
    }

    /// What cuFile looks for without saying so.
    fn files(&mut self) -> std::io::Result<()> {
        for (name, path, else_what) in [
            ("kernel modules", "/proc/modules", "cuFile 1.17 and later spin without it"),
            ("udev", "/run/udev", "cuFile can't register files without it"),
            ("nvidia-fs", "/proc/driver/nvidia-fs", "without the module there is no GPUDirect by nvidia-fs"),
        ] {
            let there = Path::new(path).exists();
            let detail =
                if there { format!("{path} is there") } else { format!("{path} is missing: {else_what}") };
            self.say(&Line::Seen(Step { name: name.to_owned(), passed: there, detail }))?;
        }
        Ok(())
    }
}

fn describe_library(library: &Arc<Library>) -> String {
    match (Driver::version_of(library), library.missing().as_slice()) {
        (Some(version), []) => format!("{} {version}", library.path()),
        (Some(version), missing) => format!("{} {version}, without {}", library.path(), missing.join(", ")),
        (None, _) => format!("{}, of no known version", library.path()),
    }
}

fn describe(driver: &Arc<Driver>) -> String {
    let properties = driver.properties();
    let module = properties
        .nvidia_fs()
        .map_or_else(|| "no nvidia-fs".to_owned(), |(major, minor)| format!("nvidia-fs {major}.{minor}"));
    let flags = properties.p2p_flags();
    format!(
        "{module}, peer-to-peer {}{}, compatibility mode {}",
        if properties.has_p2p_dma() { "yes" } else { "no" },
        if flags.is_empty() { flags } else { format!(" (flags: {flags})") },
        if properties.allows_compat() { "allowed" } else { "off" }
    )
}

/// One line, whatever the message of a library has.
fn one_line(error: &Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
