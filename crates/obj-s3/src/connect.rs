//! The line to an endpoint: TLS, proxy, credentials.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_s3::config::Region;
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::{
    HttpConnectorSettings, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use hicache_core::{Error, Result};

use crate::config::{Access, S3Config};

/// Longest that a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Credentials are asked for again this long before they end.
const EARLY: Duration = Duration::from_secs(300);

/// A pool of connections, for the SDK and for requests of our own.
pub(crate) fn connector(config: &S3Config) -> Result<SharedHttpConnector> {
    let settings = HttpConnectorSettings::builder().connect_timeout(CONNECT_TIMEOUT).build();
    // The system's certificates are read only where there is something to compare with them.
    let plain =
        !config.endpoints.is_empty() && config.endpoints.iter().all(|address| address.starts_with("http://"));
    let asks_others = matches!(config.access, Access::Chain | Access::Profile { .. });
    let mut trust = if plain && !asks_others { TrustStore::empty() } else { TrustStore::default() };
    if let Some(file) = &config.ca_file {
        let named = || format!("obj_s3.ca_file = {:?}", file.display().to_string());
        let pem = std::fs::read(file)
            .map_err(|error| Error::config(format!("{} can't be read", named())).with_source(error))?;
        if !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----") {
            return Err(Error::config(format!("{} holds no certificate in PEM", named())));
        }
        trust.add_pem_certificate(pem);
    }
    let tls = TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .map_err(|error| Error::config("TLS can't be set up; is obj_s3.ca_file right?").with_source(error))?;
    let mut builder = Connector::builder()
        .connector_settings(settings)
        .pool_max_idle_per_host(config.concurrency)
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(tls);
    if let Some(proxy) = &config.proxy {
        // The value may have a password in it.
        let proxy = ProxyConfig::all(proxy.as_str())
            .map_err(|_| Error::config("obj_s3.proxy is no address of a proxy; write http://host:port"))?;
        builder = builder.proxy_config(proxy);
    }
    // The library panics on certificates that it can't parse.
    let built = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| builder.build()));
    built.map(SharedHttpConnector::new).map_err(|_| {
        let file = config.ca_file.as_ref().map(|file| file.display().to_string());
        Error::config(format!(
            "TLS can't be set up: obj_s3.ca_file = {file:?} or the system's certificates can't be parsed; mend the file, \
             or install the system's certificates"
        ))
    })
}

/// The same connections for everything that the SDK sends.
pub(crate) fn client(connector: SharedHttpConnector) -> SharedHttpClient {
    http_client_fn(move |_, _| connector.clone())
}

/// Who asks: what the configuration names, or the SDK's chain. `None` for nobody.
pub(crate) fn credentials(
    access: &Access,
    region: &str,
    client: &SharedHttpClient,
) -> Option<CachedCredentials> {
    let provider_config = || {
        ProviderConfig::without_region()
            .with_region(Some(Region::new(region.to_owned())))
            .with_http_client(client.clone())
    };
    let source =
        match access {
            Access::Anonymous => return None,
            Access::Key { id, secret, token } => Source::Ready(SharedCredentialsProvider::new(
                Credentials::new(id.clone(), secret.clone(), token.clone(), None, "hicache"),
            )),
            Access::Profile { name, file } => {
                let mut builder = ProfileFileCredentialsProvider::builder().configure(&provider_config());
                if let Some(name) = name {
                    builder = builder.profile_name(name);
                }
                if let Some(file) = file {
                    let files = EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, file);
                    builder = builder.profile_files(files.build());
                }
                Source::Ready(SharedCredentialsProvider::new(builder.build()))
            }
            Access::Chain => Source::Chain(Box::new(provider_config())),
        };
    Some(CachedCredentials(Arc::new(Cached {
        source: tokio::sync::Mutex::new(source),
        credentials: RwLock::new(None),
    })))
}

/// Where credentials come from.
#[derive(Debug)]
enum Source {
    Ready(SharedCredentialsProvider),
    /// Not looked at before the first request: making a chain reads files.
    Chain(Box<ProviderConfig>),
}

/// Credentials, asked for when they are needed and kept until shortly before they end.
#[derive(Clone, Debug)]
pub(crate) struct CachedCredentials(Arc<Cached>);

#[derive(Debug)]
struct Cached {
    source: tokio::sync::Mutex<Source>,
    credentials: RwLock<Option<Credentials>>,
}

impl CachedCredentials {
    pub(crate) async fn get(&self) -> Result<Credentials, CredentialsError> {
        if let Some(credentials) = self.cached() {
            return Ok(credentials);
        }
        let mut source = self.0.source.lock().await;
        if let Some(credentials) = self.cached() {
            return Ok(credentials);
        }
        if let Source::Chain(config) = &*source {
            let chain = DefaultCredentialsChain::builder().configure((**config).clone()).build().await;
            *source = Source::Ready(SharedCredentialsProvider::new(chain));
        }
        let Source::Ready(provider) = &*source else {
            return Err(CredentialsError::not_loaded("no provider"));
        };
        let credentials = provider.provide_credentials().await?;
        *self.0.credentials.write().unwrap_or_else(PoisonError::into_inner) = Some(credentials.clone());
        Ok(credentials)
    }

    fn cached(&self) -> Option<Credentials> {
        let cached = self.0.credentials.read().unwrap_or_else(PoisonError::into_inner);
        let good = |credentials: &&Credentials| {
            credentials.expiry().is_none_or(|end| end > SystemTime::now() + EARLY)
        };
        cached.as_ref().filter(good).cloned()
    }

    /// The store did not take them: they are asked for again.
    pub(crate) fn forget(&self) {
        *self.0.credentials.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl ProvideCredentials for CachedCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.get())
    }
}
