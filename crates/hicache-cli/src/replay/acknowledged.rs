//! The file of pages that were answered `Done`: what a killed process had promised.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use hicache::PageKey;
use hicache_hashing::Digest;

use crate::exit::Failure;

const DIGEST_BYTES: usize = size_of::<Digest>();

/// Appends to the file, with one write(2) a batch and no buffer: what is written survives the death of this process.
#[derive(Debug)]
pub(crate) struct Acknowledged {
    path: PathBuf,
    file: Mutex<File>,
}

impl Acknowledged {
    /// Opens or makes the file. A torn tail, of a process that was killed in a write, is cut.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let open = || {
            let file = OpenOptions::new().append(true).create(true).open(path)?;
            let length = file.metadata()?.len();
            file.set_len(length - length % DIGEST_BYTES as u64)?;
            Ok(file)
        };
        let file = open().map_err(|error: std::io::Error| {
            Failure::bad_input(format!("{}: can't be appended to: {error}", path.display()))
        })?;
        Ok(Self { path: path.to_owned(), file: Mutex::new(file) })
    }

    /// Appends pages of one batch.
    pub(crate) fn append(&self, keys: &[PageKey]) -> Result<(), Failure> {
        let bytes: Vec<u8> = keys.iter().flat_map(|key| key.digest).collect();
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&bytes).map_err(|error| Failure::failed(format!("{}: {error}", self.path.display())))
    }
}

/// The pages that a file names, each once; a torn tail is left out.
pub(crate) fn read_acknowledged(path: &Path) -> Result<Vec<PageKey>, Failure> {
    let bytes = std::fs::read(path)
        .map_err(|error| Failure::bad_input(format!("{}: can't be read: {error}", path.display())))?;
    let mut digests: Vec<Digest> = bytes.as_chunks::<DIGEST_BYTES>().0.to_vec();
    digests.sort_unstable();
    digests.dedup();
    Ok(digests.into_iter().map(PageKey::kv).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_tail_is_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("acknowledged");
        std::fs::write(&path, [[1; 32], [2; 32]].concat().get(..50).unwrap()).unwrap();
        assert_eq!(read_acknowledged(&path).unwrap(), [PageKey::kv([1; 32])]);
        let file = Acknowledged::open(&path).unwrap();
        file.append(&[PageKey::kv([3; 32]), PageKey::kv([1; 32])]).unwrap();
        file.append(&[]).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 96);
        assert_eq!(read_acknowledged(&path).unwrap(), [PageKey::kv([1; 32]), PageKey::kv([3; 32])]);
        assert!(read_acknowledged(directory.path()).is_err());
    }
}
