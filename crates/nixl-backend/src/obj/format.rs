//! The bytes of an object: a head that says what follows, then the page. All numbers are little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 0–7 | `HICNIXL1` |
//! | 8–15 | length of the page |
//! | 16–23 | CRC-64/NVMe of the page |
//! | 24–55 | zeros |
//! | 56–63 | CRC-64/NVMe of bytes 0–55 and of the object's name |
//! | 64– | the page |
//!
//! NIXL answers a read of more bytes than an object has with success, and leaves the rest of the memory as it was; so
//! what a read brought is only what the head and its checksums say.

use hicache_core::hashing::checksum_pieces;

/// Length of the head.
pub(crate) const HEAD_BYTES: usize = 64;

const MAGIC: &[u8; 8] = b"HICNIXL1";
const LENGTH: std::ops::Range<usize> = 8..16;
const CHECKSUM: std::ops::Range<usize> = 16..24;
const CHECK: std::ops::Range<usize> = 56..64;
/// What memory holds before something is read into it.
const BLANK: u8 = 0xa5;

/// What is wrong with the bytes that a read brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// No head of ours, or one of another object.
    Head,
    /// A page of this length.
    Length(u64),
    /// Not the bytes that were stored.
    Bytes,
}

/// Writes the head of a page that lies behind it in `object`.
pub(crate) fn seal(object: &mut [u8], name: &str) {
    let (head, page) = object.split_at_mut(HEAD_BYTES);
    head.fill(0);
    head[..MAGIC.len()].copy_from_slice(MAGIC);
    head[LENGTH].copy_from_slice(&(page.len() as u64).to_le_bytes());
    head[CHECKSUM].copy_from_slice(&checksum_pieces([&*page]).to_le_bytes());
    let check = check(head, name);
    head[CHECK].copy_from_slice(&check.to_le_bytes());
}

/// Makes memory unlike any object, before one is read into it: a read that brings nothing, or stops before the end,
/// must not find there what an earlier one left.
pub(crate) fn blank(object: &mut [u8]) {
    let end = object.len().saturating_sub(HEAD_BYTES);
    object[end..].fill(BLANK);
    let head = object.len().min(HEAD_BYTES);
    object[..head].fill(BLANK);
}

/// Whether `object` is the page of its length that was stored under `name`, every byte of it.
pub(crate) fn verify(object: &[u8], name: &str) -> Result<(), Wrong> {
    let Some((head, page)) = object.split_at_checked(HEAD_BYTES) else { return Err(Wrong::Head) };
    if !head.starts_with(MAGIC) || number(head, CHECK) != check(head, name) {
        return Err(Wrong::Head);
    }
    match number(head, LENGTH) {
        length if length != page.len() as u64 => Err(Wrong::Length(length)),
        _ if number(head, CHECKSUM) != checksum_pieces([page]) => Err(Wrong::Bytes),
        _ => Ok(()),
    }
}

fn check(head: &[u8], name: &str) -> u64 {
    checksum_pieces([&head[..CHECK.start], name.as_bytes()])
}

fn number(head: &[u8], at: std::ops::Range<usize>) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&head[at]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(page: &[u8], name: &str) -> Vec<u8> {
        let mut object = vec![0; HEAD_BYTES];
        object.extend_from_slice(page);
        seal(&mut object, name);
        object
    }

    #[test]
    fn every_changed_byte_is_seen() {
        let object = sealed(&[7; 100], "a/b.kv");
        assert_eq!(verify(&object, "a/b.kv"), Ok(()));
        assert_eq!(verify(&object, "a/c.kv"), Err(Wrong::Head), "the page of another key");
        for at in 0..object.len() {
            let mut changed = object.clone();
            changed[at] ^= 1;
            assert!(verify(&changed, "a/b.kv").is_err(), "byte {at}");
        }
        assert_eq!(verify(&object[..HEAD_BYTES + 50], "a/b.kv"), Err(Wrong::Length(100)));
        for short in 0..HEAD_BYTES {
            assert_eq!(verify(&object[..short], "a/b.kv"), Err(Wrong::Head));
        }
        assert_eq!(verify(&sealed(&[], "n"), "n"), Ok(()));
    }

    /// The memory held the same object before: what did not come now must not count.
    #[test]
    fn what_an_earlier_read_left_does_not_count() {
        let object = sealed(&[7; 1000], "n");
        for came in [0, 1, HEAD_BYTES, HEAD_BYTES + 1, object.len() - HEAD_BYTES, object.len() - 1] {
            let mut memory = object.clone();
            blank(&mut memory);
            memory[..came].copy_from_slice(&object[..came]);
            assert!(verify(&memory, "n").is_err(), "{came} bytes came");
        }
        let mut memory = object.clone();
        blank(&mut memory);
        memory.copy_from_slice(&object);
        assert_eq!(verify(&memory, "n"), Ok(()));
    }

    /// The format is what others have to read; it does not change by accident.
    #[test]
    fn the_bytes_are_these() {
        let object = sealed(b"123456789", "n");
        assert_eq!(&object[..8], b"HICNIXL1");
        assert_eq!(object[8..16], 9_u64.to_le_bytes());
        // The check value of CRC-64/NVMe.
        assert_eq!(object[16..24], 0xae8b_1486_0a79_9888_u64.to_le_bytes());
        assert!(object[24..56].iter().all(|&byte| byte == 0));
    }
}
