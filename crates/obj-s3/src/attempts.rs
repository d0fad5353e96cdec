//! Trying a request until it succeeds or its time is over: over the endpoints, with a pause that grows and varies.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::endpoint::Endpoint;
use crate::fault::{Fault, FaultKind};
use crate::limiter::Permit;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The endpoints, and whose turn it is.
#[derive(Debug)]
pub(crate) struct Endpoints {
    all: Vec<Arc<Endpoint>>,
    turn: AtomicUsize,
}

/// One request and its tries.
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    endpoints: &'a Endpoints,
    pub(crate) deadline: Instant,
    tries: u32,
    /// Where the last try failed, and why.
    last: Option<(Arc<Endpoint>, Fault)>,
}

/// The right to make one try of one endpoint. What came of it must be said; otherwise it says nothing of the endpoint.
#[derive(Debug)]
pub(crate) struct Try {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) deadline: Instant,
    decided: bool,
    _permit: Permit,
}

impl Endpoints {
    pub(crate) fn new(all: Vec<Arc<Endpoint>>) -> Self {
        Self { all, turn: AtomicUsize::new(0) }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.all.iter()
    }

    /// A request that must be done by `deadline`.
    pub(crate) fn attempts(&self, deadline: Instant) -> Attempts<'_> {
        Attempts { endpoints: self, deadline, tries: 0, last: None }
    }

    /// The one with the least to do that is not left alone, and if possible another one than the last.
    fn pick(&self, last: Option<&Arc<Endpoint>>) -> Option<Arc<Endpoint>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut order: Vec<&Arc<Endpoint>> =
            (0..self.all.len()).map(|i| &self.all[(turn + i) % self.all.len()]).collect();
        order.sort_by_key(|endpoint| {
            let again = last.is_some_and(|last| Arc::ptr_eq(last, endpoint));
            (again, endpoint.under_way.load(Ordering::Relaxed))
        });
        order.into_iter().find(|endpoint| endpoint.breaker.admits()).cloned()
    }
}

impl Attempts<'_> {
    /// The next try, when it is its turn.
    ///
    /// # Errors
    /// What the last try said when the time is over; `Refused` where no endpoint is to be asked.
    pub(crate) async fn next(&mut self) -> Result<Try, Fault> {
        if let Some((_, fault)) = &self.last {
            // Another endpoint can be asked at once.
            if self.endpoints.all.len() == 1 || fault.kind == FaultKind::Throttled || self.tries > 1 {
                let most = FIRST_PAUSE.saturating_mul(1 << self.tries.min(10)).min(LONGEST_PAUSE);
                let pause = most.mul_f64(rand::random_range(0.3..1.0));
                if Instant::now() + pause >= self.deadline {
                    return Err(self.over());
                }
                sleep(pause).await;
            }
        }
        self.tries += 1;
        let last = self.last.as_ref().map(|(endpoint, _)| endpoint);
        let Some(endpoint) = self.endpoints.pick(last) else {
            // Why they are left alone is worth more than that they are.
            return Err(self
                .last
                .take()
                .map_or_else(|| Fault::new(FaultKind::Refused, ""), |(_, fault)| fault));
        };
        endpoint.under_way.fetch_add(1, Ordering::Relaxed);
        let mut waiting = Waiting { endpoint: Some(endpoint) };
        let acquired = match &waiting.endpoint {
            Some(endpoint) => timeout_at(self.deadline, endpoint.limiter.acquire()).await,
            None => return Err(self.over()),
        };
        match (acquired, waiting.endpoint.take()) {
            (Ok(permit), Some(endpoint)) => {
                Ok(Try { endpoint, deadline: self.deadline, decided: false, _permit: permit })
            }
            (_, endpoint) => {
                waiting.endpoint = endpoint;
                Err(self.over())
            }
        }
    }

    /// Takes note of a failed try; the fault again where another one would not help.
    pub(crate) fn failed(&mut self, attempt: Try, fault: Fault) -> Result<(), Fault> {
        let endpoint = attempt.failed(&fault);
        // New credentials, or the other endpoint, may help.
        let again = fault.may_pass() || (fault.blames_endpoint() && self.endpoints.all.len() > 1);
        if !again || self.tries >= 64 {
            return Err(fault);
        }
        self.last = Some((endpoint, fault));
        Ok(())
    }

    fn over(&mut self) -> Fault {
        self.last
            .take()
            .map_or_else(|| Fault::new(FaultKind::Stalled, "no turn before the deadline"), |(_, fault)| fault)
    }
}

/// Counts a request that waits for its turn.
struct Waiting {
    endpoint: Option<Arc<Endpoint>>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(endpoint) = &self.endpoint {
            endpoint.under_way.fetch_sub(1, Ordering::Relaxed);
            endpoint.breaker.undecided();
        }
    }
}

impl Try {
    /// Waits for a part of the request, but no longer than `limit`, nor than the deadline.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let until = self.deadline.min(Instant::now() + limit);
        timeout_at(until, work)
            .await
            .unwrap_or_else(|_| Err(Fault::new(FaultKind::Stalled, "the store said nothing in time")))
    }

    /// The endpoint did as it should, whatever was there.
    pub(crate) fn succeeded(mut self) {
        self.decided = true;
        self.endpoint.breaker.succeeded();
        self.endpoint.limiter.good();
    }

    fn failed(mut self, fault: &Fault) -> Arc<Endpoint> {
        let endpoint = Arc::clone(&self.endpoint);
        if fault.kind == FaultKind::Denied {
            endpoint.forget_credentials();
        }
        match fault.kind {
            FaultKind::Throttled => {
                self.decided = true;
                endpoint.breaker.succeeded();
                endpoint.limiter.slow_down();
            }
            _ if fault.blames_endpoint() => {
                self.decided = true;
                if endpoint.breaker.failed() {
                    tracing::warn!(kind = ?fault.kind, code = fault.code, reason = fault.message, "an endpoint is left alone for a while");
                }
            }
            // It answered, and well.
            FaultKind::Missing | FaultKind::Exists | FaultKind::Conflict => {
                self.decided = true;
                endpoint.breaker.succeeded();
                endpoint.limiter.good();
            }
            _ => {}
        }
        endpoint
    }
}

impl Drop for Try {
    fn drop(&mut self) {
        self.endpoint.under_way.fetch_sub(1, Ordering::Relaxed);
        if !self.decided {
            self.endpoint.breaker.undecided();
        }
    }
}
