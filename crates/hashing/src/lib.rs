//! Hashes that name, check and place the pages of a KV cache.
//!
//! A leaf crate: it depends on nothing else of the workspace, does no I/O, and allocates only what it returns.
//! Everything here is part of the format on disk or of the protocol with SGLang, so a value that has been
//! computed once is the same in every later version; the tests pin vectors of each function.
//!
//! | what | with what | who relies on it |
//! |---|---|---|
//! | [`page_hashes`], [`bigram_page_hashes`] | chained SHA-256, bit for bit SGLang's | keys of pages |
//! | [`chain_seed`] | SHA-256 | keys of pages under a LoRA adapter or a cache salt |
//! | [`text_key_digest`] | SHA-256, kept apart from page hashes | keys that are strings |
//! | [`Fingerprint`] | SHA-256 cut to 16 bytes | names of namespace directories |
//! | [`checksum()`], [`Checksum`] | CRC-64/NVMe | bytes of pages |
//! | [`Joining`] | the same of runs that were summed apart | bytes of pages in pieces |
//! | [`record_check`] | CRC-32C | journal records |
//! | [`route()`] | rendezvous hashing | which root holds a page |
//!
//! ```
//! use hicache_hashing::{page_hashes, to_hex};
//! use std::num::NonZeroUsize;
//!
//! let four = NonZeroUsize::new(4).unwrap();
//! let keys = page_hashes(&[1u64, 2, 3, 4, 5, 6, 7, 8], four, None);
//! assert_eq!(to_hex(&keys[0]), "cf97adeedb59e05bfd73a2b4c2a8885708c4f4f70c84c64b27120e72ab733b72");
//! assert_eq!(to_hex(&keys[1]), "4ebfa8a1f3c341517621838c6e1b9aa350307e3f00b3cbd1a07ef740f54396d6");
//! ```

#![forbid(unsafe_code)]

mod checksum;
mod fingerprint;
mod hex;
mod join;
mod message;
mod page_hash;
mod route;
mod seed;
mod text_key;
mod token;

pub use checksum::{Checksum, checksum, checksum_pieces, record_check};
pub use fingerprint::{Fingerprint, FingerprintBuilder};
pub use hex::{HexError, hex_digits, parse_hex32, to_hex};
pub use join::Joining;
pub use page_hash::{Digest, bigram_page_hashes, page_hash, page_hash_u32, page_hashes};
pub use route::{RootId, route};
pub use seed::chain_seed;
pub use text_key::text_key_digest;
pub use token::{NegativeToken, Token};
