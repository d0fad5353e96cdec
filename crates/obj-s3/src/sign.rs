//! Signatures (AWS Signature Version 4) of requests without a body and without a query. What stays the same from one
//! request to the next is kept: they differ in the object's name.

use std::fmt;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::sign::v4::{calculate_signature, generate_signing_key};
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use sha2::{Digest, Sha256};

use crate::credentials::Generation;

/// SHA-256 of nothing: what a signature says of a request without a body.
pub(crate) const NO_BODY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Signs requests to one host.
pub(crate) struct Signer {
    host: String,
    region: String,
    kept: Mutex<Option<Arc<Kept>>>,
}

/// What is the same for all requests of a second.
struct Kept {
    generation: Generation,
    second: u64,
    /// As `20261122T174500Z`.
    time: String,
    /// What the key is good for: day, region, service.
    scope: String,
    key: Vec<u8>,
}

/// What a request must be sent with besides `x-amz-content-sha256`, which is [`NO_BODY`].
pub(crate) struct Signed {
    pub(crate) authorization: String,
    pub(crate) time: String,
    /// Of a temporary key.
    pub(crate) token: Option<String>,
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
    pub(crate) fn new(host: String, region: String) -> Self {
        Self { host, region, kept: Mutex::default() }
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Signs the request for `path`, in which nothing needs escaping.
    pub(crate) fn sign(
        &self,
        method: &str,
        path: &str,
        credentials: &Credentials,
        generation: Generation,
        now: SystemTime,
    ) -> Signed {
        let kept = self.kept(credentials, generation, now);
        let token = credentials.session_token();
        let names = match token {
            None => "host;x-amz-content-sha256;x-amz-date",
            Some(_) => "host;x-amz-content-sha256;x-amz-date;x-amz-security-token",
        };
        let mut canonical = String::with_capacity(512 + path.len() + token.map_or(0, str::len));
        // Writing to a string can't fail.
        let _ = write!(
            canonical,
            "{method}\n{path}\n\nhost:{}\nx-amz-content-sha256:{NO_BODY}\nx-amz-date:{}\n",
            self.host, kept.time
        );
        if let Some(token) = token {
            let _ = writeln!(canonical, "x-amz-security-token:{token}");
        }
        let _ = write!(canonical, "\n{names}\n{NO_BODY}");
        let Kept { time, scope, key, .. } = &*kept;
        let digest = hicache_core::hashing::to_hex(&Sha256::digest(canonical.as_bytes()));
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{digest}");
        let signature = calculate_signature(key, to_sign.as_bytes());
        let id = credentials.access_key_id();
        Signed {
            authorization: format!(
                "AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}"
            ),
            time: time.clone(),
            token: token.map(str::to_owned),
        }
    }

    fn kept(&self, credentials: &Credentials, generation: Generation, now: SystemTime) -> Arc<Kept> {
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = &*kept
            && (kept.generation, kept.second) == (generation, second)
        {
            return Arc::clone(kept);
        }
        let time = DateTime::from_secs(i64::try_from(second).unwrap_or(0)).fmt(Format::DateTime);
        let time = time.unwrap_or_default().replace(['-', ':'], "");
        let day = time.split('T').next().unwrap_or_default();
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let key = generate_signing_key(credentials.secret_access_key(), now, &self.region, "s3");
        let key = key.as_ref().to_vec();
        let new = Arc::new(Kept { generation, second, time, scope, key });
        *kept = Some(Arc::clone(&new));
        new
    }
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
        let headers = [("x-amz-content-sha256", NO_BODY)];
        let body = SignableBody::Precomputed(NO_BODY.to_owned());
        let signable = SignableRequest::new(method, uri, headers.into_iter(), body).unwrap();
        let (instructions, _) = sign(signable, &params).unwrap().into_parts();
        let headers = instructions.headers();
        headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn signatures_are_the_librarys() {
        let plain = Credentials::new("AKIA1", "secret", None, None, "test");
        let temporary = Credentials::new("ASIA2", "other", Some("a+token/with=signs".into()), None, "test");
        let start = UNIX_EPOCH + Duration::from_secs(1_795_391_999);
        for (host, scheme) in [("127.0.0.1:9000", "http"), ("pages.s3.eu-west-1.amazonaws.com", "https")] {
            let signer = Signer::new(host.to_owned(), "eu-west-1".to_owned());
            for (generation, credentials) in [(0, &plain), (1, &temporary), (2, &plain)] {
                // Twice in a second, over midnight, on a day of February.
                for seconds in [0, 0, 1, 2, 86_400, 9_158_400] {
                    for (method, path) in [("GET", "/pages/a-b_c/0123~2e.kv"), ("HEAD", "/manifest.json")] {
                        let now = start + Duration::from_secs(seconds);
                        let generation = Generation::of_test(generation);
                        let signed = signer.sign(method, path, credentials, generation, now);
                        let uri = format!("{scheme}://{host}{path}");
                        let mut wanted = of_the_library(method, &uri, credentials, now);
                        let mut seen = vec![
                            ("authorization".to_owned(), signed.authorization),
                            ("x-amz-date".to_owned(), signed.time),
                        ];
                        seen.extend(signed.token.map(|token| ("x-amz-security-token".to_owned(), token)));
                        seen.sort();
                        wanted.sort();
                        assert_eq!(seen, wanted, "{method} {uri} at {seconds}");
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let signer = Signer::new("host".into(), "r".into());
        let credentials = Credentials::new("AKIA1", "hunter2", None, None, "test");
        signer.sign("GET", "/", &credentials, Generation::default(), SystemTime::now());
        let key = signer.kept.lock().unwrap().as_ref().unwrap().key.clone();
        let shown = format!("{signer:?}");
        assert!(!shown.contains("hunter2") && !shown.contains(&format!("{key:?}")), "{shown}");
    }
}
