//! Those that are compared. Each has 16 operations under way.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use bytes::Bytes;
use futures::{StreamExt, stream};
use hicache_core::{Access, Namespace, PageRequest, Registration, Storage, StoreOptions};
use hicache_obj_s3::{Access as Who, ReadPath, S3Config, S3Storage};
use hicache_testkit::numbered_key;
use http_body_util::{BodyExt, Full};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio_rustls::rustls;

const AT_A_TIME: usize = 16;
const BUCKET: &str = "pages";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Get,
    Put,
    Head,
}

#[allow(clippy::large_enum_variant, reason = "there are five of them")]
pub(crate) enum Client {
    Ours { name: &'static str, storage: Arc<S3Storage>, registration: Registration, bytes: usize },
    Bare { client: BareClient, base: String, page: Bytes, places: Mutex<Vec<Vec<u8>>> },
    Sdk { client: aws_sdk_s3::Client, page: Bytes },
}

type BareClient = hyper_util::client::legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client without anything that is S3's.
fn bare(certificate: Option<&[u8]>) -> BareClient {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(certificate) = certificate {
        roots.add(certificate.to_vec().into()).expect("a certificate");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_root_certificates(roots).with_no_client_auth();
    let connector = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(config);
    let connector = connector.https_or_http().enable_http1().build();
    hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector)
}

/// The body of the only certificate of a file.
fn certificate(file: &Path) -> Vec<u8> {
    let pem = std::fs::read_to_string(file).expect("a file");
    let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    aws_smithy_types::base64::decode(text).expect("a certificate")
}

/// All of them, over pages of `bytes`; over TLS where a certificate is given.
pub(crate) async fn all(port: u16, ca_file: Option<&Path>, bytes: usize) -> Vec<Client> {
    let scheme = if ca_file.is_some() { "https" } else { "http" };
    let address = format!("{scheme}://127.0.0.1:{port}");
    let page = Bytes::from(vec![0x5a; bytes]);
    let bare = bare(ca_file.map(certificate).as_deref());
    let mut clients = vec![Client::Bare {
        client: bare,
        base: format!("{address}/{BUCKET}/bare"),
        page: page.clone(),
        places: Mutex::default(),
    }];
    let ways = [
        ("ours, lean", ReadPath::Lean, true),
        ("ours, by the SDK", ReadPath::Sdk, true),
        ("ours, payload signed", ReadPath::Lean, false),
    ];
    for (name, reads, unsigned) in ways {
        let mut config = S3Config::new(BUCKET);
        config.endpoints = vec![address.clone()];
        config.access = Who::Key { id: "key".into(), secret: "secret".into(), token: None };
        config.reads = reads;
        config.ca_file = ca_file.map(Path::to_owned);
        config.unsigned_payload = Some(unsigned);
        config.concurrency = AT_A_TIME;
        // Everything is asked for.
        config.present_age_ms = 0;
        config.absent_age_ms = 0;
        let storage =
            S3Storage::open(config, &Namespace::new(format!("{name}{bytes}"))).await.expect("a storage");
        let region = hicache_core::Region::allocate(AT_A_TIME * 4, bytes).expect("memory");
        let registration = storage.register(&region).expect("registered");
        clients.push(Client::Ours { name, storage, registration, bytes });
    }
    let sdk = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(&address)
        .force_path_style(true)
        .credentials_provider(Credentials::new("key", "secret", None, None, "bench"))
        .http_client(sdk_client(ca_file))
        .build();
    clients.push(Client::Sdk { client: aws_sdk_s3::Client::from_conf(sdk), page });
    clients
}

/// What the SDK sends with.
fn sdk_client(ca_file: Option<&Path>) -> SharedHttpClient {
    let mut trust = TrustStore::empty();
    if let Some(file) = ca_file {
        trust.add_pem_certificate(std::fs::read(file).expect("a file"));
    }
    let context = TlsContext::builder().with_trust_store(trust).build().expect("TLS");
    let builder = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring));
    match ca_file {
        Some(_) => builder.tls_context(context).build_https(),
        None => aws_smithy_http_client::Builder::new().build_http(),
    }
}

impl Client {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ours { name, .. } => name,
            Self::Bare { .. } => "bare hyper + CRC",
            Self::Sdk { .. } => "plain SDK",
        }
    }

    pub(crate) async fn close(self) {
        if let Self::Ours { storage, .. } = self {
            let _ = storage.close().await;
        }
    }

    /// Whether it does that at all.
    pub(crate) async fn run(&self, operation: Operation, operations: usize) -> bool {
        if let Self::Ours { storage, registration, bytes, .. } = self {
            return ours(storage, registration, *bytes, operation, operations).await;
        }
        let done = stream::iter(0..operations as u64)
            .map(|number| self.one(operation, number % 64))
            .buffer_unordered(AT_A_TIME);
        done.all(|done| async move { done }).await
    }

    async fn one(&self, operation: Operation, number: u64) -> bool {
        match self {
            Self::Ours { .. } => false,
            Self::Bare { client, base, page, places } => {
                let method = match operation {
                    Operation::Get => "GET",
                    Operation::Put => "PUT",
                    Operation::Head => "HEAD",
                };
                let body = if operation == Operation::Put { page.clone() } else { Bytes::new() };
                if operation == Operation::Put {
                    std::hint::black_box(hicache_core::hashing::checksum(&body));
                }
                let request = http::Request::builder().method(method).uri(format!("{base}/{number}"));
                let Ok(request) = request.body(Full::new(body)) else { return false };
                let Ok(answer) = client.request(request).await else { return false };
                let (mut body, mut sum, mut at) =
                    (answer.into_body(), hicache_core::hashing::Checksum::new(), 0);
                // To where the page is to be, as everybody who loads into leased memory must.
                let place = places.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let mut memory = place.unwrap_or_else(|| vec![0_u8; page.len()]);
                while let Some(Ok(frame)) = body.frame().await {
                    if let Some(data) = frame.data_ref() {
                        memory[at..at + data.len()].copy_from_slice(data);
                        sum.update(data);
                        at += data.len();
                    }
                }
                std::hint::black_box((sum.finish(), &memory));
                places.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
                at == if operation == Operation::Get { page.len() } else { 0 }
            }
            Self::Sdk { client, page } => {
                let key = format!("sdk/{number}");
                match operation {
                    Operation::Get => match client.get_object().bucket(BUCKET).key(key).send().await {
                        Ok(answer) => answer.body.collect().await.is_ok_and(|body| {
                            std::hint::black_box(body.into_bytes());
                            true
                        }),
                        Err(_) => false,
                    },
                    Operation::Put => {
                        let body = ByteStream::from(page.clone());
                        client.put_object().bucket(BUCKET).key(key).body(body).send().await.is_ok()
                    }
                    Operation::Head => client.head_object().bucket(BUCKET).key(key).send().await.is_ok(),
                }
            }
        }
    }
}

async fn ours(
    storage: &Arc<S3Storage>,
    registration: &Registration,
    bytes: usize,
    operation: Operation,
    operations: usize,
) -> bool {
    const BATCH: usize = AT_A_TIME * 4;
    for _ in 0..operations / BATCH {
        let keys: Vec<_> = (0..BATCH as u64).map(numbered_key).collect();
        let request = |(slot, key): (usize, &hicache_core::PageKey)| {
            PageRequest::new(*key, registration.page(slot, bytes, Access::Write).expect("a slot"))
        };
        let good = match operation {
            Operation::Head => {
                storage.exists(&keys).await.is_ok_and(|there| there.iter().all(|there| *there))
            }
            Operation::Get => {
                let batch = storage.load(keys.iter().enumerate().map(request).collect()).await;
                batch.leading_done() == BATCH
            }
            Operation::Put => {
                let requests = keys.iter().enumerate().map(request).collect();
                let batch = storage.store(requests, StoreOptions { overwrite: true }).await;
                batch.leading_done() == BATCH
            }
        };
        if !good {
            return false;
        }
    }
    true
}
