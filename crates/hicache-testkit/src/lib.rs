//! What tests of storages and engines share.
//!
//! | module | what is there |
//! |---|---|
//! | [`arguments`] | [`argument`]: how long a test shall take, as an argument of its binary |
//! | [`conformance`] | suites that any `Storage` or `Engine` goes through in about fifteen lines |
//! | [`faults`] | [`FaultyEngine`], [`FaultyStorage`]: wrappers that inject faults by a plan |
//! | [`fork`] | [`forked`](fork::forked): what holds in a child of a process that forks |
//! | [`thread_engine`] | [`ThreadEngine`]: an engine that a test can stop in any phase |
//! | [`model`] | what a storage may answer after any sequence of operations, and random sequences |
//! | [`content`] | [`Content`]: the bytes of a page as a function of key, version and length |
//!
//! It names no backend, needs no async runtime, and is not published.

pub mod arguments;
pub mod conformance;
pub mod content;
pub mod faults;
pub mod fork;
pub mod model;
pub mod thread_engine;

pub use arguments::argument;
pub use content::{Content, WrongByte, numbered_key};
pub use faults::{
    EngineFault, FaultPlan, FaultyEngine, FaultyStorage, InjectedFaults, Operation, StorageFault,
};
pub use model::{Op, Played, Semantics, Universe, operations, run_sequence};
pub use thread_engine::{Gate, Phase, ThreadEngine};
