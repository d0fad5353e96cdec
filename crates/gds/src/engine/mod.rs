//! The engine on cuFile.
//!
//! | module | what is there |
//! |---|---|
//! | `config` | [`CuFileConfig`], [`Calls`] |
//! | `files` | the descriptor that cuFile gets |
//! | `moves` | what a thread does with a part |
//! | `cufile_engine` | [`CuFileEngine`] |

mod config;
mod cufile_engine;
mod files;
mod moves;

#[cfg(test)]
mod engine_tests;

pub use config::{Calls, CuFileConfig};
pub use cufile_engine::CuFileEngine;
