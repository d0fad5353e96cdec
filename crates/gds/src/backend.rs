//! The backend: which of the two engines a machine gets, and why.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use hicache_core::{
    Backend, Check, Engine, Error, ErrorKind, MemoryKind, Offer, ProbeContext, ProbeReport, Result, Verdict,
};
use tokio::sync::oneshot;

use crate::GDS;
use crate::cuda::Cuda;
use crate::cufile::{Driver, Library};
use crate::engine::{Calls, CuFileConfig, CuFileEngine};
use crate::probe::{Asked, DIRECT_BATCHES, Helper, Limits, Question, State, Step, ask};
use crate::staged::{CudaCopier, StagedConfig, StagedEngine};

/// Makes the engine that moves bytes between files and staging memory.
pub type Below = Arc<dyn Fn() -> Result<Arc<dyn Engine>> + Send + Sync>;

/// GPU memory: through cuFile where that is GPUDirect Storage, through staging memory elsewhere.
#[derive(Clone)]
pub struct GdsBackend {
    /// The device.
    pub device: u32,
    /// What engines on cuFile are opened with; where the library is, too.
    pub cufile: CuFileConfig,
    /// What engines that stage are opened with.
    pub staged: StagedConfig,
    /// The program that probes; without one nothing is probed, and engines stage.
    pub helper: Option<Helper>,
    /// A directory of the file system that the files will be on, for the choice between the engines.
    pub directory: PathBuf,
    /// What the engine that stages stands on.
    pub below: Below,
}

impl fmt::Debug for GdsBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GdsBackend")
            .field("device", &self.device)
            .field("cufile", &self.cufile)
            .field("staged", &self.staged)
            .field("helper", &self.helper)
            .finish_non_exhaustive()
    }
}

impl GdsBackend {
    fn asked(&self, device: u32, directory: &Path) -> Result<Asked> {
        let helper = self.helper.as_ref().ok_or_else(|| {
            let message = "no helper: cuFile may hang or crash, and is only probed by a program of its own";
            Error::new(ErrorKind::Unavailable, message).with_backend(GDS)
        })?;
        let library = self.cufile.library.as_deref();
        ask(helper, Question { device, library, directory }, Limits::default())
    }

    /// The engine that stages: it takes extents at any place and of any length.
    ///
    /// # Errors
    /// `Unavailable` without a driver, and what opening the engine below it reports.
    pub fn open_staged(&self) -> Result<Arc<dyn Engine>> {
        self.staging(Cuda::load()?)
    }

    fn staging(&self, cuda: Cuda) -> Result<Arc<dyn Engine>> {
        let copier = CudaCopier::new(cuda.context(self.device)?);
        let engine = StagedEngine::open((self.below)()?, Arc::new(copier), self.staged.clone())?;
        Ok(Arc::new(engine))
    }

    /// The engine on cuFile, where bytes go past host memory; the reason where they don't.
    fn direct(&self, cuda: Cuda) -> Result<CuFileEngine> {
        let asked = self.asked(self.device, &self.directory)?;
        match asked.state {
            State::NvFs | State::P2pDma => {
                // First: cuFile's driver is opened where a context is.
                let context = cuda.context(self.device)?;
                let _bound = context.bind()?;
                let driver = Driver::open(Library::load(self.cufile.library.as_deref())?)?;
                let calls = calls_that_work(self.cufile.calls, &asked.steps);
                CuFileEngine::open(
                    driver,
                    Some(Arc::clone(&context)),
                    CuFileConfig { calls, ..self.cufile.clone() },
                )
            }
            other => Err(Error::new(ErrorKind::Unavailable, other.to_string()).with_backend(GDS)),
        }
    }
}

#[async_trait]
impl Backend for GdsBackend {
    fn name(&self) -> &'static str {
        GDS
    }

    fn offer(&self) -> Offer {
        Offer::Engine
    }

    fn summary(&self) -> &'static str {
        "files and GPU memory, through cuFile or through pinned host memory"
    }

    async fn probe(&self, context: &ProbeContext) -> ProbeReport {
        let unavailable = |reason: String| report(Verdict::Unavailable, reason, Vec::new());
        let MemoryKind::Device(device) = context.memory else {
            return unavailable(format!("{GDS} moves device memory only, not {:?}", context.memory));
        };
        let (own, directory) = (self.clone(), context.directory.clone());
        let (answer, answered) = oneshot::channel();
        let work = move || drop(answer.send(own.asked(device, &directory)));
        if let Err(error) = std::thread::Builder::new().name("hicache-probe".to_owned()).spawn(work) {
            return unavailable(format!("no thread for the probe: {error}"));
        }
        match answered.await {
            Ok(Ok(asked)) => read(asked),
            Ok(Err(error)) => unavailable(error.to_string()),
            Err(_) => unavailable("the probe was lost".to_owned()),
        }
    }

    fn open_engine(&self) -> Result<Arc<dyn Engine>> {
        let cuda = Cuda::load()?;
        match self.direct(cuda) {
            Ok(engine) => Ok(Arc::new(engine)),
            Err(reason) => {
                tracing::warn!(%reason, "no GPUDirect Storage; pages go through pinned host memory");
                self.staging(cuda)
            }
        }
    }
}

/// Batches only where the probe has seen them work on the way that bytes go.
fn calls_that_work(wanted: Calls, steps: &[Step]) -> Calls {
    let worked = steps.iter().any(|step| step.name == DIRECT_BATCHES && step.passed);
    if wanted != Calls::Threads && !worked {
        tracing::warn!("cuFile's batches did not work in the probe; synchronous calls are made instead");
        return Calls::Threads;
    }
    wanted
}

fn report(verdict: Verdict, reason: String, checks: Vec<Check>) -> ProbeReport {
    ProbeReport { backend: GDS, offer: Offer::Engine, verdict, reason, checks }
}

/// What the process saw, as a report.
fn read(asked: Asked) -> ProbeReport {
    let checks = asked
        .steps
        .into_iter()
        .map(|step| Check { name: step.name, passed: step.passed, detail: step.detail })
        .collect();
    let (verdict, reason) = match (&asked.state, asked.staged) {
        (State::NvFs | State::P2pDma, _) => (Verdict::Usable, asked.state.to_string()),
        (state, Ok(())) => (Verdict::Usable, format!("through pinned host memory; {state}")),
        (State::Unavailable(reason), Err(_)) => (Verdict::Unavailable, reason.clone()),
        (State::Compat, Err(why)) => (Verdict::Unavailable, why),
    };
    report(verdict, reason, checks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(helper: Option<Helper>) -> GdsBackend {
        GdsBackend {
            device: 0,
            cufile: CuFileConfig::default(),
            staged: StagedConfig::default(),
            helper,
            directory: std::env::temp_dir(),
            below: Arc::new(|| Err(Error::new(ErrorKind::Unavailable, "nothing below"))),
        }
    }

    fn context(memory: hicache_core::MemoryKind) -> ProbeContext {
        ProbeContext { directory: std::env::temp_dir(), memory }
    }

    #[tokio::test]
    async fn it_says_why_not() {
        use hicache_core::MemoryKind::{Device, Host};
        let report = backend(None).probe(&context(Host)).await;
        assert!(
            report.verdict == Verdict::Unavailable && report.reason.contains("device memory"),
            "{report:?}"
        );
        let report = backend(None).probe(&context(Device(0))).await;
        assert!(report.reason.contains("no helper"), "{report:?}");
        let script = r#"echo '{"seen":{"name":"CUDA","passed":false,"detail":"none"}}'; echo '{"ends":{"unavailable":"so"}}'"#;
        let helper = Helper { program: "sh".into(), arguments: vec!["-c".into(), script.into()] };
        let report = backend(Some(helper)).probe(&context(Device(0))).await;
        assert_eq!((report.verdict, report.reason.as_str()), (Verdict::Unavailable, "so"));
        assert_eq!(report.checks, [Check::failed("CUDA", "none")]);
    }

    #[test]
    fn batches_are_used_where_the_probe_has_seen_them_work() {
        let wanted = Calls::Batches { depth: 4 };
        let step = |name: &str, passed| Step { name: name.to_owned(), passed, detail: String::new() };
        assert_eq!(calls_that_work(wanted, &[step(DIRECT_BATCHES, true)]), wanted);
        for steps in [vec![], vec![step(DIRECT_BATCHES, false)], vec![step("cuFile's batches", true)]] {
            assert_eq!(calls_that_work(wanted, &steps), Calls::Threads);
            assert_eq!(calls_that_work(Calls::Threads, &steps), Calls::Threads);
        }
    }

    #[test]
    fn compatibility_mode_is_never_called_gpudirect() {
        let asked = |state, staged| Asked { state, staged, steps: Vec::<Step>::new() };
        let report = read(asked(State::Compat, Ok(())));
        assert_eq!(report.verdict, Verdict::Usable);
        assert!(
            !report.reason.contains("GPUDirect") && report.reason.contains("through pinned"),
            "{report:?}"
        );
        assert_eq!(read(asked(State::Compat, Err("no".to_owned()))).verdict, Verdict::Unavailable);
        assert!(read(asked(State::NvFs, Ok(()))).reason.contains("nvidia-fs"));
        let why = read(asked(State::Unavailable("it spins".to_owned()), Ok(())));
        assert!(why.verdict == Verdict::Usable && why.reason.contains("it spins"), "{why:?}");
    }
}
