//! The least that a client can do: an HTTP client that sends the same requests, with headers that are there from the
//! start, and takes the sum of what goes and comes.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use hicache_core::hashing::{Checksum, checksum};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::{BodyExt, Full};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio_rustls::rustls;

use super::Operation;
use super::clients::BUCKET;

/// What a signed request has, as long as it is there.
const SIGNED: [(&str, &str); 3] = [
    (
        "authorization",
        "AWS4-HMAC-SHA256 Credential=key/20261122/us-east-1/s3/aws4_request, \
         SignedHeaders=host;x-amz-content-sha256;x-amz-date, \
         Signature=0000000000000000000000000000000000000000000000000000000000000000",
    ),
    ("x-amz-content-sha256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ("x-amz-date", "20261122T000000Z"),
];
/// What a page has besides; it comes back with GET and HEAD.
const OF_A_PAGE: [(&str, &str); 4] = [
    ("x-amz-meta-hicache-bytes", "65536"),
    ("x-amz-meta-hicache-crc64nvme", "0000000000000000"),
    ("x-amz-meta-hicache-namespace", "00000000000000000000000000000000"),
    ("x-amz-checksum-crc64nvme", "AAAAAAAAAAA="),
];

type Http = hyper_util::client::legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

pub(crate) struct Bare {
    client: Http,
    base: String,
    pages: Vec<Bytes>,
    read: HeaderMap,
    write: HeaderMap,
    /// Where pages are to be, as for everybody who loads into leased memory.
    places: Vec<Mutex<Vec<u8>>>,
}

fn headers<'a>(pairs: impl IntoIterator<Item = &'a (&'static str, &'static str)>) -> HeaderMap {
    let pairs = pairs.into_iter();
    pairs.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

fn http(certificate: Option<Vec<u8>>) -> Http {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(certificate) = certificate {
        roots.add(certificate.into()).expect("a certificate");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_root_certificates(roots).with_no_client_auth();
    let connector = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(config);
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let connector = connector.https_or_http().enable_http1().wrap_connector(tcp);
    hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector)
}

/// The body of the only certificate of a file.
fn certificate(file: &Path) -> Vec<u8> {
    let pem = std::fs::read_to_string(file).expect("a file");
    let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    aws_smithy_types::base64::decode(text).expect("a certificate")
}

pub(crate) fn is_length(seen: usize, wanted: usize) -> Result<(), String> {
    if seen == wanted { Ok(()) } else { Err(format!("{seen} bytes came of {wanted}")) }
}

impl Bare {
    pub(crate) fn new(address: &str, ca_file: Option<&Path>, pages: Vec<Bytes>) -> Self {
        Self {
            client: http(ca_file.map(certificate)),
            base: format!("{address}/{BUCKET}/bare"),
            places: pages.iter().map(|page| Mutex::new(vec![0; page.len()])).collect(),
            pages,
            read: headers(&SIGNED),
            write: headers(SIGNED.iter().chain(&OF_A_PAGE)),
        }
    }

    pub(crate) async fn one(&self, operation: Operation, number: usize) -> Result<(), String> {
        let text = |error: hyper_util::client::legacy::Error| format!("{error:?}");
        let (body, headers) = match operation {
            Operation::Put => (self.pages[number].clone(), &self.write),
            Operation::Get | Operation::Head => (Bytes::new(), &self.read),
        };
        if operation == Operation::Put {
            std::hint::black_box(checksum(&body));
        }
        let mut request = http::Request::builder()
            .method(operation.name())
            .uri(format!("{}/{number:064}.kv", self.base))
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        *request.headers_mut() = headers.clone();
        let answer = self.client.request(request).await.map_err(text)?;
        if !answer.status().is_success() {
            return Err(answer.status().to_string());
        }
        if operation != Operation::Get {
            return Ok(());
        }
        let (mut body, mut sum, mut at) = (answer.into_body(), Checksum::new(), 0);
        let place = &self.places[number];
        let mut memory = std::mem::take(&mut *place.lock().unwrap_or_else(PoisonError::into_inner));
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| error.to_string())?;
            if let Some(data) = frame.data_ref() {
                let place = memory.get_mut(at..at + data.len()).ok_or("too many bytes")?;
                place.copy_from_slice(data);
                sum.update(data);
                at += data.len();
            }
        }
        std::hint::black_box((sum.finish(), &memory));
        *place.lock().unwrap_or_else(PoisonError::into_inner) = memory;
        is_length(at, self.pages[number].len())
    }
}
