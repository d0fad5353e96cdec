//! Attaching and detaching a storage, starting anew, and the end.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use hicache_core::{Error, ErrorKind, Result, Storage};

use crate::controller::Controller;
use crate::prefetch::{Prefetch, PrefetchId};
use crate::ranks::RankGroup;
use crate::storage_link::StorageLink;
use crate::sync::later;
use crate::tree::Tree;
use crate::workers::{caught, once};

impl Controller {
    /// Makes this controller one of a group of ranks. Before a storage is attached.
    ///
    /// # Errors
    /// `Busy` while a storage is attached.
    pub fn join_ranks(&mut self, group: Arc<dyn RankGroup>) -> Result<()> {
        if self.storage.link.is_some() {
            return Err(Error::new(ErrorKind::Busy, "a storage is attached; detach it, then join the ranks"));
        }
        self.storage.group = group;
        Ok(())
    }

    /// Uses `storage` as the third tier from now on.
    ///
    /// # Errors
    /// `Busy` if one is attached, `Config` for a storage of another namespace, showing both, and what registering the
    /// host pool reports.
    pub fn attach(&mut self, storage: Arc<dyn Storage>) -> Result<()> {
        if let Some(link) = &self.storage.link {
            let name = link.storage.name();
            return Err(Error::new(
                ErrorKind::Busy,
                format!("a storage, {name}, is attached; detach it first"),
            ));
        }
        if let Some(other) = storage.namespace()
            && other.fingerprint() != self.config.namespace.fingerprint()
        {
            return Err(Error::config(format!(
                "the storage {} holds pages of {other:?}, and the controller's are of {:?}; open it for these",
                storage.name(),
                self.config.namespace
            )));
        }
        self.storage.start()?;
        let link = StorageLink::new(storage, &self.config, &self.host, Arc::clone(&self.metrics))?;
        self.storage.link = Some(Arc::new(link));
        Ok(())
    }

    /// The storage that is attached.
    pub fn storage(&self) -> Option<&Arc<dyn Storage>> {
        self.storage.link.as_ref().map(|link| &link.storage)
    }

    /// Whether the storage is cut off now: for reading, for writing.
    pub fn is_cut_off(&self) -> (bool, bool) {
        self.storage.link.as_ref().map_or((false, false), |link| link.is_cut_off())
    }

    /// Gives the storage back, which stays open. The two upper tiers go on.
    ///
    /// # Errors
    /// `Busy` while operations are in flight, saying how many; `Config` if none is attached.
    pub fn detach(&mut self) -> Result<Arc<dyn Storage>> {
        self.poll();
        let prefetches = self.storage.prefetches.values().filter(|prefetch| !prefetch.has_ended()).count();
        let backups = self.storage.backups.len();
        if prefetches + backups > 0 {
            return Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "{prefetches} prefetches and {backups} backups are in flight; drain them, then detach"
                ),
            ));
        }
        let Some(link) = self.storage.link.take() else {
            return Err(Error::config("no storage is attached"));
        };
        // Another one has not what this one has.
        self.tree.forget_stored();
        Ok(Arc::clone(&link.storage))
    }

    /// Ends all prefetches, with what is complete.
    pub fn terminate_prefetches(&mut self) {
        let open = self.storage.prefetches.iter().filter(|(_, prefetch)| !Prefetch::has_ended(prefetch));
        for id in open.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.terminate_prefetch(PrefetchId::new(id));
        }
        self.storage.prefetches.clear();
    }

    /// Forgets everything that is on the device and the host; storage keeps what it has.
    ///
    /// # Errors
    /// `Busy` while requests are being worked on, and `Timeout` if operations in flight don't end within `timeout`;
    /// nothing is forgotten then.
    pub fn reset(&mut self, timeout: Duration) -> Result<()> {
        self.terminate_prefetches();
        let drained = self.drain(timeout);
        if !drained {
            return Err(Error::new(
                ErrorKind::Timeout,
                format!("operations did not end within {} ms", timeout.as_millis()),
            ));
        }
        if self.tree.is_locked() {
            return Err(Error::new(
                ErrorKind::Busy,
                "requests are being worked on; finish or cancel them first",
            ));
        }
        let (device, host) = self.tree.all_pages();
        self.tree = Tree::new(self.config.shape.page_tokens);
        let result = self.device.free(&device);
        self.must(result);
        let result = self.host.free(&host);
        self.must(result);
        self.acknowledged.clear();
        Ok(())
    }

    /// As [`Controller::reset`], and deletes every page of the namespace from storage. Says how many there were.
    ///
    /// # Errors
    /// As [`Controller::reset`], and what storage reports.
    pub fn clear(&mut self, timeout: Duration) -> Result<u64> {
        let until = later(Instant::now(), timeout);
        self.reset(timeout)?;
        let Some(link) = &self.storage.link else { return Ok(0) };
        let storage = Arc::clone(&link.storage);
        let (answer, answered) = sync_channel(1);
        // Behind what prefetches of old still do; on a thread of its own, since the caller's may be in a runtime.
        let id = self.storage.next_id();
        let clear = async move { drop(answer.send(caught(async move { storage.clear().await }).await)) };
        self.storage.write(id, once(clear))?;
        match answered.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Some(result)) => result,
            Ok(None) => {
                Err(Error::new(ErrorKind::Unexpected, "the storage panicked").with_operation("clear"))
            }
            Err(_) => {
                Err(Error::new(ErrorKind::Timeout, "the storage did not answer").with_operation("clear"))
            }
        }
    }

    /// Ends what is in flight, as far as that is done within `timeout`, and gives the storage back, to be closed. Says
    /// whether everything ended.
    pub fn shutdown(mut self, timeout: Duration) -> (Option<Arc<dyn Storage>>, bool) {
        self.terminate_prefetches();
        let drained = self.drain(timeout);
        (self.storage.link.take().map(|link| Arc::clone(&link.storage)), drained)
    }
}
