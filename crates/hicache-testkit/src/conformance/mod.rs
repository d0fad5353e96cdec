//! Suites that any `Storage` or `Engine` goes through.
//!
//! A suite is given a closure that makes a fresh thing to test, and what that thing is allowed not to do. It answers
//! with a [`SuiteReport`], which must be asked: [`SuiteReport::assert_complete`] fails on any failed case and also
//! where fewer cases ran than the test says must run, so that a suite can't pass with nothing run.
//!
//! | module | what is there |
//! |---|---|
//! | `report` | [`SuiteReport`], [`CaseOutcome`] |
//! | `run` | runs a case: catches its panic, limits its time |
//! | `storage` | [`storage_suite`], [`StorageTraits`], [`StorageUnderTest`] |
//! | `storage_ground` | what the cases of a storage stand on: memory, pages, comparison |
//! | `storage_pages`, `storage_keys`, `storage_life` | the cases |
//! | `engine` | [`engine_suite`], [`EngineTraits`], [`EngineUnderTest`] |
//! | `engine_ground`, `engine_cases`, `engine_life` | the same for an engine |

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !($condition) {
            return Err($crate::conformance::run::Failure(format!($($message)+)));
        }
    };
}

macro_rules! ensure_eq {
    ($left:expr, $right:expr, $($message:tt)+) => {{
        let (left, right) = (&$left, &$right);
        if left != right {
            let message = format!($($message)+);
            return Err($crate::conformance::run::Failure(format!("{message}: {left:?} must be {right:?}")));
        }
    }};
}

mod engine;
mod engine_cases;
mod engine_ground;
mod engine_life;
mod report;
mod run;
mod storage;
mod storage_ground;
mod storage_keys;
mod storage_life;
mod storage_pages;

pub use engine::{EngineTraits, EngineUnderTest, engine_suite};
pub use report::{CaseOutcome, SuiteReport};
pub use storage::{StorageTraits, StorageUnderTest, storage_suite};
pub(crate) use storage_keys::list_all;
