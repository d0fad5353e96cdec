//! What a controller is made with, and what is refused.

use std::fmt;
use std::str::FromStr;

use hicache_core::{Error, Namespace, Result};

use crate::layout::{Attention, Layout, PageShape};

/// The value named `text`.
///
/// # Errors
/// `Config` for an unknown name, with the known ones.
pub(crate) fn one_of<T: Copy, const N: usize>(
    field: &str,
    text: &str,
    all: [T; N],
    name: impl Fn(T) -> &'static str,
) -> Result<T> {
    let names = || all.map(&name).join(", ");
    let found = all.into_iter().find(|value| name(*value) == text);
    found.ok_or_else(|| Error::config(format!("{field} is {text:?}; it is one of {}", names())))
}

/// When device pages are written to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WritePolicy {
    /// As soon as they are in the tree.
    WriteThrough,
    /// When they are used for the second time.
    WriteThroughSelective,
    /// When they are evicted from the device.
    WriteBack,
}

/// How bytes are copied between the tiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoBackend {
    /// Gather and scatter: between any two layouts.
    Kernel,
    /// Plain copies only: for host layouts in which a layer of a page is contiguous.
    Direct,
}

/// When a request stops waiting for its prefetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PrefetchPolicy {
    /// At once: what is there is used.
    BestEffort,
    /// When it is complete.
    WaitComplete,
    /// When it is complete, or its time is up.
    Timeout,
}

macro_rules! named {
    ($type:ident, $field:literal, $($value:ident => $name:literal),+) => {
        impl $type {
            /// All of them.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$value),+];

            /// Its name.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$value => $name),+ }
            }
        }

        impl FromStr for $type {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                one_of($field, text, Self::ALL, Self::as_str)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

named!(WritePolicy, "write_policy", WriteThrough => "write_through",
    WriteThroughSelective => "write_through_selective", WriteBack => "write_back");
named!(IoBackend, "io_backend", Kernel => "kernel", Direct => "direct");
named!(PrefetchPolicy, "prefetch_policy", BestEffort => "best_effort", WaitComplete => "wait_complete",
    Timeout => "timeout");

/// What a controller is made with. Sizes in tokens are multiples of the page.
#[derive(Clone, Debug)]
pub struct ControllerConfig {
    /// What a page holds.
    pub shape: PageShape,
    /// Layout of the device pool.
    pub device_layout: Layout,
    /// Layout of the host pool.
    pub host_layout: Layout,
    /// Size of the device pool, in tokens.
    pub device_tokens: usize,
    /// Size of the host pool, in tokens.
    pub host_tokens: usize,
    /// When device pages are written to the host.
    pub write_policy: WritePolicy,
    /// How bytes are copied.
    pub io_backend: IoBackend,
    /// When a request stops waiting for its prefetch.
    pub prefetch_policy: PrefetchPolicy,
    /// Prefetches of fewer tokens are not worth it. Never below a page.
    pub prefetch_threshold_tokens: usize,
    /// Most tokens in prefetches at once; `None` for half of the host pool.
    pub prefetch_capacity_tokens: Option<usize>,
    /// Policy `timeout`: time for any prefetch.
    pub prefetch_timeout_base_ms: u64,
    /// Policy `timeout`: time for each 1,024 tokens more.
    pub prefetch_timeout_per_ki_token_ms: u64,
    /// Policy `timeout`: never longer.
    pub prefetch_timeout_cap_ms: u64,
    /// Whether this rank stores pages: of ranks that hold the same bytes (MLA) only one does.
    pub storage_writer: bool,
    /// Pages of one copy to the host, at most.
    pub write_batch_pages: usize,
    /// Copies to the host that are with the device at once.
    pub write_buffers: usize,
    /// Pages waiting to be stored, at most; `None` for a quarter of the host pool. What comes on top is offered again
    /// when it is used again.
    pub backup_queue_pages: Option<usize>,
    /// How often a page is tried to be stored.
    pub backup_attempts: u32,
    /// A batch that storage has not answered for so long is lost.
    pub storage_timeout_ms: u64,
    /// A copy that the device has not answered for so long is lost.
    pub device_timeout_ms: u64,
    /// So long the other ranks are waited for.
    pub rank_timeout_ms: u64,
    /// Storage is cut off after so many batches in a row have failed, or after one that was lost.
    pub breaker_failures: u32,
    /// For so long, doubled with each trial that fails, up to a minute.
    pub breaker_backoff_ms: u64,
    /// What the pages are of. A storage of other pages is refused.
    pub namespace: Namespace,
}

impl ControllerConfig {
    /// The defaults, for pages of this shape and pools of these sizes.
    pub fn new(shape: PageShape, namespace: Namespace, device_tokens: usize, host_tokens: usize) -> Self {
        Self {
            shape,
            device_layout: Layout::LayerFirst,
            host_layout: Layout::PageFirst,
            device_tokens,
            host_tokens,
            write_policy: WritePolicy::WriteThroughSelective,
            io_backend: IoBackend::Kernel,
            prefetch_policy: PrefetchPolicy::BestEffort,
            prefetch_threshold_tokens: 256,
            prefetch_capacity_tokens: None,
            prefetch_timeout_base_ms: 1_000,
            prefetch_timeout_per_ki_token_ms: 250,
            prefetch_timeout_cap_ms: 30_000,
            storage_writer: true,
            write_batch_pages: 1024,
            write_buffers: 3,
            backup_queue_pages: None,
            backup_attempts: 3,
            storage_timeout_ms: 10_000,
            device_timeout_ms: 10_000,
            rank_timeout_ms: 1_000,
            breaker_failures: 3,
            breaker_backoff_ms: 1_000,
            namespace,
        }
    }

    /// Refuses what can't work.
    ///
    /// # Errors
    /// `Config`, naming the field, the value and what would be right.
    pub fn validate(&self) -> Result<()> {
        self.shape.validate()?;
        self.namespace.validate()?;
        let page = self.shape.page_tokens;
        for (name, tokens) in [("device_tokens", self.device_tokens), ("host_tokens", self.host_tokens)] {
            if tokens == 0 || !tokens.is_multiple_of(page) {
                return Err(Error::config(format!(
                    "{name} is {tokens}; it must be a multiple of page_tokens, {page}, and not 0"
                )));
            }
            if u32::try_from(tokens / page).is_err() {
                return Err(Error::config(format!(
                    "{name} is {tokens}; a pool has at most {} pages",
                    u32::MAX
                )));
            }
        }
        if self.write_policy != WritePolicy::WriteBack && self.host_tokens <= self.device_tokens {
            return Err(Error::config(format!(
                "host_tokens is {} and device_tokens {}; with write_policy {} the host holds all that the device \
                 holds, so it must be larger",
                self.host_tokens, self.device_tokens, self.write_policy
            )));
        }
        let layouts = [("device_layout", self.device_layout), ("host_layout", self.host_layout)];
        for (name, layout) in layouts {
            if self.shape.attention == Attention::Mla && layout == Layout::PageHead {
                return Err(Error::config(format!(
                    "{name} is page_head; pages of MLA have no heads to order by"
                )));
            }
        }
        if self.io_backend == IoBackend::Direct {
            let plan = self.shape.by_layer(self.host_layout, self.device_layout)?;
            if plan.steps().iter().flatten().any(|block| block.counts != [1, 1]) {
                return Err(Error::config(format!(
                    "io_backend is direct, and host_layout {} has no contiguous layers for device_layout {}; use \
                     page_first_direct, or io_backend kernel",
                    self.host_layout, self.device_layout
                )));
            }
        }
        let positive = [
            ("write_batch_pages", self.write_batch_pages as u64),
            ("write_buffers", self.write_buffers as u64),
            ("backup_attempts", self.backup_attempts.into()),
            ("storage_timeout_ms", self.storage_timeout_ms),
            ("device_timeout_ms", self.device_timeout_ms),
            ("rank_timeout_ms", self.rank_timeout_ms),
            ("breaker_failures", self.breaker_failures.into()),
            ("breaker_backoff_ms", self.breaker_backoff_ms),
        ];
        for (name, value) in positive {
            if value == 0 {
                return Err(Error::config(format!("{name} is 0; it must be at least 1")));
            }
        }
        self.check_namespace()
    }

    /// What the namespace says of the pages must be true.
    fn check_namespace(&self) -> Result<()> {
        let namespace = &self.namespace;
        let number = |value: usize| u32::try_from(value).ok();
        let claims = [
            ("page_tokens", namespace.page_tokens, number(self.shape.page_tokens)),
            ("layers", namespace.layers, number(self.shape.layers)),
            ("heads", namespace.heads, number(self.shape.heads)),
            ("head_dim", namespace.head_dim, number(self.shape.head_dim)),
        ];
        for (name, claimed, true_value) in claims {
            if claimed.is_some() && claimed != true_value {
                return Err(Error::config(format!(
                    "namespace.{name} is {claimed:?} and the pages have {true_value:?}; they must be equal"
                )));
            }
        }
        match &namespace.layout {
            Some(layout) if layout != self.host_layout.as_str() => Err(Error::config(format!(
                "namespace.layout is {layout:?} and host_layout {}; pages are stored as the host holds them",
                self.host_layout
            ))),
            _ => Ok(()),
        }
    }

    /// Pages of the device pool.
    pub fn device_pages(&self) -> usize {
        self.device_tokens / self.shape.page_tokens
    }

    /// Pages of the host pool.
    pub fn host_pages(&self) -> usize {
        self.host_tokens / self.shape.page_tokens
    }

    pub(crate) fn threshold_pages(&self) -> usize {
        self.prefetch_threshold_tokens.div_ceil(self.shape.page_tokens).max(1)
    }

    pub(crate) fn prefetch_capacity_pages(&self) -> usize {
        self.prefetch_capacity_tokens.map_or(self.host_pages() / 2, |tokens| tokens / self.shape.page_tokens)
    }

    pub(crate) fn backup_queue_limit(&self) -> usize {
        self.backup_queue_pages.unwrap_or(self.host_pages() / 4).max(1)
    }
}
