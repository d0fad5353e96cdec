//! Follows system calls: which descriptor is of which file, and what each call does to the disk.

use std::collections::HashMap;
use std::path::Path;

use super::disk::{Disk, Inode, When};
use super::recorder::Note;
use super::strace::Call;

/// What a descriptor is of. `None` of these: a file that is no part of the disk.
#[derive(Clone, Copy, Debug)]
enum Open {
    Node { node: Inode, journal: bool },
    Answers,
}

pub(crate) struct Tracker {
    pub(crate) disk: Disk,
    pub(crate) notes: Vec<(usize, Note)>,
    /// Of files, of directories.
    pub(crate) syncs: (usize, usize),
    root: String,
    answers: String,
    descriptors: HashMap<i64, Open>,
    /// Where the next `write` goes. (Descriptors that share it are not written to in this way.)
    positions: HashMap<i64, u64>,
}

/// The names of a directory that a path leads through, and the last one.
struct Place {
    directory: Inode,
    name: String,
}

impl Tracker {
    pub(crate) fn new(disk: Disk, root: &Path, answers: &Path) -> Self {
        let text = |path: &Path| path.to_str().expect("temporary folders have plain names").to_owned();
        Self {
            disk,
            notes: Vec::new(),
            syncs: (0, 0),
            root: text(root),
            answers: text(answers),
            descriptors: HashMap::new(),
            positions: HashMap::new(),
        }
    }

    /// Goes through the calls in the order in which they could see each other's effects: what uses a descriptor where
    /// it begins, what gives a descriptor or changes a name where it ended.
    pub(crate) fn follow(&mut self, calls: &mut [Call]) {
        let at = |call: &Call| if names(&call.name) { call.ended } else { call.begun };
        calls.sort_by_key(at);
        for call in calls {
            let tried = call.result.is_none() && !names(&call.name);
            if call.succeeded() || tried {
                self.apply(call);
            }
        }
    }

    fn apply(&mut self, call: &Call) {
        let when = When { begun: call.begun, ended: call.ended };
        match call.name.as_str() {
            "open" => self.open(call, when, None, 0),
            "openat" => self.open(call, when, Some(call.number(0)), 1),
            "close" => _ = self.descriptors.remove(&call.number(0)),
            "dup" | "dup2" | "dup3" => self.duplicate(call),
            "fcntl" if call.has_flag(1, "F_DUPFD") || call.has_flag(1, "F_DUPFD_CLOEXEC") => {
                self.duplicate(call)
            }
            "fcntl" | "sync_file_range" => {}
            "lseek" => _ = self.positions.insert(call.number(0), call.result.unwrap_or(0) as u64),
            "write" => self.write(call, when, call.bytes(1), None),
            "writev" => self.write(call, when, &call.gathered(1), None),
            "pwrite64" => self.write(call, when, call.bytes(1), Some(call.number(3) as u64)),
            "pwritev" | "pwritev2" => self.write(call, when, &call.gathered(1), Some(call.number(3) as u64)),
            "fallocate" => self.allocate(call, when),
            "ftruncate" => {
                if let Some(node) = self.node(call.number(0)) {
                    self.disk.resize(node, when, call.number(1) as u64);
                }
            }
            "truncate" => {
                if let Some(node) = self.find(None, call.path(0)) {
                    self.disk.resize(node, when, call.number(1) as u64);
                }
            }
            "fsync" | "fdatasync" => self.sync(call, when),
            "mkdir" => self.make_directory(None, call.path(0), when),
            "mkdirat" => self.make_directory(Some(call.number(0)), call.path(1), when),
            "unlink" | "rmdir" => self.unlink(None, call.path(0), when),
            "unlinkat" => self.unlink(Some(call.number(0)), call.path(1), when),
            "rename" => self.rename((None, call.path(0)), (None, call.path(1)), when),
            "renameat" | "renameat2" => {
                self.rename((Some(call.number(0)), call.path(1)), (Some(call.number(2)), call.path(3)), when);
            }
            "link" => self.link((None, call.path(0)), (None, call.path(1)), when),
            "linkat" => {
                self.link((Some(call.number(0)), call.path(1)), (Some(call.number(2)), call.path(3)), when);
            }
            // Whole-machine syncs and copies inside the kernel: the store has none.
            _ => panic!("the recorder does not know {call:?}"),
        }
    }

    fn node(&self, descriptor: i64) -> Option<Inode> {
        match self.descriptors.get(&descriptor) {
            Some(Open::Node { node, .. }) => Some(*node),
            _ => None,
        }
    }

    fn duplicate(&mut self, call: &Call) {
        if let (Some(&open), Some(result)) = (self.descriptors.get(&call.number(0)), call.result) {
            self.descriptors.insert(result, open);
        }
    }

    /// Where a path leads, if that is on the disk.
    fn place(&self, directory: Option<i64>, path: &str) -> Option<Place> {
        let (mut at, rest) = match path.strip_prefix(&self.root) {
            Some(rest) => (Disk::ROOT, rest),
            None if path.starts_with('/') => return None,
            None => (self.node(directory.filter(|&descriptor| descriptor >= 0)?)?, path),
        };
        let mut names = rest.split('/').filter(|name| !name.is_empty() && *name != ".").peekable();
        while let Some(name) = names.next() {
            assert_ne!(name, "..", "{path} goes up");
            if names.peek().is_none() {
                return Some(Place { directory: at, name: name.to_owned() });
            }
            at = self.disk.lookup(at, name)?;
        }
        Some(Place { directory: at, name: String::new() })
    }

    fn find(&self, directory: Option<i64>, path: &str) -> Option<Inode> {
        let place = self.place(directory, path)?;
        if place.name.is_empty() {
            Some(place.directory)
        } else {
            self.disk.lookup(place.directory, &place.name)
        }
    }

    fn open(&mut self, call: &Call, when: When, directory: Option<i64>, at: usize) {
        let (path, Some(descriptor)) = (call.path(at), call.result) else { return };
        self.positions.insert(descriptor, 0);
        let own = path.strip_prefix("/proc/self/fd/").and_then(|number| number.parse().ok());
        let open = if path == self.answers {
            Some(Open::Answers)
        } else if let Some(own) = own {
            // The same file once more, for direct I/O.
            self.descriptors.get(&own).copied()
        } else {
            let place = self.place(directory, path);
            place.and_then(|place| {
                let node = self.open_place(&place, call.has_flag(at + 1, "O_CREAT"), when)?;
                if call.has_flag(at + 1, "O_TRUNC") && self.disk.size(node) > 0 {
                    self.disk.resize(node, when, 0);
                }
                Some(Open::Node { node, journal: place.name.starts_with("journal-") })
            })
        };
        match open {
            Some(open) => _ = self.descriptors.insert(descriptor, open),
            None => _ = self.descriptors.remove(&descriptor),
        }
    }

    fn open_place(&mut self, place: &Place, create: bool, when: When) -> Option<Inode> {
        if place.name.is_empty() {
            return Some(place.directory);
        }
        let there = self.disk.lookup(place.directory, &place.name);
        if there.is_none() && create {
            let node = self.disk.new_file();
            self.disk.rename(place.directory, when, vec![(place.name.clone(), Some(node))]);
            return Some(node);
        }
        there
    }

    fn write(&mut self, call: &Call, when: When, data: &[u8], offset: Option<u64>) {
        let descriptor = call.number(0);
        let length = call.result.map_or(data.len(), |result| result as usize).min(data.len());
        let data = &data[..length];
        match self.descriptors.get(&descriptor) {
            Some(Open::Answers) => {
                let lines = std::str::from_utf8(data).expect("the workload says text").lines();
                self.notes.extend(lines.map(|line| (when.begun, Note::Said(line.to_owned()))));
            }
            Some(&Open::Node { node, journal }) => {
                let position = self.positions.entry(descriptor).or_default();
                let offset = offset.unwrap_or_else(|| {
                    *position += length as u64;
                    *position - length as u64
                });
                if journal {
                    self.notes.push((when.begun, Note::Journal(data.to_vec())));
                }
                self.disk.write(node, when, offset, data);
            }
            None => {}
        }
    }

    fn allocate(&mut self, call: &Call, when: When) {
        let Some(node) = self.node(call.number(0)) else { return };
        let end = (call.number(2) + call.number(3)) as u64;
        assert!(!call.has_flag(1, "FALLOC_FL_PUNCH_HOLE"), "the recorder does not know holes");
        if !call.has_flag(1, "FALLOC_FL_KEEP_SIZE") && end > self.disk.size(node) {
            self.disk.resize(node, when, end);
        }
    }

    fn sync(&mut self, call: &Call, when: When) {
        if let Some(node) = self.node(call.number(0))
            && call.succeeded()
        {
            let directory = self.disk.is_directory(node);
            self.disk.sync(node, when);
            *(if directory { &mut self.syncs.1 } else { &mut self.syncs.0 }) += 1;
        }
    }

    fn make_directory(&mut self, directory: Option<i64>, path: &str, when: When) {
        let Some(place) = self.place(directory, path) else { return };
        let node = self.disk.new_directory();
        self.disk.rename(place.directory, when, vec![(place.name, Some(node))]);
    }

    fn unlink(&mut self, directory: Option<i64>, path: &str, when: When) {
        let Some(place) = self.place(directory, path) else { return };
        // What is no file, a socket, is not followed.
        if self.disk.lookup(place.directory, &place.name).is_some() {
            self.disk.rename(place.directory, when, vec![(place.name, None)]);
        }
    }

    fn rename(&mut self, from: (Option<i64>, &str), to: (Option<i64>, &str), when: When) {
        let (Some(from), Some(to)) = (self.place(from.0, from.1), self.place(to.0, to.1)) else { return };
        let Some(node) = self.disk.lookup(from.directory, &from.name) else { return };
        if from.directory == to.directory {
            self.disk.rename(to.directory, when, vec![(from.name, None), (to.name, Some(node))]);
        } else {
            // In two directories: each has its own sync.
            self.disk.rename(to.directory, when, vec![(to.name, Some(node))]);
            self.disk.rename(from.directory, when, vec![(from.name, None)]);
        }
    }

    fn link(&mut self, from: (Option<i64>, &str), to: (Option<i64>, &str), when: When) {
        let (Some(node), Some(to)) = (self.find(from.0, from.1), self.place(to.0, to.1)) else { return };
        self.disk.rename(to.directory, when, vec![(to.name, Some(node))]);
    }
}

/// Calls that give descriptors or change names.
fn names(call: &str) -> bool {
    !matches!(
        call,
        "close"
            | "write"
            | "writev"
            | "pwrite64"
            | "pwritev"
            | "pwritev2"
            | "fallocate"
            | "ftruncate"
            | "fsync"
            | "fdatasync"
    )
}
