//! A reference model: what a storage may answer after any sequence of operations.
//!
//! | module | what is there |
//! |---|---|
//! | `operation` | [`Op`] and [`operations`]: random sequences over a small [`Universe`] of keys and lengths |
//! | `expectation` | [`Semantics`]: what is known of each key, sharpened by every answer |
//! | `player` | [`run_sequence`]: plays a sequence on a storage and on the model |

mod expectation;
mod operation;
mod player;

pub use expectation::Semantics;
pub use operation::{Op, Universe, operations};
pub use player::{Played, run_sequence};
