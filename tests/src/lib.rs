//! What the cross-crate tests share: the built binaries, and running them.
//!
//! | module | what is there |
//! |---|---|
//! | [`actor`] | the program of a process that holds a store and does what it is told |
//! | [`process`] | such processes from outside |
//! | [`history`] | what was done to keys, so that each of them can tell a stale page |
//! | [`ground`] | a root that is tested, from outside |
//! | [`mod@bench`] | the store beside the machine's limit |
//! | [`scenarios`] | tests whose length is an argument: short in the gate, long in `cargo xtask soak` |

pub mod actor;
pub mod bench;
pub mod ground;
pub mod history;
pub mod process;
pub mod scenarios;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// The release binary, built once by whichever test comes first.
pub fn hicache() -> Command {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    Command::new(BINARY.get_or_init(|| built("hicache-cli", "hicache")))
}

/// The release binary of [`actor`], built likewise.
pub fn actor_binary() -> Command {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    Command::new(BINARY.get_or_init(|| built("hicache-tests", "hicache-actor")))
}

/// The release binary of [`mod@bench`], built likewise.
pub fn bench_binary() -> Command {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    Command::new(BINARY.get_or_init(|| built("hicache-tests", "hicache-bench")))
}

fn built(package: &str, binary: &str) -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["build", "--release", "--package", package, "--bin", binary])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(workspace())
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "{binary} does not build");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == binary)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo says where the binary is")
}

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is inside the workspace")
}

/// The recorded hour of production requests, where it lies beside the checkout.
pub fn trace() -> Option<PathBuf> {
    let path = workspace().join("../shared/traces/conversation_trace.jsonl");
    if path.is_file() {
        return Some(path);
    }
    say(
        "went without: the recorded trace is not beside the checkout (shared/traces/conversation_trace.jsonl)",
    );
    None
}

/// The value of an argument `name=value` of this test's binary. To the harness such an argument is a filter that no
/// test matches, so it stands beside one that does: `cargo test --test crash -- kills rounds=200`.
pub fn argument(name: &str) -> Option<String> {
    std::env::args().find_map(|argument| Some(argument.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}

/// Prints to the test's output.
pub fn say(line: &str) {
    #[expect(clippy::print_stdout, reason = "the gate reads these lines")]
    {
        println!("{line}");
    }
}

/// Runs a command that prints one JSON object, whatever its exit code.
pub fn json(command: &mut Command) -> (Value, Option<i32>) {
    let output = command.output().expect("the command starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    let value = serde_json::from_str(&text)
        .unwrap_or_else(|problem| panic!("{command:?} printed no JSON ({problem}): {text}\n{error}"));
    (value, output.status.code())
}

/// A number of a JSON object.
pub fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("{field} is not a number in {value}"))
}

/// What `du` says of a directory, in bytes.
pub fn disk_usage(directory: &Path) -> u64 {
    let output = Command::new("du")
        .args(["--summarize", "--block-size=1"])
        .arg(directory)
        .output()
        .expect("du starts");
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}
