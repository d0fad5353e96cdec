//! A file system of its own for a root, small enough to be filled by somebody else.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::say;

/// A directory, on a small tmpfs where one may be mounted.
#[derive(Debug)]
pub struct Medium {
    directory: tempfile::TempDir,
    mounted: bool,
    somebodys: Option<PathBuf>,
}

impl Medium {
    /// One with room for `bytes`.
    pub fn new(bytes: u64) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(directory.path())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            say("went without: no tmpfs may be mounted here, so the disk is never full");
        }
        Self { directory, mounted, somebodys: None }
    }

    /// The root of a store on it.
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// Whether somebody's file takes all the room now.
    pub fn is_full(&self) -> bool {
        self.somebodys.is_some()
    }

    /// Somebody writes a file until nothing fits any more.
    pub fn fill(&mut self) {
        if !self.mounted || self.is_full() {
            return;
        }
        let path = self.directory.path().join("somebodys");
        if let Ok(mut file) = File::create(&path) {
            while file.write_all(&[0x5a; 64 << 10]).is_ok() {}
        }
        self.somebodys = Some(path);
    }

    /// And removes it.
    pub fn empty(&mut self) {
        if let Some(path) = self.somebodys.take() {
            fs::remove_file(path).expect("somebody's file is there");
        }
    }
}

impl Drop for Medium {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg("-l").arg(self.directory.path()).status();
        }
    }
}
