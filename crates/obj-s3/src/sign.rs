//! Signatures (AWS Signature Version 4) of requests without a query. What stays the same from one request to the next is
//! kept: they differ in the object's name.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::sign::v4::{calculate_signature, generate_signing_key};
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use hicache_core::hashing::to_hex;
use http::header::{HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue};
use sha2::{Digest, Sha256};

use crate::credentials::Generation;

/// SHA-256 of nothing: what a signature says of a request without a body.
pub(crate) const NO_BODY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// What it says of a body that it does not cover.
pub(crate) const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

type BoxError = Box<dyn std::error::Error + Send + Sync>;

static PAYLOAD_HEADER: HeaderName = HeaderName::from_static("x-amz-content-sha256");
static TIME_HEADER: HeaderName = HeaderName::from_static("x-amz-date");
static TOKEN_HEADER: HeaderName = HeaderName::from_static("x-amz-security-token");

/// Signs requests to one host.
pub(crate) struct Signer {
    host: HeaderValue,
    region: String,
    kept: Mutex<Option<Arc<Kept>>>,
}

/// What is the same for all requests of a second.
struct Kept {
    generation: Generation,
    second: u64,
    /// As `20261122T174500Z`.
    time: HeaderValue,
    /// The same with what comes before and after it in what is signed: what the key is good for (day, region, service).
    start: String,
    scope: String,
    key: Vec<u8>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is kept has a key in it.
        f.debug_struct("Signer")
            .field("host", &self.host)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

impl Signer {
    /// `host` as it is in the header of that name.
    pub(crate) fn new(host: HeaderValue, region: String) -> Self {
        Self { host, region, kept: Mutex::default() }
    }

    /// Adds what every request has: its host, and what is said of its body, [`NO_BODY`], [`UNSIGNED`] or a sum.
    pub(crate) fn prepare(&self, headers: &mut HeaderMap, payload: HeaderValue) {
        headers.insert(http::header::HOST, self.host.clone());
        headers.insert(&PAYLOAD_HEADER, payload);
    }

    /// Signs the request for `path`, in which nothing needs escaping, with all headers that it has.
    ///
    /// # Errors
    /// Credentials or headers that are no text.
    pub(crate) fn sign(
        &self,
        method: &str,
        path: &str,
        headers: &mut HeaderMap,
        credentials: &Credentials,
        generation: Generation,
        now: SystemTime,
    ) -> Result<(), BoxError> {
        let kept = self.kept(credentials, generation, now)?;
        headers.insert(&TIME_HEADER, kept.time.clone());
        if let Some(token) = credentials.session_token() {
            let mut token = HeaderValue::from_str(token)?;
            token.set_sensitive(true);
            headers.insert(&TOKEN_HEADER, token);
        }
        let mut signed = Vec::with_capacity(headers.len());
        for (name, value) in &*headers {
            signed.push((name.as_str(), value.to_str()?));
        }
        signed.sort_unstable_by_key(|(name, _)| *name);
        let payload = headers.get(&PAYLOAD_HEADER).and_then(|value| value.to_str().ok()).unwrap_or(UNSIGNED);

        let mut canonical = String::with_capacity(1024);
        add(&mut canonical, &[method, "\n", path, "\n\n"]);
        signed.iter().for_each(|(name, value)| add(&mut canonical, &[name, ":", value, "\n"]));
        let mut names = String::with_capacity(256);
        for (name, _) in &signed {
            let between = if names.is_empty() { "" } else { ";" };
            add(&mut names, &[between, name]);
        }
        add(&mut canonical, &["\n", &names, "\n", payload]);
        let digest = to_hex(&Sha256::digest(canonical.as_bytes()));
        let signature = calculate_signature(&kept.key, [kept.start.as_str(), &digest].concat().as_bytes());
        let authorization = [
            "AWS4-HMAC-SHA256 Credential=",
            credentials.access_key_id(),
            "/",
            &kept.scope,
            ", SignedHeaders=",
            &names,
            ", Signature=",
            &signature,
        ];
        let mut authorization = HeaderValue::try_from(authorization.concat())?;
        authorization.set_sensitive(true);
        headers.insert(http::header::AUTHORIZATION, authorization);
        Ok(())
    }

    fn kept(
        &self,
        credentials: &Credentials,
        generation: Generation,
        now: SystemTime,
    ) -> Result<Arc<Kept>, InvalidHeaderValue> {
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = &*kept
            && (kept.generation, kept.second) == (generation, second)
        {
            return Ok(Arc::clone(kept));
        }
        let time = DateTime::from_secs(i64::try_from(second).unwrap_or(0)).fmt(Format::DateTime);
        let time = time.unwrap_or_default().replace(['-', ':'], "");
        let day = time.split('T').next().unwrap_or_default();
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let key = generate_signing_key(credentials.secret_access_key(), now, &self.region, "s3");
        let key = key.as_ref().to_vec();
        let start = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n");
        let new = Arc::new(Kept { generation, second, time: time.try_into()?, start, scope, key });
        *kept = Some(Arc::clone(&new));
        Ok(new)
    }
}

fn add(text: &mut String, parts: &[&str]) {
    parts.iter().for_each(|part| text.push_str(part));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aws_sigv4::http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    };
    use aws_sigv4::sign::v4;

    use super::*;

    /// The library's signature of the same request.
    fn of_the_library(
        method: &str,
        uri: &str,
        headers: &HeaderMap,
        credentials: &Credentials,
        now: SystemTime,
    ) -> Vec<(String, String)> {
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::NoHeader;
        let identity = credentials.clone().into();
        let params = v4::SigningParams::builder().identity(&identity).region("eu-west-1").name("s3");
        let params = params.time(now).settings(settings).build().unwrap().into();
        let body = SignableBody::Precomputed(headers[&PAYLOAD_HEADER].to_str().unwrap().to_owned());
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
        let signable = SignableRequest::new(method, uri, headers, body).unwrap();
        let (instructions, _) = sign(signable, &params).unwrap().into_parts();
        let headers = instructions.headers();
        headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn signatures_are_the_librarys() {
        let plain = Credentials::new("AKIA1", "secret", None, None, "test");
        let temporary = Credentials::new("ASIA2", "other", Some("a+token/with=signs".into()), None, "test");
        let start = UNIX_EPOCH + Duration::from_secs(1_795_391_999);
        let get: &[(&str, &str)] = &[];
        let put: &[(&str, &str)] = &[
            ("x-amz-server-side-encryption-aws-kms-key-id", "arn:aws:kms:a:1:key/b-c"),
            ("x-amz-server-side-encryption", "aws:kms"),
            ("if-none-match", "*"),
            ("x-amz-meta-hicache-bytes", "65536"),
            ("x-amz-checksum-crc64nvme", "AAAAAAAAAAA="),
            ("x-amz-meta-hicache-crc64nvme", "00000000000000ab"),
        ];
        let sum = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        let requests = [
            ("GET", "/pages/a-b_c/0123~2e.kv", NO_BODY, get),
            ("HEAD", "/manifest.json", NO_BODY, get),
            ("PUT", "/pages/0123.kv", UNSIGNED, put),
            ("PUT", "/pages/0123.kv", sum, put),
        ];
        for (host, scheme) in [("127.0.0.1:9000", "http"), ("pages.s3.eu-west-1.amazonaws.com", "https")] {
            let signer = Signer::new(HeaderValue::from_static(host), "eu-west-1".to_owned());
            // Over midnight, on a day of February; other credentials in the same second.
            for seconds in [0, 1, 2, 86_400, 9_158_400] {
                for (generation, credentials) in [(0, &plain), (1, &temporary), (2, &plain)] {
                    for (method, path, payload, given) in requests {
                        let now = start + Duration::from_secs(seconds);
                        let generation = Generation::of_test(generation);
                        let mut headers = HeaderMap::new();
                        signer.prepare(&mut headers, HeaderValue::from_static(payload));
                        for (name, value) in given {
                            headers.insert(*name, HeaderValue::from_static(value));
                        }
                        let before = headers.clone();
                        signer.sign(method, path, &mut headers, credentials, generation, now).unwrap();
                        let uri = format!("{scheme}://{host}{path}");
                        let wanted = of_the_library(method, &uri, &before, credentials, now);
                        assert_eq!(headers.len(), before.len() + wanted.len(), "{wanted:?}");
                        for (name, value) in wanted {
                            assert_eq!(headers[&name], value, "{method} {uri} at {seconds}: {name}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let signer = Signer::new(HeaderValue::from_static("host"), "r".into());
        let credentials = Credentials::new("AKIA1", "hunter2", Some("a-token".into()), None, "test");
        let mut headers = HeaderMap::new();
        let (generation, now) = (Generation::default(), SystemTime::now());
        signer.sign("GET", "/", &mut headers, &credentials, generation, now).unwrap();
        let key = signer.kept.lock().unwrap().as_ref().unwrap().key.clone();
        let shown = format!("{signer:?} {headers:?}");
        for secret in ["hunter2", "a-token", "AKIA1", &format!("{key:?}")] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}
