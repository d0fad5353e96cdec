//! Runs the workload under strace, and makes of its system calls what was done to the disk and what was answered.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hicache_tests::say;

use super::disk::{Content, Disk, Inode, When};
use super::record::Tracker;
use super::strace;

/// The file that the workload says into what it asks and what it is answered. It is not on the disk.
pub(crate) const ANSWERS: &str = "answers";
/// The directory that is the disk.
pub(crate) const DISK: &str = "disk";

/// What is said of the order of things.
#[derive(Clone, Debug)]
pub(crate) enum Note {
    /// A line of the workload's.
    Said(String),
    /// Bytes appended to a journal.
    Journal(Vec<u8>),
}

/// A run of the workload.
pub(crate) struct Recording {
    pub(crate) disk: Disk,
    /// By the line of the record in which each began, in order.
    pub(crate) notes: Vec<(usize, Note)>,
    /// The last line of the record.
    pub(crate) lines: usize,
    /// Finished syncs of files, and of directories.
    pub(crate) syncs: (usize, usize),
}

/// The calls that change files, and those that say which file a descriptor is of. Those that a machine has not are no
/// error.
const CALLS: &str = "trace=?open,openat,?openat2,?creat,close,?dup,?dup2,dup3,fcntl,lseek,write,writev,pwrite64,pwritev,\
    pwritev2,fallocate,?truncate,ftruncate,?rename,?renameat,renameat2,?link,linkat,?symlink,symlinkat,?unlink,unlinkat,\
    ?mkdir,mkdirat,?rmdir,fsync,fdatasync,sync,syncfs,sync_file_range,copy_file_range,sendfile,splice";

/// Runs this test's own binary with `arguments` under strace, on the disk in `directory`. `slow_us`: how much longer
/// than here syncs take, so that more happens meanwhile. `None` where strace is not there or may not trace.
pub(crate) fn record(directory: &Path, arguments: &[String], slow_us: u64) -> Option<Recording> {
    let root = directory.join(DISK);
    fs::create_dir_all(&root).unwrap();
    let mut disk = Disk::new();
    before(&mut disk, Disk::ROOT, &root);
    let text = directory.join("strace");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-xx", "-s", "16777216", "-e", "signal=none", "-e", CALLS]);
    if slow_us > 0 {
        command.args(["-e", &format!("inject=fsync,fdatasync:delay_exit={slow_us}")]);
    }
    command.arg("-o").arg(&text).arg(std::env::current_exe().unwrap()).args(arguments);
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) => {
            say(&format!("went without: strace does not start ({error}), so no power failure was simulated"));
            return None;
        }
    };
    let error = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && error.contains("ptrace") {
        say(&format!(
            "went without: strace may not trace here ({}), so no power failure was simulated",
            error.trim()
        ));
        return None;
    }
    assert!(
        output.status.success(),
        "the workload failed: {}{error}",
        String::from_utf8_lossy(&output.stdout)
    );
    let text = fs::read_to_string(&text).unwrap();
    let mut tracker = Tracker::new(disk, &root, &directory.join(ANSWERS));
    let mut calls = strace::parse(&text);
    tracker.follow(&mut calls);
    let mut recording = Recording {
        disk: tracker.disk,
        notes: tracker.notes,
        lines: text.lines().count(),
        syncs: tracker.syncs,
    };
    recording.notes.sort_by_key(|&(begun, _)| begun);
    after(&mut recording.disk, Disk::ROOT, &root);
    Some(recording)
}

/// Regular files and directories in a directory, by name.
fn entries(path: &Path) -> BTreeMap<String, PathBuf> {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    let kept = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file() || kind.is_dir()));
    kept.map(|entry| (entry.file_name().into_string().unwrap(), entry.path())).collect()
}

/// Takes over what is there before the record begins. It is on the disk.
fn before(disk: &mut Disk, directory: Inode, path: &Path) {
    for (name, path) in entries(path) {
        let node = if path.is_dir() {
            let node = disk.new_directory();
            before(disk, node, &path);
            node
        } else {
            let node = disk.new_file();
            disk.write(node, When::BEFORE, 0, &fs::read(&path).unwrap());
            node
        };
        disk.rename(directory, When::BEFORE, vec![(name, Some(node))]);
    }
}

/// Compares the record with what is really there: a call that the recorder misunderstood, or did not see, shows here.
fn after(disk: &mut Disk, directory: Inode, path: &Path) {
    let real = entries(path);
    let Content::Directory { now, .. } = &disk.nodes[directory].content else { panic!("{path:?} is a file") };
    let now = now.clone();
    let names = |names: Vec<&String>| names.into_iter().cloned().collect::<Vec<_>>();
    assert_eq!(names(now.keys().collect()), names(real.keys().collect()), "names in {}", path.display());
    for (name, path) in real {
        let node = now[&name];
        if path.is_dir() {
            after(disk, node, &path);
            continue;
        }
        let real = fs::read(&path).unwrap();
        if name == "SEQUENCE" {
            disk.mapped.insert(node, real);
            continue;
        }
        assert!(disk.contents(node) == real, "the record of {} is not what it holds", path.display());
    }
}
