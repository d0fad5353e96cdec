//! A page that is stored and loaded to see whether a bucket works, by as many at a time as like: all of them use the same
//! object, since nothing deletes it.

use std::hash::{BuildHasher, RandomState};

use hicache_core::{
    Access, Error, ErrorKind, PageKey, PageMemory, PageRequest, Region, Result, Storage, StoreOptions,
};

/// Length of the page.
pub(crate) const TRIAL_BYTES: usize = 64 << 10;

/// Another one each time, in containers with equal process ids too.
pub(crate) fn salt() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// The bytes of the page: the salt, and what follows from it.
fn pattern(salt: u64) -> Vec<u8> {
    let mut state = salt;
    let mut bytes = Vec::with_capacity(TRIAL_BYTES);
    while bytes.len() < TRIAL_BYTES {
        bytes.extend_from_slice(&state.to_le_bytes());
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    }
    bytes
}

fn is_pattern(bytes: &[u8]) -> bool {
    bytes.first_chunk().is_some_and(|salt| bytes == pattern(u64::from_le_bytes(*salt)))
}

fn request(storage: &dyn Storage) -> Result<(PageKey, PageMemory)> {
    let registered = storage.register(&Region::allocate(1, TRIAL_BYTES)?)?;
    Ok((PageKey::from_text("probe")?, registered.page(0, TRIAL_BYTES, Access::Write)?))
}

/// Stores the page of `salt`.
pub(crate) fn store(storage: &dyn Storage, salt: u64) -> Result<()> {
    let (key, mut memory) = request(storage)?;
    memory.copy_from(&pattern(salt))?;
    let stored = storage.store(vec![PageRequest::new(key, memory)], StoreOptions { overwrite: true }).wait();
    stored.outcomes[0].error().map_or(Ok(()), |error| Err(error.clone()))
}

/// Loads the page. Whose it is does not matter: another one may have stored its own meanwhile.
pub(crate) fn load(storage: &dyn Storage) -> Result<()> {
    let (key, memory) = request(storage)?;
    let mut loaded = storage.load(vec![PageRequest::new(key, memory)]).wait();
    loaded.outcomes[0].error().map_or(Ok(()), |error| Err(error.clone()))?;
    let mut seen = vec![0; TRIAL_BYTES];
    if let Some(memory) = loaded.memory.pop().flatten() {
        memory.copy_to(&mut seen)?;
    }
    match loaded.outcomes[0].is_done() && is_pattern(&seen) {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Corrupt, "the bytes loaded are not the bytes stored")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_known_by_its_own_salt() {
        assert_ne!(salt(), salt());
        for salt in [0, 1, salt()] {
            let mut page = pattern(salt);
            assert!(page.len() == TRIAL_BYTES && is_pattern(&page));
            for at in [0, 7, 8, TRIAL_BYTES - 1] {
                page[at] ^= 1;
                assert!(!is_pattern(&page), "byte {at}");
                page[at] ^= 1;
            }
        }
        assert!(!is_pattern(&[0; TRIAL_BYTES]) && !is_pattern(&[]));
    }
}
