//! Tests whose length is an argument.
//!
//! | module | what is there |
//! |---|---|
//! | [`kills`] | processes that work at random on one root, killed at any instant |
//! | [`mixed`] | the same with clears, damage, full disks, slow and failing engines |
//! | [`dice`] | their random numbers |

pub mod dice;
pub mod kills;
pub mod mixed;
