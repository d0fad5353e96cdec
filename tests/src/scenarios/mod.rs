//! Tests whose length is an argument.
//!
//! | module | what is there |
//! |---|---|
//! | [`kills`] | processes that work at random on one root, killed at any instant |
//! | [`mixed`] | the same with clears, damage, full disks, slow and failing engines |
//! | [`damage`] | damage to the files of the dead |
//! | [`medium`] | a small file system that somebody else fills |
//! | [`flat`] | open files and memory of those that live long |
//! | [`dice`] | random numbers |

pub mod damage;
pub mod dice;
pub mod flat;
pub mod kills;
pub mod medium;
pub mod mixed;
