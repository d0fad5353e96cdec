//! Damage to the files of sets that nobody holds.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::dice::Dice;
use crate::ground::dead_sets;

/// How often what was done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Damage {
    /// Files with bits turned over.
    pub flipped: u64,
    /// Files cut at their end.
    pub cut: u64,
    /// Files with noise behind their end.
    pub grown: u64,
    /// Files removed.
    pub removed: u64,
}

impl Damage {
    /// Damages a file or two of each dead set under `root`. Nobody may be opening a store there.
    pub fn strike(&mut self, root: &Path, dice: &mut Dice) {
        for set in dead_sets(root) {
            let files = files_of(&set);
            for _ in 0..=dice.below(2) {
                let Some(path) = files.get(dice.below(files.len() as u64) as usize) else { continue };
                // A file that another strike has removed.
                let _ = self.one(path, dice);
            }
        }
    }

    fn one(&mut self, path: &Path, dice: &mut Dice) -> io::Result<()> {
        if dice.one_in(12) {
            fs::remove_file(path)?;
            self.removed += 1;
            return Ok(());
        }
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let length = file.metadata()?.len();
        match dice.below(5) {
            0 => {
                file.set_len(dice.below(length))?;
                self.cut += 1;
            }
            1 => {
                let noise: Vec<u8> = (0..dice.below(300)).map(|_| dice.below(256) as u8).collect();
                file.write_all_at(&noise, length)?;
                self.grown += 1;
            }
            _ => {
                for _ in 0..=dice.below(8) {
                    let (at, mut byte) = (dice.below(length), [0]);
                    file.read_exact_at(&mut byte, at)?;
                    byte[0] ^= 1 << dice.below(8);
                    file.write_all_at(&byte, at)?;
                }
                self.flipped += 1;
            }
        }
        Ok(())
    }
}

/// The files of a set in which damage may be done: not its lock.
fn files_of(set: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(set)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file() && path.file_name().is_none_or(|name| name != "LOCK"))
        .collect();
    files.sort();
    files
}
