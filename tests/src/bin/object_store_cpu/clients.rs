//! Those that are compared. Each has 16 operations under way.

use std::path::Path;
use std::sync::Arc;

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use bytes::Bytes;
use hicache_core::{Access, Namespace, PageKey, PageRequest, Registration, Storage, StoreOptions};
use hicache_obj_s3::{Access as Who, RequestPath, S3Config, S3Storage};
use hicache_testkit::numbered_key;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{Certificate, ClientOptions, ObjectStoreExt, PutPayload};

use super::Operation;
use super::bare::{self, Bare};

const AT_A_TIME: usize = 16;
/// Different pages.
pub(crate) const PAGES: usize = 64;
pub(crate) const BUCKET: &str = "pages";

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Bare,
    Hicache,
    HicacheSdk,
    HicacheUnsigned,
    ObjectStore,
    Sdk,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] =
        [Self::Bare, Self::Hicache, Self::HicacheSdk, Self::HicacheUnsigned, Self::ObjectStore, Self::Sdk];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare hyper + CRC",
            Self::Hicache => "hicache, as it comes",
            Self::HicacheSdk => "hicache, requests = sdk",
            Self::HicacheUnsigned => "hicache, unsigned_payload",
            Self::ObjectStore => "object_store",
            Self::Sdk => "plain SDK",
        }
    }
}

/// A client, connected.
pub(crate) enum Client {
    Ours(Ours),
    Other(Arc<Other>),
}

pub(crate) struct Ours {
    storage: Arc<S3Storage>,
    registration: Registration,
    bytes: usize,
}

/// One that does an operation at a time.
pub(crate) enum Other {
    Bare(Bare),
    ObjectStore(AmazonS3, Vec<Bytes>),
    Sdk(aws_sdk_s3::Client, Vec<Bytes>),
}

type Result<T> = std::result::Result<T, String>;

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

/// Makes a client for pages of `bytes`; over TLS where a certificate is given.
pub(crate) async fn connect(kind: Kind, port: u16, ca_file: Option<&Path>, bytes: usize) -> Client {
    let scheme = if ca_file.is_some() { "https" } else { "http" };
    let address = format!("{scheme}://127.0.0.1:{port}");
    // Each of its own memory, as those of an engine: one that is sent again and again would be in the cache.
    let pages = || (0..PAGES).map(|_| Bytes::from(vec![0x5a; bytes])).collect::<Vec<_>>();
    match kind {
        Kind::Bare => Client::Other(Arc::new(Other::Bare(Bare::new(&address, ca_file, pages())))),
        Kind::ObjectStore => {
            Client::Other(Arc::new(Other::ObjectStore(object_store(&address, ca_file), pages())))
        }
        Kind::Sdk => Client::Other(Arc::new(Other::Sdk(sdk(&address, ca_file), pages()))),
        Kind::Hicache | Kind::HicacheSdk | Kind::HicacheUnsigned => {
            Client::Ours(Ours::open(kind, &address, ca_file, bytes).await)
        }
    }
}

fn object_store(address: &str, ca_file: Option<&Path>) -> AmazonS3 {
    let mut options = ClientOptions::new().with_allow_http(true);
    if let Some(file) = ca_file {
        let pem = std::fs::read(file).expect("a file");
        options = options.with_root_certificate(Certificate::from_pem(&pem).expect("a certificate"));
    }
    AmazonS3Builder::new()
        .with_endpoint(address)
        .with_bucket_name(BUCKET)
        .with_region("us-east-1")
        .with_access_key_id("key")
        .with_secret_access_key("secret")
        // Before the options, in which it is said too.
        .with_allow_http(true)
        .with_client_options(options)
        .build()
        .expect("object_store")
}

fn sdk(address: &str, ca_file: Option<&Path>) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(address)
        .force_path_style(true)
        .credentials_provider(Credentials::new("key", "secret", None, None, "bench"))
        .http_client(sdk_http(ca_file));
    aws_sdk_s3::Client::from_conf(config.build())
}

/// What the SDK sends with.
fn sdk_http(ca_file: Option<&Path>) -> SharedHttpClient {
    let Some(file) = ca_file else { return aws_smithy_http_client::Builder::new().build_http() };
    let mut trust = TrustStore::empty();
    trust.add_pem_certificate(std::fs::read(file).expect("a file"));
    let context = TlsContext::builder().with_trust_store(trust).build().expect("TLS");
    let builder = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring));
    builder.tls_context(context).build_https()
}

/// Does `number` operations.
pub(crate) async fn run(client: &Client, operation: Operation, number: usize) -> Result<()> {
    let other = match client {
        Client::Ours(ours) => return ours.run(operation, number).await,
        Client::Other(other) => other,
    };
    let workers: Vec<_> = (0..AT_A_TIME)
        .map(|worker| {
            let other = Arc::clone(other);
            tokio::spawn(async move {
                for number in (worker..number).step_by(AT_A_TIME) {
                    other.one(operation, number % PAGES).await?;
                }
                Ok::<(), String>(())
            })
        })
        .collect();
    for worker in workers {
        worker.await.map_err(text)??;
    }
    Ok(())
}

impl Other {
    async fn one(&self, operation: Operation, number: usize) -> Result<()> {
        match self {
            Self::Bare(bare) => bare.one(operation, number).await,
            Self::ObjectStore(store, pages) => {
                let page = &pages[number];
                let path = object_store::path::Path::from(format!("object-store/{number:064}.kv"));
                match operation {
                    Operation::Put => {
                        store.put(&path, PutPayload::from(page.clone())).await.map_err(text)?;
                    }
                    Operation::Get => {
                        let body = store.get(&path).await.map_err(text)?.bytes().await.map_err(text)?;
                        bare::is_length(body.len(), page.len())?;
                    }
                    Operation::Head => _ = store.head(&path).await.map_err(text)?,
                }
                Ok(())
            }
            Self::Sdk(client, pages) => {
                let page = &pages[number];
                let key = format!("sdk/{number:064}.kv");
                match operation {
                    Operation::Put => {
                        let body = ByteStream::from(page.clone());
                        client.put_object().bucket(BUCKET).key(key).body(body).send().await.map_err(text)?;
                    }
                    Operation::Get => {
                        let answer =
                            client.get_object().bucket(BUCKET).key(key).send().await.map_err(text)?;
                        let body = answer.body.collect().await.map_err(text)?.into_bytes();
                        bare::is_length(body.len(), page.len())?;
                    }
                    Operation::Head => {
                        client.head_object().bucket(BUCKET).key(key).send().await.map_err(text)?;
                    }
                }
                Ok(())
            }
        }
    }
}

impl Ours {
    async fn open(kind: Kind, address: &str, ca_file: Option<&Path>, bytes: usize) -> Self {
        let mut config = S3Config::new(BUCKET);
        config.endpoints = vec![address.to_owned()];
        config.access = Who::Key { id: "key".into(), secret: "secret".into(), token: None };
        config.ca_file = ca_file.map(Path::to_owned);
        config.concurrency = AT_A_TIME;
        // Everything is asked for.
        config.present_age_ms = 0;
        config.absent_age_ms = 0;
        if kind == Kind::HicacheSdk {
            config.requests = RequestPath::Sdk;
        }
        if kind == Kind::HicacheUnsigned {
            config.unsigned_payload = Some(true);
        }
        let namespace = Namespace::new(format!("{} of {bytes}", kind.name()));
        let storage = S3Storage::open(config, &namespace).await.expect("a storage");
        let region = hicache_core::Region::allocate(PAGES, bytes).expect("memory");
        let registration = storage.register(&region).expect("registered");
        Self { storage, registration, bytes }
    }

    /// In batches of all pages, as an engine asks.
    async fn run(&self, operation: Operation, number: usize) -> Result<()> {
        let keys: Vec<PageKey> = (0..PAGES as u64).map(numbered_key).collect();
        let request = |(slot, key): (usize, &PageKey)| {
            PageRequest::new(*key, self.registration.page(slot, self.bytes, Access::Write).expect("a slot"))
        };
        let requests = || keys.iter().enumerate().map(request).collect();
        for _ in 0..number / PAGES {
            let outcomes = match operation {
                Operation::Head => {
                    let there = self.storage.exists(&keys).await.map_err(text)?;
                    if there.contains(&false) {
                        return Err(format!("{there:?}"));
                    }
                    continue;
                }
                Operation::Get => self.storage.load(requests()).await.outcomes,
                Operation::Put => {
                    self.storage.store(requests(), StoreOptions { overwrite: true }).await.outcomes
                }
            };
            if let Some(bad) = outcomes.iter().find(|outcome| !outcome.is_done()) {
                return Err(text(bad));
            }
        }
        Ok(())
    }
}
