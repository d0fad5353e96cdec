use super::*;
use crate::environment::{Environment, Python};

const LONG: Duration = Duration::from_secs(20);

/// What a helper does, as a shell says it.
fn answered(script: &str, longest: Duration) -> Result<(String, String)> {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    finish(command.spawn().unwrap(), longest)
}

fn refused(script: &str) -> String {
    answered(script, LONG).unwrap_err().to_string()
}

fn report(verdict: &str) -> String {
    format!(
        r#"{{"directories": [{{"backends": [{{"backend": "nixl:GDS", "verdict": "{verdict}", "reason": "so",
        "checks": [{{"name": "GPU", "passed": true, "detail": "1"}}]}}]}}]}}"#
    )
}

#[test]
fn a_helper_that_hangs_is_killed_and_one_that_crashes_is_said() {
    let begun = Instant::now();
    let hangs = "echo the driver is slow >&2; exec sleep 600";
    let error = answered(hangs, Duration::from_millis(300)).unwrap_err().to_string();
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(error.contains("its process was killed; it said: the driver is slow"), "{error}");
    let error = refused("kill -SEGV $$");
    assert!(error.contains("without an answer") && error.contains("11"), "{error}");
    // What it started holds its output open.
    let begun = Instant::now();
    let (answer, _) = answered("sleep 15 & echo {}", LONG).unwrap();
    assert!(answer.trim() == "{}" && begun.elapsed() < Duration::from_secs(10), "{answer}");
}

#[test]
fn what_it_says_on_standard_error_is_the_reason() {
    let error = refused("echo 'no backend of this build' >&2; exit 2");
    assert!(error.contains("exit status: 2; it said: no backend of this build"), "{error}");
    // The last of much, in one line, without what a terminal would take for commands.
    let error =
        refused("yes nonsense | head -c 1000000 >&2; printf '\\033[31mred\\nlast words\\n' >&2; exit 3");
    assert!(error.contains("[31mred | last words") && error.len() < 2 * LAST_WORDS, "{error}");
    assert!(!error.contains(['\n', '\u{1b}']), "{error}");
}

#[test]
fn an_answer_may_be_longer_than_a_pipe_holds() {
    let (answer, _) = answered("head -c 300000 /dev/zero | tr '\\0' a", LONG).unwrap();
    assert_eq!(answer.len(), 300_000);
    let error = refused("head -c 5000000 /dev/zero | tr '\\0' a");
    assert!(error.contains("is over 4194304 bytes"), "{error}");
}

#[test]
fn the_childs_report_is_the_report() {
    let mut checks = Vec::new();
    assert_eq!(read(&report("usable"), "", "nixl:GDS", &mut checks).unwrap(), "so");
    assert_eq!(checks, [Check::passed("GPU", "1")]);
    let error = read(&report("unavailable"), "", "nixl:GDS", &mut checks).unwrap_err();
    assert!(error.to_string().contains("so"), "{error}");
    assert!(read(&report("usable"), "", "nixl:GDS_MT", &mut checks).is_err());
    let error = read("hello", "; it said: x", "nixl:GDS", &mut checks).unwrap_err().to_string();
    assert!(error.contains("not that of `hicache probe --json`; it said: x"), "{error}");
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

/// The whole way, with a helper that answers what it was told.
#[test]
fn a_helper_is_told_what_concerns_it_and_nothing_of_the_environment() {
    let directory = tempfile::tempdir().unwrap();
    let said = directory.path().join("said");
    let script = format!(
        "echo \"$* [$HICACHE_CONFIG$HICACHE_NIXL_DEPTH$SGLANG_HICACHE_NIXL_USE_DIRECT_IO]\" > {}; echo '{}'",
        said.display(),
        report("usable")
    );
    let config = Config::builder()
        .set("probe_helper", serde_json::json!(["sh", "-c", script]))
        .set("nixl_gds.batch_limit", 64)
        .set("nixl.depth", 77)
        .set("io", "direct")
        .set("device", 3)
        .set("nixl_obj.secret_key", "hidden")
        .build()
        .unwrap();
    let mut checks = Vec::new();
    assert_eq!(ask(&config, "nixl:GDS", directory.path(), LONG, &mut checks).unwrap(), "so");
    assert_eq!(checks.len(), 1);
    let told = std::fs::read_to_string(&said).unwrap();
    let place = directory.path().display();
    assert!(
        told.starts_with(&format!("--json --only nixl:GDS --dir {place} --set nixl.probe=inline")),
        "{told}"
    );
    for part in ["--set nixl_gds.batch_limit=64", "--set nixl.depth=77", "--set io=direct", "--set device=3"]
    {
        assert!(told.contains(part), "{part} is not in: {told}");
    }
    assert!(!told.contains("hidden") && !told.contains("nixl_posix"), "{told}");

    let mut command = helper(&config).unwrap();
    for name in ["HICACHE_CONFIG", "HICACHE_NIXL_DEPTH", "SGLANG_HICACHE_NIXL_USE_DIRECT_IO"] {
        command.env(name, "leaked");
    }
    finish(start(command, "nixl:GDS", &config, directory.path()).unwrap(), LONG).unwrap();
    let told = std::fs::read_to_string(&said).unwrap();
    assert!(told.trim().ends_with("[]"), "{told}");
}
