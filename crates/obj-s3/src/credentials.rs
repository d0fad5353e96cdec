//! Credentials: asked for when they are needed, kept until shortly before they end, and renewed behind the requests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_s3::config::Region;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::config::Access;
use crate::fault::{Fault, FaultKind, shortened};

/// Credentials are asked for again this long before they end.
const EARLY: Duration = Duration::from_secs(300);
/// Longest that asking may take: a program, or a service that is cold, is not quick.
pub(crate) const RENEWAL_LIMIT: Duration = Duration::from_secs(30);
/// Least time from one renewal to the next; twice as long after each that brought nothing new.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The same where what it brought ends soon.
const SHORT_LIVED_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Which credentials: each renewal makes others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Generation(u64);

#[cfg(test)]
impl Generation {
    pub(crate) fn of_test(number: u64) -> Self {
        Self(number)
    }
}

/// Where credentials come from.
#[derive(Debug)]
enum Source {
    /// They are all there are.
    Fixed(Credentials),
    Profile {
        name: Option<String>,
        files: Option<EnvConfigFiles>,
        config: Box<ProviderConfig>,
    },
    Chain(Box<ProviderConfig>),
    #[cfg(test)]
    Test(SharedCredentialsProvider),
}

impl Source {
    /// Made anew each time: providers keep what they have read of files.
    async fn provider(&self) -> SharedCredentialsProvider {
        match self {
            Self::Fixed(credentials) => SharedCredentialsProvider::new(credentials.clone()),
            Self::Profile { name, files, config } => {
                let mut builder = ProfileFileCredentialsProvider::builder().configure(config);
                if let Some(name) = name {
                    builder = builder.profile_name(name);
                }
                if let Some(files) = files {
                    builder = builder.profile_files(files.clone());
                }
                SharedCredentialsProvider::new(builder.build())
            }
            Self::Chain(config) => {
                let chain = DefaultCredentialsChain::builder().configure((**config).clone()).build();
                SharedCredentialsProvider::new(chain.await)
            }
            #[cfg(test)]
            Self::Test(provider) => provider.clone(),
        }
    }
}

/// Credentials, and what renews them.
#[derive(Clone, Debug)]
pub(crate) struct CachedCredentials(Arc<Cached>);

#[derive(Debug)]
struct Cached {
    source: Source,
    state: Mutex<State>,
    /// How many renewals have ended.
    ended: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    credentials: Option<Credentials>,
    generation: u64,
    /// A store did not take them.
    refused: bool,
    renewing: bool,
    /// When a renewal may begin, and how long was waited for that.
    next: Option<Instant>,
    pause: Duration,
    /// Why the last renewal failed.
    error: Option<String>,
}

/// What there is at this moment.
enum Now {
    Have(Credentials, Generation),
    Wait(watch::Receiver<u64>),
    Failed(String),
}

/// Who asks: what the configuration names, or the SDK's chain. `None` for nobody.
pub(crate) fn credentials(
    access: &Access,
    region: &str,
    client: &SharedHttpClient,
) -> Option<CachedCredentials> {
    let config = || {
        let config = ProviderConfig::without_region().with_region(Some(Region::new(region.to_owned())));
        Box::new(config.with_http_client(client.clone()))
    };
    let source = match access {
        Access::Anonymous => return None,
        Access::Key { id, secret, token } => {
            Source::Fixed(Credentials::new(id.clone(), secret.clone(), token.clone(), None, "hicache"))
        }
        Access::Profile { name, file } => {
            let files = file.as_ref().map(|file| {
                EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, file).build()
            });
            Source::Profile { name: name.clone(), files, config: config() }
        }
        Access::Chain => Source::Chain(config()),
    };
    Some(CachedCredentials::new(source))
}

impl CachedCredentials {
    fn new(source: Source) -> Self {
        let credentials = match &source {
            Source::Fixed(credentials) => Some(credentials.clone()),
            _ => None,
        };
        let state = Mutex::new(State { credentials, ..State::default() });
        Self(Arc::new(Cached { source, state, ended: watch::Sender::new(0) }))
    }

    /// Those that are good now, as soon as there are some.
    ///
    /// # Errors
    /// `NoCredentials`, with the reason and without what it may quote.
    pub(crate) async fn get(&self) -> Result<(Credentials, Generation), Fault> {
        loop {
            match self.now() {
                Now::Have(credentials, generation) => return Ok((credentials, generation)),
                Now::Failed(reason) => return Err(Fault::new(FaultKind::NoCredentials, reason)),
                // The renewal is nobody's own: it goes on when whoever waits for it has no time any more.
                Now::Wait(mut ended) => _ = ended.changed().await,
            }
        }
    }

    fn now(&self) -> Now {
        let mut state = self.0.lock();
        let good_for = |credentials: &Credentials, time| {
            credentials.expiry().is_none_or(|end| end > SystemTime::now() + time)
        };
        let credentials = state.credentials.clone().filter(|it| good_for(it, Duration::ZERO));
        let generation = Generation(state.generation);
        if let Some(credentials) = &credentials
            && (matches!(self.0.source, Source::Fixed(_)) || (!state.refused && good_for(credentials, EARLY)))
        {
            return Now::Have(credentials.clone(), generation);
        }
        if state.may_renew() {
            state.renewing = true;
            tokio::spawn(renew(Arc::clone(&self.0)));
        }
        match credentials {
            // Those that end soon, or that were refused where there are no others for now.
            Some(credentials) if !state.refused || !state.renewing => Now::Have(credentials, generation),
            _ if state.renewing => Now::Wait(self.0.ended.subscribe()),
            _ => Now::Failed(state.error.clone().unwrap_or_else(|| "they have ended".to_owned())),
        }
    }

    /// A store did not take those of `generation`. Whether there are others, or may be soon.
    pub(crate) fn forget(&self, generation: Generation) -> bool {
        let mut state = self.0.lock();
        if state.generation != generation.0 {
            return true;
        }
        state.refused = true;
        !matches!(self.0.source, Source::Fixed(_)) && (state.renewing || state.may_renew())
    }
}

impl Cached {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn may_renew(&self) -> bool {
        !self.renewing && self.next.is_none_or(|next| Instant::now() >= next)
    }
}

async fn renew(cached: Arc<Cached>) {
    let asked = tokio::spawn({
        let cached = Arc::clone(&cached);
        async move { cached.source.provider().await.provide_credentials().await }
    });
    let stop = asked.abort_handle();
    let renewed = match timeout(RENEWAL_LIMIT, asked).await {
        Ok(Ok(Ok(credentials))) => Ok(credentials),
        Ok(Ok(Err(error))) => Err(reason(&error)),
        Ok(Err(_)) => Err("what was asked for them panicked".to_owned()),
        Err(_) => Err(format!("what was asked for them did not answer within {RENEWAL_LIMIT:?}")),
    };
    stop.abort();
    let mut state = cached.lock();
    let twice = (state.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
    match renewed {
        Ok(credentials) => {
            let is_new = state.credentials.as_ref() != Some(&credentials);
            let lasts = credentials.expiry().is_none_or(|end| end > SystemTime::now() + EARLY);
            state.pause = match (is_new, lasts) {
                (true, true) => FIRST_PAUSE,
                (true, false) => SHORT_LIVED_PAUSE,
                (false, _) => twice,
            };
            state.credentials = Some(credentials);
            state.generation += 1;
            state.refused = false;
            state.error = None;
        }
        Err(reason) => {
            tracing::warn!(reason, "credentials could not be renewed");
            state.pause = twice;
            state.error = Some(reason);
        }
    }
    state.next = Some(Instant::now() + state.pause);
    state.renewing = false;
    drop(state);
    cached.ended.send_modify(|ended| *ended += 1);
}

/// Why there are none. What a program printed is not repeated: it may be what nobody should see.
fn reason(error: &CredentialsError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    let source = source.split("Stderr").next().unwrap_or_default();
    shortened(&format!("{error}: {source}"))
}

impl ProvideCredentials for CachedCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let got = self.get().await;
            got.map(|(credentials, _)| credentials)
                .map_err(|fault| CredentialsError::not_loaded(fault.message))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Answers with a number for a name, after a pause; credentials live for so long.
    #[derive(Debug, Default)]
    struct Numbered {
        asked: AtomicU64,
        pause_ms: AtomicU64,
        lives_secs: AtomicU64,
        fails: std::sync::atomic::AtomicBool,
    }

    #[derive(Debug)]
    struct Asked(Arc<Numbered>);

    impl ProvideCredentials for Asked {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::new(async {
                let numbered = &self.0;
                let number = numbered.asked.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::time::sleep(Duration::from_millis(numbered.pause_ms.load(Ordering::SeqCst))).await;
                if numbered.fails.load(Ordering::SeqCst) {
                    let text = format!("exited with code 1. Stderr: my secret is {}", "x".repeat(1000));
                    return Err(CredentialsError::provider_error(text));
                }
                let lives = numbered.lives_secs.load(Ordering::SeqCst);
                let end = (lives > 0).then(|| SystemTime::now() + Duration::from_secs(lives));
                Ok(Credentials::new(format!("key-{number}"), "secret", None, end, "test"))
            })
        }
    }

    fn ground() -> (Arc<Numbered>, CachedCredentials) {
        let numbered = Arc::new(Numbered::default());
        let source = Source::Test(SharedCredentialsProvider::new(Asked(Arc::clone(&numbered))));
        (numbered, CachedCredentials::new(source))
    }

    async fn name(credentials: &CachedCredentials) -> String {
        credentials.get().await.unwrap().0.access_key_id().to_owned()
    }

    /// Who waits may give up: the renewal goes on, and is one for all.
    #[tokio::test]
    async fn slow_ones_are_got_once_for_all_who_wait() {
        let (numbered, credentials) = ground();
        numbered.pause_ms.store(150, Ordering::SeqCst);
        for _ in 0..3 {
            let waiting = timeout(Duration::from_millis(20), credentials.get());
            assert!(waiting.await.is_err());
        }
        let (one, two) = tokio::join!(name(&credentials), name(&credentials));
        assert_eq!((one.as_str(), two.as_str()), ("key-1", "key-1"));
        assert_eq!(numbered.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn those_that_end_soon_are_used_while_others_are_got() {
        let (numbered, credentials) = ground();
        numbered.lives_secs.store(200, Ordering::SeqCst);
        assert_eq!(name(&credentials).await, "key-1");
        for _ in 0..50 {
            assert_eq!(name(&credentials).await, "key-1", "no renewal so soon after the last");
        }
        assert_eq!(numbered.asked.load(Ordering::SeqCst), 1);
        numbered.pause_ms.store(200, Ordering::SeqCst);
        credentials.0.lock().next = None;
        let begun = Instant::now();
        assert_eq!(name(&credentials).await, "key-1");
        assert!(begun.elapsed() < Duration::from_millis(150), "nobody waits for those to come");
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert_eq!(name(&credentials).await, "key-2");
    }

    #[tokio::test]
    async fn refused_ones_are_renewed_once() {
        let (numbered, credentials) = ground();
        let (_, first) = credentials.get().await.unwrap();
        credentials.0.lock().next = None;
        // A burst of requests that were signed with the first.
        for _ in 0..10 {
            assert!(credentials.forget(first));
            assert_eq!(name(&credentials).await, "key-2");
        }
        assert_eq!(numbered.asked.load(Ordering::SeqCst), 2);
        // And those that are new are refused as well: nothing helps for a while.
        let (_, second) = credentials.get().await.unwrap();
        assert!(!credentials.forget(second));
        assert_eq!(name(&credentials).await, "key-2");
    }

    #[tokio::test]
    async fn what_a_program_says_is_not_repeated() {
        let (numbered, credentials) = ground();
        numbered.fails.store(true, Ordering::SeqCst);
        let fault = credentials.get().await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::NoCredentials);
        assert!(fault.message.contains("code 1") && !fault.message.contains("my secret"), "{fault:?}");
        // Once more is no use so soon.
        assert!(credentials.get().await.is_err());
        assert_eq!(numbered.asked.load(Ordering::SeqCst), 1);
    }
}
