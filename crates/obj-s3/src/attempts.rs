//! Trying a request until it succeeds or its time is over: over the endpoints, with a pause that grows and varies.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::breaker::{Admission, Pass};
use crate::credentials::{Generation, RENEWAL_LIMIT};
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
    question: Question,
}

/// What an endpoint is asked that was left alone.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// A small object; an answer that it is not there will do as well.
    pub(crate) object: String,
    /// How long it may say nothing.
    pub(crate) limit: Duration,
}

/// One request and its tries.
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    endpoints: &'a Endpoints,
    pub(crate) deadline: Instant,
    tries: u32,
    /// Where the last try failed, and why.
    last: Option<(Arc<Endpoint>, Fault)>,
    /// Whether it was made anew because there may be other credentials.
    renewed: bool,
}

/// The right to make one try of one endpoint. What came of it must be said; otherwise it says nothing of the endpoint.
#[derive(Debug)]
pub(crate) struct Try {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) deadline: Instant,
    /// Of the credentials that are used at the earliest.
    generation: Generation,
    pass: Pass,
    decided: bool,
    permit: Permit,
}

impl Endpoints {
    pub(crate) fn new(all: Vec<Arc<Endpoint>>, question: Question) -> Self {
        Self { all, turn: AtomicUsize::new(0), question }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.all.iter()
    }

    /// A request that must be done by `deadline`.
    pub(crate) fn attempts(&self, deadline: Instant) -> Attempts<'_> {
        Attempts { endpoints: self, deadline, tries: 0, last: None, renewed: false }
    }

    /// The one with the least to do that is not left alone, and if possible another one than the last.
    fn pick(&self, last: Option<&Arc<Endpoint>>) -> Option<(Arc<Endpoint>, Pass)> {
        if let [only] = &self.all[..] {
            return self.admit(only);
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut order: Vec<&Arc<Endpoint>> =
            (0..self.all.len()).map(|i| &self.all[(turn + i) % self.all.len()]).collect();
        order.sort_by_key(|endpoint| {
            let again = last.is_some_and(|last| Arc::ptr_eq(last, endpoint));
            (again, endpoint.under_way.load(Ordering::Relaxed))
        });
        order.into_iter().find_map(|endpoint| self.admit(endpoint))
    }

    /// Whether a request may go to the endpoint. One that is left alone is asked behind it, when it is time.
    fn admit(&self, endpoint: &Arc<Endpoint>) -> Option<(Arc<Endpoint>, Pass)> {
        match endpoint.breaker.admit() {
            Admission::Request(pass) => Some((Arc::clone(endpoint), pass)),
            Admission::Question(pass) => {
                tokio::spawn(ask(Arc::clone(endpoint), pass, self.question.clone()));
                None
            }
            Admission::Nothing => None,
        }
    }
}

/// Asks an endpoint that was left alone. What comes of it, its breaker hears.
async fn ask(endpoint: Arc<Endpoint>, pass: Pass, question: Question) {
    // Renewing credentials has a limit of its own.
    let deadline = Instant::now() + RENEWAL_LIMIT + question.limit;
    let Ok(attempt) = turn(endpoint, pass, deadline).await else { return };
    match attempt.within(question.limit, attempt.endpoint.small(&question.object)).await {
        Ok(_) => attempt.succeeded(),
        Err(fault) => {
            let renews = attempt.renews(&fault);
            attempt.failed(&fault, renews);
        }
    }
}

/// Waits until it is the request's turn. The fault if that can't be; none if the deadline came first.
async fn turn(endpoint: Arc<Endpoint>, pass: Pass, deadline: Instant) -> Result<Try, Option<Fault>> {
    endpoint.under_way.fetch_add(1, Ordering::Relaxed);
    let waiting = Waiting { endpoint: Arc::clone(&endpoint), pass, over: false };
    // Getting credentials may take longer than an endpoint has for its answer, and is no fault of its.
    let turn = async {
        let generation = endpoint.credentials_ready().await?;
        Ok::<_, Fault>((generation, endpoint.limiter.acquire().await))
    };
    let Ok(turn) = timeout_at(deadline, turn).await else { return Err(None) };
    let (generation, permit) = turn.map_err(Some)?;
    waiting.over();
    Ok(Try { endpoint, deadline, generation, pass, decided: false, permit })
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
        // What is late is not begun: ending it would cost a connection.
        if Instant::now() >= self.deadline {
            return Err(self.over());
        }
        self.tries += 1;
        loop {
            let last = self.last.as_ref().map(|(endpoint, _)| endpoint);
            let Some((endpoint, pass)) = self.endpoints.pick(last) else {
                // Why they are left alone is worth more than that they are.
                return Err(self
                    .last
                    .take()
                    .map_or_else(|| Fault::new(FaultKind::Refused, ""), |(_, fault)| fault));
            };
            let attempt = turn(endpoint, pass, self.deadline).await;
            let attempt = attempt.map_err(|fault| fault.unwrap_or_else(|| self.over()))?;
            // It may have failed others while this one waited for its turn.
            if !attempt.endpoint.breaker.is_open() {
                return Ok(attempt);
            }
        }
    }

    /// Takes note of a failed try; the fault again where another one would not help.
    pub(crate) fn failed(&mut self, attempt: Try, fault: Fault) -> Result<(), Fault> {
        let renews = fault.kind == FaultKind::Denied
            && !std::mem::replace(&mut self.renewed, true)
            && attempt.renews(&fault);
        let endpoint = attempt.failed(&fault, renews);
        // New credentials, or the other endpoint, may help.
        let again = renews || fault.may_pass() || (fault.blames_endpoint() && self.endpoints.all.len() > 1);
        if !again || self.tries >= 64 {
            return Err(fault);
        }
        self.last = Some((endpoint, fault));
        Ok(())
    }

    fn over(&mut self) -> Fault {
        self.last
            .take()
            .map_or_else(|| Fault::new(FaultKind::Late, "no turn before the deadline"), |(_, fault)| fault)
    }
}

/// Counts a request that waits for its turn.
struct Waiting {
    endpoint: Arc<Endpoint>,
    pass: Pass,
    over: bool,
}

impl Waiting {
    /// It is its turn.
    fn over(mut self) {
        self.over = true;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.over {
            self.endpoint.under_way.fetch_sub(1, Ordering::Relaxed);
            self.endpoint.breaker.undecided(self.pass);
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
        let begun = Instant::now();
        self.while_it_moves(limit, || begun, work).await
    }

    /// Waits until nothing has moved for as long as `limit`, but no longer than the deadline; `moved` says when
    /// something last did.
    pub(crate) async fn while_it_moves<T>(
        &self,
        limit: Duration,
        moved: impl Fn() -> Instant,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        while_it_moves(self.deadline, limit, moved, work).await
    }

    /// The endpoint did as it should, whatever was there.
    pub(crate) fn succeeded(mut self) {
        self.well();
        self.endpoint.limiter.good();
    }

    fn well(&mut self) {
        self.decided = true;
        if self.endpoint.breaker.succeeded() {
            tracing::info!("an endpoint that was left alone is well again");
        }
    }

    /// Whether the fault is one of credentials that have ended, and there may be others.
    fn renews(&self, fault: &Fault) -> bool {
        fault.kind == FaultKind::Denied && self.endpoint.forget_credentials(self.generation)
    }

    fn failed(mut self, fault: &Fault, renews: bool) -> Arc<Endpoint> {
        let endpoint = Arc::clone(&self.endpoint);
        if matches!(fault.kind, FaultKind::Throttled | FaultKind::Unready) {
            endpoint.limiter.slow_down(&self.permit);
        }
        match fault.kind {
            // The credentials have ended, and not the endpoint.
            FaultKind::Denied if renews => {}
            FaultKind::Throttled => self.well(),
            _ if fault.blames_endpoint() => {
                self.decided = true;
                if endpoint.breaker.failed(self.pass) {
                    endpoint.forget_connections();
                    tracing::warn!(kind = ?fault.kind, code = fault.code, reason = fault.message, "an endpoint is left alone for a while");
                }
            }
            // It answered, and well.
            FaultKind::Missing | FaultKind::Exists | FaultKind::Conflict => {
                self.well();
                endpoint.limiter.good();
            }
            _ => {}
        }
        endpoint
    }
}

async fn while_it_moves<T>(
    deadline: Instant,
    limit: Duration,
    moved: impl Fn() -> Instant,
    work: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    let mut work = std::pin::pin!(work);
    loop {
        let until = moved() + limit;
        if let Ok(result) = timeout_at(until.min(deadline), &mut work).await {
            return result;
        }
        if deadline <= until {
            // The time that the whole batch had is over. That says nothing of the endpoint, which may well be sending.
            return Err(Fault::new(FaultKind::Late, "it was not done by the deadline"));
        }
        if moved() + limit <= until {
            return Err(Fault::new(FaultKind::Stalled, "the store said nothing in time"));
        }
    }
}

impl Drop for Try {
    fn drop(&mut self) {
        self.endpoint.under_way.fetch_sub(1, Ordering::Relaxed);
        if !self.decided {
            self.endpoint.breaker.undecided(self.pass);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::config::{Access, S3Config};

    /// There is a turn for it, and it is too late: no try is made. Ending one that was begun would cost a connection.
    #[tokio::test]
    async fn what_is_late_makes_no_try() {
        let endpoint = |address: &str| {
            let config = S3Config { access: Access::Anonymous, ..S3Config::new("pages") };
            Arc::new(Endpoint::new(&config, Some(address), "us-east-1").unwrap())
        };
        let question = Question { object: "manifest".into(), limit: Duration::from_secs(1) };
        let all = vec![endpoint("http://127.0.0.1:1"), endpoint("http://127.0.0.1:2")];
        let endpoints = Endpoints::new(all, question);
        let late = endpoints.attempts(Instant::now()).next().await;
        assert_eq!(late.map(drop).unwrap_err().kind, FaultKind::Late);

        // The second try would be at the other endpoint, and at once: what the first one said is the answer.
        let mut attempts = endpoints.attempts(Instant::now() + Duration::from_secs(60));
        let first = attempts.next().await.unwrap();
        attempts.failed(first, Fault::new(FaultKind::Server, "it failed")).unwrap();
        attempts.deadline = Instant::now();
        assert_eq!(attempts.next().await.map(drop).unwrap_err().kind, FaultKind::Server);
        // In time it is made.
        attempts.deadline = Instant::now() + Duration::from_secs(60);
        drop(attempts.next().await.unwrap());
        assert!(endpoints.iter().all(|endpoint| endpoint.under_way.load(Ordering::Relaxed) == 0));
    }

    #[tokio::test]
    async fn what_moves_goes_on_and_a_deadline_is_no_stall() {
        let ms = Duration::from_millis;
        let begun = Instant::now();
        // Something moves every 40 ms for 400.
        let steps = || begun + ms(begun.elapsed().as_millis().min(400) as u64 / 40 * 40);
        let work = |time| async move {
            sleep(ms(time)).await;
            Ok::<_, Fault>(())
        };
        let kind = |result: Result<(), Fault>| result.map_err(|fault| fault.kind);
        let long = begun + ms(60_000);
        assert_eq!(kind(while_it_moves(long, ms(200), steps, work(300)).await), Ok(()));
        assert_eq!(kind(while_it_moves(long, ms(200), steps, work(30_000)).await), Err(FaultKind::Stalled));
        assert!(begun.elapsed() >= ms(600) && begun.elapsed() < ms(10_000), "{:?}", begun.elapsed());
        let (now, soon) = (Instant::now(), Instant::now() + ms(50));
        assert_eq!(kind(while_it_moves(soon, ms(200), || now, work(30_000)).await), Err(FaultKind::Late));
    }
}
