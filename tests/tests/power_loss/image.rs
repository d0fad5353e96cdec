//! One of the many things that a disk may hold after the power failed at a moment.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use super::disk::{BLOCK, Block, Content, Disk, Inode, SECTOR, When};

/// When the power failed, and what the disk is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// What began at this line of the record or later was not done.
    pub(crate) at: usize,
    /// Whether the sync of a file brings its name along, as journaling file systems do. If not, only the sync of its
    /// directory does.
    pub(crate) names_with_files: bool,
    /// Whether the directories were made so long ago that their names are on the disk.
    pub(crate) old_directories: bool,
    /// Whether sectors reach the disk each by itself.
    pub(crate) torn: bool,
    /// Whether space that was never written holds what something else left there, instead of zeros.
    pub(crate) stale: bool,
    /// How likely what was not synced is to have reached the disk, in 256ths; `None`: another for every file.
    pub(crate) reached: Option<u8>,
}

const LIKELY: [u8; 5] = [0, 40, 128, 215, 255];

pub(crate) fn below(random: &mut ChaCha8Rng, limit: usize) -> usize {
    (random.next_u64() % limit as u64) as usize
}

impl Cut {
    /// At a random line of the record up to `last`, or where something was just answered.
    pub(crate) fn random(random: &mut ChaCha8Rng, last: usize, answered: &[usize], group: bool) -> Self {
        let at = match answered {
            [_, ..] if random.next_u32().is_multiple_of(2) => {
                answered[below(random, answered.len())] + 1 + below(random, 3)
            }
            _ => 1 + below(random, last),
        };
        Self {
            at,
            // Without syncs there would hardly ever be a store to open.
            old_directories: !group && below(random, 4) > 0,
            names_with_files: below(random, 3) == 0,
            torn: below(random, 3) == 0,
            stale: below(random, 6) == 0,
            reached: (below(random, 3) > 0).then(|| LIKELY[below(random, LIKELY.len())]),
        }
    }

    fn likely(&self, random: &mut ChaCha8Rng) -> u8 {
        self.reached.unwrap_or_else(|| LIKELY[below(random, LIKELY.len())])
    }
}

/// Whether it has, at this likelihood. 0 is never, 255 always.
fn reached(random: &mut ChaCha8Rng, likely: u8) -> bool {
    below(random, 255) < usize::from(likely)
}

/// Of the states of something the one that is on the disk: the synced one or a later one that had begun.
fn survivor<'a, T>(
    random: &mut ChaCha8Rng,
    likely: u8,
    states: &'a [(When, T)],
    synced: usize,
    cut: usize,
) -> Option<&'a T> {
    let oldest = states.iter().rposition(|(when, _)| when.ended < synced);
    let newest = states.iter().rposition(|(when, _)| when.begun < cut)?;
    // One more stands for the state before the first.
    let (oldest, newest) = (oldest.map_or(0, |at| at + 1), newest + 1);
    let chosen = if newest <= oldest || reached(random, likely) {
        newest.max(oldest)
    } else if likely > 0 && random.next_u32().is_multiple_of(2) {
        oldest + below(random, newest - oldest + 1)
    } else {
        oldest
    };
    chosen.checked_sub(1).map(|at| &states[at].1)
}

/// Where an image is being written.
struct Writer<'a> {
    disk: &'a Disk,
    cut: Cut,
    random: &'a mut ChaCha8Rng,
    /// Where each file that has a name already lies.
    placed: HashMap<Inode, PathBuf>,
}

/// Writes what the disk holds after `cut` into the empty directory `target`.
pub(crate) fn write(disk: &Disk, cut: Cut, random: &mut ChaCha8Rng, target: &Path) {
    Writer { disk, cut, random, placed: HashMap::new() }.directory(Disk::ROOT, target);
}

impl Writer<'_> {
    fn directory(&mut self, node: Inode, target: &Path) {
        let Content::Directory { changes, .. } = &self.disk.nodes[node].content else { return };
        let synced = self.disk.synced(node, self.cut.at);
        let likely = self.cut.likely(self.random);
        let mut names: BTreeMap<&str, Inode> = BTreeMap::new();
        for change in changes.iter().filter(|change| change.when.begun < self.cut.at) {
            let directory = |inode: &Option<Inode>| inode.is_some_and(|inode| self.disk.is_directory(inode));
            let old = self.cut.old_directories && change.entries.iter().any(|(_, inode)| directory(inode));
            let mut certain = change.when.ended < synced || old;
            if self.cut.names_with_files {
                let mut named = change.entries.iter().filter_map(|(_, inode)| *inode);
                certain |= named.any(|inode| change.when.ended < self.disk.name_synced(inode, self.cut.at));
            }
            if !certain && !reached(self.random, likely) {
                continue;
            }
            for (name, inode) in &change.entries {
                match inode {
                    Some(inode) => _ = names.insert(name, *inode),
                    None => _ = names.remove(name.as_str()),
                }
            }
        }
        for (name, inode) in names {
            let path = target.join(name);
            if let Content::Directory { .. } = self.disk.nodes[inode].content {
                fs::create_dir(&path).unwrap();
                self.directory(inode, &path);
            } else if let Some(first) = self.placed.get(&inode) {
                fs::hard_link(first, &path).unwrap();
            } else {
                self.file(inode, &path);
                self.placed.insert(inode, path);
            }
        }
    }

    fn file(&mut self, node: Inode, path: &Path) {
        let Content::File { blocks, sizes } = &self.disk.nodes[node].content else { return };
        let (cut, synced) = (self.cut.at, self.disk.synced(node, self.cut.at));
        let likely = self.cut.likely(self.random);
        let size = survivor(self.random, likely, sizes, synced, cut).copied().unwrap_or(0);
        let file = File::create_new(path).unwrap();
        file.set_len(size).unwrap();
        if let Some(counters) = self.disk.mapped.get(&node) {
            file.write_all_at(&self.counters(counters, size), 0).unwrap();
            return;
        }
        for (&number, versions) in blocks {
            let offset = number * BLOCK as u64;
            if offset >= size {
                break;
            }
            let block = self.block(likely, versions, synced);
            let length = (size - offset).min(BLOCK as u64) as usize;
            if block.iter().any(|&byte| byte != 0) {
                file.write_all_at(&block[..length], offset).unwrap();
            }
        }
    }

    /// Counters only grow, and any value on the way to the last may be the one that reached the disk.
    fn counters(&mut self, last: &[u8], size: u64) -> Vec<u8> {
        let (words, _) = last.as_chunks::<8>();
        let words = words.iter().map(|word| {
            let last = u64::from_le_bytes(*word);
            self.random.next_u64() % last.saturating_add(1)
        });
        let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        bytes.resize(size as usize, 0);
        bytes
    }

    fn block(&mut self, likely: u8, versions: &[(When, Block)], synced: usize) -> [u8; BLOCK] {
        let cut = self.cut.at;
        let fresh = if self.cut.stale { self.stale() } else { [0; BLOCK] };
        if !self.cut.torn {
            return survivor(self.random, likely, versions, synced, cut).map_or(fresh, |block| **block);
        }
        let mut torn = fresh;
        for start in (0..BLOCK).step_by(SECTOR) {
            if let Some(block) = survivor(self.random, likely, versions, synced, cut) {
                torn[start..start + SECTOR].copy_from_slice(&block[start..start + SECTOR]);
            }
        }
        torn
    }

    /// A block that some file had at some time.
    fn stale(&mut self) -> [u8; BLOCK] {
        for _ in 0..20 {
            let node = &self.disk.nodes[below(self.random, self.disk.nodes.len())];
            let Content::File { blocks, .. } = &node.content else { continue };
            if blocks.is_empty() {
                continue;
            }
            let versions = blocks.values().nth(below(self.random, blocks.len()));
            let before = |(when, _): &&(When, Block)| when.ended < self.cut.at;
            let Some((_, block)) = versions.and_then(|versions| versions.iter().rfind(before)) else {
                continue;
            };
            return **block;
        }
        [0; BLOCK]
    }
}
