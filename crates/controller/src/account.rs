//! Where every page is.

use hicache_core::{Error, ErrorKind, Result};

use crate::controller::Controller;
use crate::page_pool::PoolAccount;
use crate::page_state::{DeviceState, HostState};
use crate::tree::TreeCensus;

/// Where every page of the pools is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Host pages by state.
    pub host: PoolAccount<HostState>,
    /// Device pages by state.
    pub device: PoolAccount<DeviceState>,
    /// What the tree holds.
    pub tree: TreeCensus,
    /// Host pages of prefetches that are under way.
    pub prefetching_pages: usize,
    /// Host pages that are given out and that nobody has: always 0, or there is a defect.
    pub leaked_host_pages: usize,
    /// Device pages that are given out and not in the tree: the engine's, between allocate and finish.
    pub held_device_pages: usize,
    /// Pages whose memory a lost operation may still touch, in both pools.
    pub abandoned_pages: usize,
}

impl Controller {
    /// Counts where every page is, and checks the tree and the states of its pages, in time proportional to them.
    ///
    /// # Errors
    /// `Unexpected`, saying what does not hold.
    pub fn account(&self) -> Result<Account> {
        let tree = self.tree.audit()?;
        let (device_pages, host_pages) = self.tree.all_pages();
        for page in device_pages {
            let state = self.device.state(page)?;
            if !matches!(state, DeviceState::Resident | DeviceState::Loading) {
                return Err(Error::new(
                    ErrorKind::Unexpected,
                    format!("device page {page:?} is in the tree and {state:?}"),
                ));
            }
        }
        for page in host_pages {
            let state = self.host.state(page)?;
            if matches!(state, HostState::Free | HostState::Reserved | HostState::Abandoned) {
                return Err(Error::new(
                    ErrorKind::Unexpected,
                    format!("host page {page:?} is in the tree and {state:?}"),
                ));
            }
        }
        self.audit_synced()?;
        let (host, device) = (self.host.account(), self.device.account());
        let used = |pages: usize, free: usize, abandoned: usize| pages - free - abandoned;
        let host_used = used(self.host.pages(), host.of(HostState::Free), host.of(HostState::Abandoned));
        let device_used =
            used(self.device.pages(), device.of(DeviceState::Free), device.of(DeviceState::Abandoned));
        let prefetching_pages = self.prefetching_pages();
        let gap = |used: usize, known: usize| {
            used.checked_sub(known).ok_or_else(|| {
                Error::new(
                    ErrorKind::Unexpected,
                    format!("{known} pages are known and only {used} given out"),
                )
            })
        };
        Ok(Account {
            leaked_host_pages: gap(host_used, tree.host_pages + prefetching_pages)?,
            held_device_pages: gap(device_used, tree.device_pages)?,
            abandoned_pages: host.of(HostState::Abandoned) + device.of(DeviceState::Abandoned),
            prefetching_pages,
            host,
            device,
            tree,
        })
    }

    /// A host page is synced just when the device has its page.
    fn audit_synced(&self) -> Result<()> {
        for node in self.tree.iter() {
            for page in node.host.iter().flatten() {
                let state = self.host.state(*page)?;
                if (state == HostState::Backup) != node.device.is_none() && !node.spoilt {
                    return Err(Error::new(
                        ErrorKind::Unexpected,
                        format!("host page {page:?} is {state:?}, device copy: {}", node.device.is_some()),
                    ));
                }
            }
        }
        Ok(())
    }
}
