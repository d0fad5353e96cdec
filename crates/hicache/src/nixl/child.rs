//! A probe that may hang or crash, in a process that can be killed: `hicache probe` of one backend.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hicache_core::probing::probe_on_a_thread;
use hicache_core::{Backend, Check, Engine, Error, ErrorKind, Offer, ProbeContext, ProbeReport, Result};
use hicache_nixl_backend::NixlFileBackend;
use hicache_nixl_backend::backend::gpu;
use serde_json::Value;

use crate::config::{Config, Origin};

const PAUSE: Duration = Duration::from_millis(10);
/// On top of the child's time, so that it is the one that says what hung.
const GRACE: Duration = Duration::from_secs(5);

/// A backend that is probed by a helper.
#[derive(Debug)]
pub(super) struct ProbedInChild {
    inner: NixlFileBackend,
    config: Config,
}

impl ProbedInChild {
    pub(super) fn new(inner: NixlFileBackend, config: &Config) -> Self {
        Self { inner, config: config.clone() }
    }
}

#[async_trait]
impl Backend for ProbedInChild {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn offer(&self) -> Offer {
        self.inner.offer()
    }

    fn summary(&self) -> &'static str {
        self.inner.summary()
    }

    async fn probe(&self, context: &ProbeContext) -> ProbeReport {
        if self.config.settings().nixl.probe == "inline" {
            return self.inner.probe(context).await;
        }
        let longest = Duration::from_millis(self.config.settings().nixl.probe_timeout_ms);
        let (name, config, directory) = (self.name(), self.config.clone(), context.directory.clone());
        let memory = self.inner.plugin.moves(context.memory);
        let work = move |checks: &mut Vec<Check>| {
            if !memory {
                return Err(Error::new(ErrorKind::Unsupported, "this kind of memory is not moved"));
            }
            // The driver's own files say most of it, and no process is needed for that.
            gpu::device_node().inspect_err(|error| checks.push(Check::failed("GPU", error.message())))?;
            let child = start(helper(&config)?, name, &config, &directory)?;
            read(&finish(child, longest)?, name, checks)
        };
        probe_on_a_thread(name, Offer::Engine, longest + GRACE, work).await
    }

    fn open_engine(&self) -> Result<Arc<dyn Engine>> {
        self.inner.open_engine()
    }
}

fn unavailable(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unavailable, message)
}

/// The command that probes.
fn helper(config: &Config) -> Result<Command> {
    if let Some([program, arguments @ ..]) = config.settings().probe_helper.as_deref() {
        let mut command = Command::new(program);
        command.args(arguments);
        return Ok(command);
    }
    // A program that embeds Python may have no interpreter.
    if let Some(python) = config.python().filter(|python| python.executable.is_absolute()) {
        let mut command = Command::new(&python.executable);
        command.args(["-m", "hicache"]);
        return Ok(command);
    }
    let path = config.variable("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(path).map(|directory| directory.join("hicache")).find(|file| file.is_file());
    found.map(Command::new).ok_or_else(|| {
        unavailable(
            "no helper: it may hang, and is only probed by `hicache`, which is not on PATH; set probe_helper",
        )
    })
}

fn start(mut command: Command, name: &str, config: &Config, directory: &PathBuf) -> Result<Child> {
    command.args(["probe", "--json", "--only", name, "--dir"]).arg(directory);
    command.args(["--set", "nixl.probe=inline"]);
    // What it would not find by itself. Nothing of an object store is among it, so no secret is.
    for explained in config.explain() {
        let concerns = explained.field.starts_with("nixl.") || explained.field.starts_with("nixl_gds");
        if concerns && explained.origin != Origin::Default && explained.field != "nixl.probe" {
            command.args(["--set", &format!("{}={}", explained.field, explained.text)]);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
        .spawn()
        .map_err(|error| unavailable(format!("the helper {command:?} does not start")).with_source(error))
}

/// Waits for the child, and kills it when its time is over.
fn finish(mut child: Child, longest: Duration) -> Result<String> {
    let until = Instant::now() + longest;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                let output = child
                    .wait_with_output()
                    .map_err(|error| unavailable("the helper's answer can't be read").with_source(error))?;
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                return match text.trim().is_empty() {
                    true => Err(unavailable(format!("the helper ended without an answer: {status}"))),
                    false => Ok(text),
                };
            }
            Ok(None) if Instant::now() < until => std::thread::sleep(PAUSE),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(unavailable(format!("no answer within {longest:?}; its process was killed")));
            }
            Err(error) => return Err(unavailable("the helper can't be waited for").with_source(error)),
        }
    }
}

/// What the child saw.
fn read(text: &str, name: &str, checks: &mut Vec<Check>) -> Result<String> {
    let strange = || unavailable("the helper's answer is not that of `hicache probe --json`");
    let report: Value = serde_json::from_str(text).map_err(|error| strange().with_source(error))?;
    let backends = report["directories"][0]["backends"].as_array().ok_or_else(strange)?;
    let seen = backends.iter().find(|seen| seen["backend"] == name).ok_or_else(strange)?;
    for check in seen["checks"].as_array().into_iter().flatten() {
        checks.push(Check {
            name: check["name"].as_str().unwrap_or_default().to_owned(),
            passed: check["passed"] == true,
            detail: check["detail"].as_str().unwrap_or_default().to_owned(),
        });
    }
    let reason = seen["reason"].as_str().unwrap_or_default().to_owned();
    if seen["verdict"] == "usable" { Ok(reason) } else { Err(unavailable(reason)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::{Environment, Python};

    fn script(text: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", text]).stdout(Stdio::piped()).stdin(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    #[test]
    fn a_helper_that_hangs_is_killed_and_one_that_crashes_is_said() {
        let begun = Instant::now();
        let error = finish(script("exec sleep 600"), Duration::from_millis(100)).unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert!(error.to_string().contains("its process was killed"), "{error}");
        let error = finish(script("kill -SEGV $$"), Duration::from_secs(10)).unwrap_err();
        assert!(
            error.to_string().contains("without an answer") && error.to_string().contains("11"),
            "{error}"
        );
    }

    #[test]
    fn the_childs_report_is_the_report() {
        let answer = |verdict: &str| {
            format!(
                r#"{{"directories": [{{"backends": [{{"backend": "nixl:GDS", "verdict": "{verdict}", "reason": "so",
                "checks": [{{"name": "GPU", "passed": true, "detail": "1"}}]}}]}}]}}"#
            )
        };
        let mut checks = Vec::new();
        assert_eq!(read(&answer("usable"), "nixl:GDS", &mut checks).unwrap(), "so");
        assert_eq!(checks, [Check::passed("GPU", "1")]);
        assert!(
            read(&answer("unavailable"), "nixl:GDS", &mut checks).unwrap_err().to_string().contains("so")
        );
        assert!(read(&answer("usable"), "nixl:GDS_MT", &mut checks).is_err());
        assert!(read("hello", "nixl:GDS", &mut checks).is_err());
    }

    #[test]
    fn without_a_helper_it_is_said() {
        let config = Config::builder().build().unwrap();
        assert!(helper(&config).unwrap_err().to_string().contains("no helper"));
        let config =
            Config::builder().set("probe_helper", serde_json::json!(["python3", "-m", "hicache"])).build();
        assert_eq!(helper(&config.unwrap()).unwrap().get_args().count(), 2);
        let python = Python { executable: "/opt/python".into(), site_packages: Vec::new() };
        let environment = Environment::default().with_python(python);
        let helper = helper(&Config::builder().environment(&environment).build().unwrap()).unwrap();
        assert_eq!(helper.get_program(), "/opt/python");
        assert!(helper.get_args().eq(["-m", "hicache"]));
    }
}
