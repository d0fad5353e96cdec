//! Those that are compared. Each has 16 operations under way.

use std::sync::Arc;

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use futures::{StreamExt, stream};
use hicache_core::{Access, Namespace, PageRequest, Registration, Storage, StoreOptions};
use hicache_obj_s3::{Access as Who, ReadPath, S3Config, S3Storage};
use hicache_testkit::numbered_key;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

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
    Bare { client: hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>, base: String, page: Bytes },
    Sdk { client: aws_sdk_s3::Client, page: Bytes },
}

/// All of them, over pages of `bytes`.
pub(crate) async fn all(port: u16, bytes: usize) -> Vec<Client> {
    let address = format!("http://127.0.0.1:{port}");
    let page = Bytes::from(vec![0x5a; bytes]);
    let bare = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http();
    let mut clients =
        vec![Client::Bare { client: bare, base: format!("{address}/{BUCKET}/bare"), page: page.clone() }];
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
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    clients.push(Client::Sdk { client: aws_sdk_s3::Client::from_conf(sdk), page });
    clients
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
            Self::Bare { client, base, page } => {
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
                let mut memory =
                    if operation == Operation::Get { vec![0_u8; page.len()] } else { Vec::new() };
                while let Some(Ok(frame)) = body.frame().await {
                    if let Some(data) = frame.data_ref() {
                        memory[at..at + data.len()].copy_from_slice(data);
                        sum.update(data);
                        at += data.len();
                    }
                }
                std::hint::black_box((sum.finish(), &memory));
                at == memory.len()
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
