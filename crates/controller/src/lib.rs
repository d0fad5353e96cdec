//! The cache controller: where the pages of which prompts are, on the device, in host memory and in storage, and moving
//! them between the three.
//!
//! | module | what is there |
//! |---|---|
//! | [`config`] | [`ControllerConfig`]: sizes, policies, bounds; what is refused |
//! | [`layout`] | [`Layout`], [`PageShape`]: how the bytes of a page lie, and the plans of copies between layouts |
//! | [`page_state`], [`page_pool`] | what pages may be doing; pools of them |
//! | [`host_pool`], [`device_pool`] | the two pools |
//! | [`tree`] | [`Tree`]: the radix tree over token pages |
//! | [`controller`] | [`Controller`]: what it is made of, and how it is driven |
//! | [`request`] | [`Request`]: begin, finish, cancel a prompt |
//! | `eviction` | making room |
//! | `write`, [`load`] | device to host; host to device, layer by layer |
//! | [`prefetch`], `backup` | storage to host, ahead of need; host to storage |
//! | [`ranks`] | [`RankGroup`]: what ranks agree on, in one process or over TCP |
//! | `storage_link`, `breaker`, `staging`, `workers` | calls to storage, bound and guarded, on threads of their own |
//! | `life_cycle` | attach, detach, reset, clear, shutdown |
//! | [`layer_done`] | [`LoadWait`]: waiting for a layer |
//! | [`account`] | [`Account`]: where every page is |
//! | [`metrics`] | [`Metrics`]: figures for Prometheus |

pub mod account;
mod backup;
mod bell;
mod breaker;
pub mod config;
pub mod controller;
mod copy_queue;
pub mod device_pool;
mod eviction;
pub mod host_pool;
pub mod layer_done;
pub mod layout;
mod life_cycle;
pub mod load;
pub mod metrics;
pub mod page_pool;
pub mod page_state;
pub mod prefetch;
mod prefetch_worker;
mod progress;
pub mod ranks;
pub mod request;
mod staging;
mod storage_link;
mod storage_tier;
mod sync;
pub mod tree;
mod workers;
mod write;

pub use account::Account;
pub use config::{ControllerConfig, IoBackend, PrefetchPolicy, WritePolicy};
pub use controller::{Acknowledged, Controller, Operation};
pub use device_pool::{DevicePage, DevicePool};
pub use host_pool::{HostPage, HostPool};
pub use layer_done::{LayerDone, LayerWait, LoadProducer, LoadWait};
pub use layout::{Attention, Layout, PageShape};
pub use load::LoadGate;
pub use metrics::Metrics;
pub use page_pool::{PageId, PagePool, PoolAccount};
pub use page_state::{DeviceState, HostState, PageState};
pub use prefetch::{PrefetchId, PrefetchStatus};
pub use ranks::{RankGroup, SingleRank, TcpCoordinator, TcpRank, Topic};
pub use request::Request;
pub use tree::{Inserted, Matched, NodeId, PromptSpace, TokenId, Tree};
