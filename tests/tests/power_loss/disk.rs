//! What a disk may hold after the power failed: every write, size and name that no finished sync covers has reached
//! it or not, in any order.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The unit in which data reach the disk, and the smaller one of a torn write.
pub(crate) const BLOCK: usize = 4096;
pub(crate) const SECTOR: usize = 512;

pub(crate) type Inode = usize;
pub(crate) type Block = Arc<[u8; BLOCK]>;

/// When something was done: the lines of the record in which it begun and ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct When {
    pub(crate) begun: usize,
    pub(crate) ended: usize,
}

impl When {
    /// Before the record.
    pub(crate) const BEFORE: Self = Self { begun: 0, ended: 0 };
}

/// A change of names in one directory, which is there whole or not at all.
#[derive(Debug)]
pub(crate) struct NameChange {
    pub(crate) when: When,
    pub(crate) entries: Vec<(String, Option<Inode>)>,
}

#[derive(Debug)]
pub(crate) enum Content {
    File {
        /// For each block what it held after each change, the older first.
        blocks: BTreeMap<u64, Vec<(When, Block)>>,
        sizes: Vec<(When, u64)>,
    },
    Directory {
        changes: Vec<NameChange>,
        /// As the running system sees it at the end.
        now: BTreeMap<String, Inode>,
    },
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) content: Content,
    parent: Option<Inode>,
    syncs: Vec<When>,
    /// Syncs of this and of anything below it.
    syncs_below: Vec<When>,
}

/// Everything that was done to a file system. Node 0 is its root.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) nodes: Vec<Node>,
    /// Files of counters that are written through a mapping, which no record shows, with what they held in the end.
    pub(crate) mapped: BTreeMap<Inode, Vec<u8>>,
}

impl Disk {
    pub(crate) const ROOT: Inode = 0;

    pub(crate) fn new() -> Self {
        let mut disk = Self { nodes: Vec::new(), mapped: BTreeMap::new() };
        disk.add(Content::Directory { changes: Vec::new(), now: BTreeMap::new() });
        disk
    }

    fn add(&mut self, content: Content) -> Inode {
        self.nodes.push(Node { content, parent: None, syncs: Vec::new(), syncs_below: Vec::new() });
        self.nodes.len() - 1
    }

    pub(crate) fn new_file(&mut self) -> Inode {
        self.add(Content::File { blocks: BTreeMap::new(), sizes: vec![(When::BEFORE, 0)] })
    }

    pub(crate) fn new_directory(&mut self) -> Inode {
        self.add(Content::Directory { changes: Vec::new(), now: BTreeMap::new() })
    }

    pub(crate) fn lookup(&self, directory: Inode, name: &str) -> Option<Inode> {
        match &self.nodes[directory].content {
            Content::Directory { now, .. } => now.get(name).copied(),
            Content::File { .. } => None,
        }
    }

    /// Changes names in a directory, in one step.
    pub(crate) fn rename(&mut self, directory: Inode, when: When, entries: Vec<(String, Option<Inode>)>) {
        for (_, inode) in &entries {
            if let Some(inode) = *inode {
                self.nodes[inode].parent = Some(directory);
            }
        }
        let Content::Directory { changes, now } = &mut self.nodes[directory].content else {
            panic!("names in a file")
        };
        for (name, inode) in &entries {
            match inode {
                Some(inode) => _ = now.insert(name.clone(), *inode),
                None => _ = now.remove(name),
            }
        }
        changes.push(NameChange { when, entries });
    }

    pub(crate) fn size(&self, file: Inode) -> u64 {
        match &self.nodes[file].content {
            Content::File { sizes, .. } => sizes.last().map_or(0, |&(_, size)| size),
            Content::Directory { .. } => 0,
        }
    }

    pub(crate) fn is_directory(&self, node: Inode) -> bool {
        matches!(self.nodes[node].content, Content::Directory { .. })
    }

    /// What the running system reads from a file at the end.
    pub(crate) fn contents(&self, file: Inode) -> Vec<u8> {
        let mut bytes = vec![0; self.size(file) as usize];
        let Content::File { blocks, .. } = &self.nodes[file].content else { return bytes };
        for (&number, versions) in blocks {
            let start = number as usize * BLOCK;
            if let (Some((_, block)), Some(target)) = (versions.last(), bytes.get_mut(start..)) {
                let length = target.len().min(BLOCK);
                target[..length].copy_from_slice(&block[..length]);
            }
        }
        bytes
    }

    pub(crate) fn write(&mut self, file: Inode, when: When, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        self.change_blocks(file, when, offset, data);
        if end > self.size(file) {
            self.resize(file, when, end);
        }
    }

    fn change_blocks(&mut self, file: Inode, when: When, offset: u64, data: &[u8]) {
        let Content::File { blocks, .. } = &mut self.nodes[file].content else {
            panic!("data in a directory")
        };
        let mut data = data;
        let mut at = offset;
        while !data.is_empty() {
            let start = (at % BLOCK as u64) as usize;
            let length = data.len().min(BLOCK - start);
            let versions = blocks.entry(at / BLOCK as u64).or_default();
            let mut block = versions.last().map_or([0; BLOCK], |(_, block)| **block);
            block[start..start + length].copy_from_slice(&data[..length]);
            versions.push((when, Arc::new(block)));
            (at, data) = (at + length as u64, &data[length..]);
        }
    }

    /// Sets the size; what is cut off reads as zeros if the file grows again.
    pub(crate) fn resize(&mut self, file: Inode, when: When, size: u64) {
        let before = self.size(file);
        let Content::File { sizes, .. } = &mut self.nodes[file].content else {
            panic!("size of a directory")
        };
        sizes.push((when, size));
        if size < before {
            let zeros = vec![0; (before - size) as usize];
            self.change_blocks(file, when, size, &zeros);
        }
    }

    pub(crate) fn sync(&mut self, node: Inode, when: When) {
        self.nodes[node].syncs.push(when);
        let mut above = Some(node);
        while let Some(node) = above {
            self.nodes[node].syncs_below.push(when);
            above = self.nodes[node].parent;
        }
    }

    /// What ended before this has reached the disk for certain, if the power fails at `cut`.
    pub(crate) fn synced(&self, node: Inode, cut: usize) -> usize {
        last_sync(&self.nodes[node].syncs, cut)
    }

    /// The same for the name of a node, where a file system writes the name with what has it.
    pub(crate) fn name_synced(&self, node: Inode, cut: usize) -> usize {
        last_sync(&self.nodes[node].syncs_below, cut)
    }
}

fn last_sync(syncs: &[When], cut: usize) -> usize {
    let finished = syncs.iter().filter(|sync| sync.ended < cut);
    finished.map(|sync| sync.begun).max().unwrap_or(0).max(1)
}
