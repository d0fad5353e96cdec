//! The line to an endpoint: TLS, proxy.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::{
    HttpConnectorSettings, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use hicache_core::{Error, Result};
use rustls_native_certs::load_native_certs;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::config::{Access, S3Config};

/// Longest that a connection may take to be made.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest that a connection may have been idle and be used again.
pub(crate) const MOST_IDLE_TIME: Duration = Duration::from_secs(20);

/// A pool of connections for what the SDK sends.
pub(crate) fn connector(config: &S3Config) -> Result<SharedHttpConnector> {
    let settings = HttpConnectorSettings::builder().connect_timeout(CONNECT_TIMEOUT).build();
    // The system's certificates are read only where there is something to compare with them.
    let plain =
        !config.endpoints.is_empty() && config.endpoints.iter().all(|address| address.starts_with("http://"));
    let asks_others = matches!(config.access, Access::Chain | Access::Profile { .. });
    let mut trust = if plain && !asks_others { TrustStore::empty() } else { TrustStore::default() };
    if let Some(file) = &config.ca_file {
        trust.add_pem_certificate(pem(file)?);
    }
    let tls = TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .map_err(|error| Error::config("TLS can't be set up; is obj_s3.ca_file right?").with_source(error))?;
    let mut builder = Connector::builder()
        .connector_settings(settings)
        .pool_max_idle_per_host(config.concurrency)
        .pool_idle_timeout(MOST_IDLE_TIME)
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

fn pem(file: &Path) -> Result<Vec<u8>> {
    let named = || format!("obj_s3.ca_file = {:?}", file.display().to_string());
    let pem = std::fs::read(file)
        .map_err(|error| Error::config(format!("{} can't be read", named())).with_source(error))?;
    match String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----") {
        true => Ok(pem),
        false => Err(Error::config(format!("{} holds no certificate in PEM", named()))),
    }
}

/// Whom requests of our own trust, where they go over TLS: the same.
pub(crate) fn tls(config: &S3Config, is_tls: bool) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    if is_tls {
        // Those that can't be parsed are not trusted.
        roots.add_parsable_certificates(load_native_certs().certs);
    }
    if let Some(file) = config.ca_file.as_ref().filter(|_| is_tls) {
        let wrong = |error: &dyn std::fmt::Display| {
            let file = file.display().to_string();
            Error::config(format!(
                "obj_s3.ca_file = {file:?} holds a certificate that can't be parsed: {error}"
            ))
        };
        for certificate in CertificateDer::pem_slice_iter(&pem(file)?) {
            let certificate = certificate.map_err(|error| wrong(&error))?;
            roots.add(certificate).map_err(|error| wrong(&error))?;
        }
    }
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| Error::config("TLS can't be set up").with_source(error))?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// The same connections for everything that the SDK sends.
pub(crate) fn client(connector: SharedHttpConnector) -> SharedHttpClient {
    http_client_fn(move |_, _| connector.clone())
}
