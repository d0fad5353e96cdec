//! What an engine does for one prompt.

use hicache_core::{Error, OwnerId, Result};

use crate::controller::Controller;
use crate::device_pool::DevicePage;
use crate::host_pool::HostPage;
use crate::page_state::{DeviceState, HostState};
use crate::tree::{Matched, PromptSpace, Tier, TokenId};

/// A prompt that is being worked on. What the tree has of it is protected until [`Controller::finish`] or
/// [`Controller::cancel`], one of which must be called.
#[must_use = "what the request protects stays protected until it is finished or cancelled"]
#[derive(Debug)]
pub struct Request {
    /// Of which controller: nodes of one tree mean nothing to another.
    owner: OwnerId,
    pub(crate) space: PromptSpace,
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) matched: Matched,
}

impl Request {
    /// The tokens of the prompt.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// What separates it from prompts of equal tokens.
    pub fn space(&self) -> &PromptSpace {
        &self.space
    }

    /// What the tree has of it.
    pub fn matched(&self) -> &Matched {
        &self.matched
    }
}

impl Controller {
    /// Looks what there is of a prompt, and protects it.
    pub fn begin(&mut self, space: PromptSpace, tokens: Vec<TokenId>) -> Request {
        let matched = self.tree.find(&space, &tokens);
        self.lock_matched(&matched);
        self.metrics.hits("device", matched.device_pages.len());
        self.metrics.hits("host", matched.host_pages);
        Request { owner: self.owner, space, tokens, matched }
    }

    /// Looks again, after a prefetch has brought more.
    pub fn look_again(&mut self, request: &mut Request) {
        if self.check_own(request).is_err() {
            return;
        }
        let matched = self.tree.find(&request.space, &request.tokens);
        self.lock_matched(&matched);
        let before = std::mem::replace(&mut request.matched, matched);
        self.unlock_matched(&before);
    }

    /// # Errors
    /// `Config` for a request of another controller.
    pub(crate) fn check_own(&self, request: &Request) -> Result<()> {
        if request.owner == self.owner {
            return Ok(());
        }
        Err(Error::config("the request was begun by another controller; end it there"))
    }

    fn lock_matched(&mut self, matched: &Matched) {
        self.tree.lock(matched.device_node, Tier::Device);
        self.tree.lock(matched.node, Tier::Host);
    }

    fn unlock_matched(&mut self, matched: &Matched) {
        self.unlock(matched.device_node, &[Tier::Device]);
        self.unlock(matched.node, &[Tier::Host]);
    }

    /// Ends a request: `tokens` are the prompt and what was generated, and `computed` the pages behind those of the
    /// match, given out by [`Controller::allocate`]. Whole pages go into the tree, and by the policy to the host; the
    /// others are taken back.
    ///
    /// # Errors
    /// `Config` for a request of another controller; if `computed` holds pages that were not given out, or one twice; and if `tokens` begin otherwise than
    /// the prompt, whose pages they are said to be behind. The request is ended all the same; pages that were given out
    /// are still the caller's.
    pub fn finish(&mut self, request: Request, tokens: &[TokenId], computed: &[DevicePage]) -> Result<()> {
        self.check_own(&request)?;
        if let Err(error) = self.check_finish(&request, tokens, computed) {
            self.unlock_matched(&request.matched);
            return Err(error);
        }
        let pages: Vec<DevicePage> = request.matched.device_pages.iter().chain(computed).copied().collect();
        self.metrics.computed(computed.len());
        let inserted = self.tree.insert(&request.space, tokens, &pages);
        let new = |page: &DevicePage| self.device.state(*page).ok() == Some(DeviceState::Reserved);
        let left: Vec<DevicePage> = inserted.left.into_iter().filter(new).collect();
        let result = self.device.change(&inserted.taken, DeviceState::Resident);
        self.must(result);
        let backup = |page: &HostPage| self.host.state(*page).ok() == Some(HostState::Backup);
        let synced: Vec<HostPage> = inserted.synced.into_iter().filter(backup).collect();
        let result = self.host.change(&synced, HostState::Synced);
        self.must(result);
        let freed = self.device.free(&left);
        self.write_used(inserted.node);
        self.back_up_used(inserted.node);
        self.unlock_matched(&request.matched);
        self.start_writing();
        freed
    }

    fn check_finish(&self, request: &Request, tokens: &[TokenId], computed: &[DevicePage]) -> Result<()> {
        let given_out = |page: &DevicePage| self.device.state(*page).ok() == Some(DeviceState::Reserved);
        if let Some(page) = computed.iter().find(|page| !given_out(page)) {
            return Err(Error::config(format!(
                "device page {page:?} was not given out by allocate, so it can't hold computed tokens"
            )));
        }
        let mut numbers: Vec<u32> = computed.iter().map(|page| page.number()).collect();
        numbers.sort_unstable();
        if let Some(pair) = numbers.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::config(format!(
                "device page {} is given twice; each page holds tokens of its own",
                pair[0]
            )));
        }
        let known = request.matched.device_pages.len() * self.config.shape.page_tokens;
        let known = known.min(tokens.len()).min(request.tokens.len());
        if tokens[..known] != request.tokens[..known] {
            return Err(Error::config(format!(
                "the first {known} tokens are not those of the prompt, whose pages would stand for them"
            )));
        }
        Ok(())
    }

    /// Whether every device page of the match is whole. False while loads are on their way, and after one has
    /// failed or was lost: look again then, and compute what is missing.
    pub fn is_whole(&self, request: &Request) -> bool {
        let resident = |page: &DevicePage| self.device.state(*page).ok() == Some(DeviceState::Resident);
        self.check_own(request).is_ok()
            && request.matched.device_pages.iter().all(resident)
            && !self.tree.path_is_spoilt(request.matched.device_node)
    }

    /// Ends a request that is not computed.
    pub fn cancel(&mut self, request: Request) {
        if self.check_own(&request).is_err() {
            return;
        }
        self.unlock_matched(&request.matched);
    }
}
