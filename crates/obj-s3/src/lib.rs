//! Pages in an object store: AWS S3 and everything that speaks it.
//!
//! | module | what is there |
//! |---|---|
//! | `config` | [`S3Config`]: where pages are kept, and how long anything may take |
//! | `storage` | [`S3Storage`], the `Storage` |
//! | `backend` | [`S3Backend`]: probe and opening |
//! | `shared` | what its parts share |
//! | `load`, `store`, `keys` | the calls |
//! | `known` | what is known of keys without asking |
//! | `layout`, `manifest` | names of objects; the object that says what a namespace is of |
//! | `metadata` | what an object says of its page |
//! | `body`, `answer` | a page as the body of requests; bodies that come back |
//! | `abreast` | work on the pages of a batch, some at a time |
//! | `attempts` | tries of a request over the endpoints, within its time |
//! | `limiter`, `breaker` | how much is asked of an endpoint, and whether at all |
//! | `endpoint` | the requests |
//! | `lean`, `sign`, `line` | requests for pages without the SDK's layers; their signatures; their connections |
//! | `connect` | TLS, proxy |
//! | `credentials` | who asks: got when needed, renewed behind the requests |
//! | `fault` | what went wrong, and what that means |
//!
//! # What it promises
//!
//! - A load is `Done` only if as many bytes came as were stored and their CRC-64/NVMe is the one that was stored. A body
//!   that is not so is asked for again while there is time; if it stays so, the page is `Corrupt`, and the next store
//!   replaces it.
//! - A missing page, a missing bucket, a refusal, a store that is slow and one that is down are told apart.
//! - A load ends by its deadline, `Timeout` if need be; its memory is then no longer in use.
//! - A page is sent from the leased memory, which comes back when no connection reads it any more. Memory of somebody
//!   else is copied as it is sent, and comes back at once.
//! - Pages are put only where nothing is, unless they are to replace what is there.
//! - No error and no log line holds a credential.

mod abreast;
mod answer;
mod attempts;
mod backend;
mod body;
mod breaker;
mod config;
mod connect;
mod credentials;
mod endpoint;
mod fault;
mod keys;
mod known;
mod layout;
mod lean;
mod limiter;
mod line;
mod load;
mod manifest;
mod metadata;
mod shared;
mod sign;
mod storage;
mod store;

pub use backend::S3Backend;
pub use config::{Access, Encryption, RequestPath, S3Config};
pub use storage::S3Storage;

/// Name of the backend.
pub const NAME: &str = "obj-s3";
