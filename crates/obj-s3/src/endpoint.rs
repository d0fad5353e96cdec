//! One endpoint: its connections, its limits, and the requests that are made of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, IdentityCache, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::types::{Delete, ObjectIdentifier, ServerSideEncryption};
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextMut;
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use aws_smithy_types::config_bag::ConfigBag;
use hicache_core::Result;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use http_body_util::{BodyExt, Limited};

use crate::answer::Body;
use crate::body::Lent;
use crate::breaker::Breaker;
use crate::config::{Encryption, RequestPath, S3Config};
use crate::connect::{client, connector};
use crate::credentials::{CachedCredentials, Generation, credentials};
use crate::fault::{Fault, FaultKind};
use crate::lean::Lean;
use crate::limiter::Limiter;
use crate::metadata::{Described, PageMetadata};

/// No manifest is longer.
const MOST_SMALL_BYTES: usize = 1 << 20;

static CHECKSUM: HeaderName = HeaderName::from_static("x-amz-checksum-crc64nvme");
static ENCRYPTION: HeaderName = HeaderName::from_static("x-amz-server-side-encryption");
static KMS_KEY: HeaderName = HeaderName::from_static("x-amz-server-side-encryption-aws-kms-key-id");

/// One endpoint.
#[derive(Debug)]
pub(crate) struct Endpoint {
    sdk: Client,
    lean: Option<Lean>,
    credentials: Option<CachedCredentials>,
    bucket: String,
    signs_payload: bool,
    encryption: Encryption,
    /// Whether S3's own checksum header is sent; not after it was refused.
    pub(crate) sends_checksum: AtomicBool,
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) breaker: Breaker,
    pub(crate) under_way: AtomicUsize,
}

/// One part of a listing.
#[derive(Debug, Default)]
pub(crate) struct Part {
    /// Names and lengths.
    pub(crate) objects: Vec<(String, u64)>,
    /// Whether more follow.
    pub(crate) more: bool,
}

/// Futures of the SDK are boxed: they are thousands of bytes long, and whoever awaits one as it is carries it about.
impl Endpoint {
    /// One endpoint at `address`; `None` for AWS itself. Opens no connection.
    pub(crate) fn new(config: &S3Config, address: Option<&str>, region: &str) -> Result<Self> {
        let http_client = client(connector(config)?);
        let credentials = credentials(&config.access, region, &http_client);
        let mut sdk = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region.to_owned()))
            .force_path_style(config.path_style)
            .http_client(http_client)
            .sleep_impl(TokioSleep::new())
            // Deadlines, retries, sums and memory of credentials are ours.
            .identity_cache(IdentityCache::no_cache())
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        sdk = match &credentials {
            Some(credentials) => sdk.credentials_provider(credentials.clone()),
            None => sdk.allow_no_auth(),
        };
        if let Some(address) = address {
            sdk = sdk.endpoint_url(address);
        }
        let is_lean = config.requests == RequestPath::Lean
            && config.proxy.is_none()
            && (address.is_some() || knows_address(region));
        let lean = match is_lean {
            true => Some(Lean::new(config, credentials.clone(), region, &base(config, address, region))?),
            false => None,
        };
        Ok(Self {
            sdk: Client::from_conf(sdk.build()),
            lean,
            credentials,
            bucket: config.bucket.clone(),
            signs_payload: config.signs_payload(address),
            encryption: config.encryption.clone(),
            sends_checksum: AtomicBool::new(config.store_checksum),
            limiter: Limiter::new(config.concurrency),
            breaker: Breaker::default(),
            under_way: AtomicUsize::new(0),
        })
    }

    /// Waits until there are credentials, however long that takes.
    pub(crate) async fn credentials_ready(&self) -> Result<Generation, Fault> {
        match &self.credentials {
            None => Ok(Generation::default()),
            Some(credentials) => credentials.get().await.map(|(_, generation)| generation),
        }
    }

    /// The store did not take those credentials: whether there may be others.
    pub(crate) fn forget_credentials(&self, generation: Generation) -> bool {
        self.credentials.as_ref().is_some_and(|credentials| credentials.forget(generation))
    }

    /// It does not answer: what is idle may have ended without a word.
    pub(crate) fn forget_connections(&self) {
        if let Some(lean) = &self.lean {
            lean.forget_idle();
        }
    }

    /// Begins to get an object; its body is still to come.
    pub(crate) async fn get(&self, object: &str) -> Result<(Described, Body), Fault> {
        if let Some(lean) = &self.lean {
            let answer = lean.read(Method::GET, object).await?;
            return Ok((Described::of_headers(answer.headers()), Body::Line(answer.into_body())));
        }
        let sent = Box::pin(self.sdk.get_object().bucket(&self.bucket).key(object).send()).await;
        let output = sent.map_err(|error| Fault::of_sdk(&error))?;
        let described = Described::of_sdk(output.content_length(), output.metadata());
        Ok((described, Body::Sdk(output.body.into_inner())))
    }

    /// Gets a small object, whatever it is.
    pub(crate) async fn small(&self, object: &str) -> Result<Vec<u8>, Fault> {
        let (_, body) = self.get(object).await?;
        let body = Limited::new(body, MOST_SMALL_BYTES).collect().await;
        let body = body.map_err(|error| Fault::new(FaultKind::Body, error.to_string()))?;
        Ok(body.to_bytes().to_vec())
    }

    /// What an object says of itself.
    pub(crate) async fn head(&self, object: &str) -> Result<Described, Fault> {
        if let Some(lean) = &self.lean {
            return Ok(Described::of_headers(lean.read(Method::HEAD, object).await?.headers()));
        }
        let sent = Box::pin(self.sdk.head_object().bucket(&self.bucket).key(object).send()).await;
        let output = sent.map_err(|error| Fault::of_sdk(&error))?;
        Ok(Described::of_sdk(output.content_length(), output.metadata()))
    }

    /// Puts a page; only if nothing is there, unless `replace`.
    pub(crate) async fn put_page(
        &self,
        object: &str,
        page: &Lent,
        metadata: &PageMetadata,
        replace: bool,
        sends_checksum: bool,
    ) -> Result<(), Fault> {
        let sha256 = match self.signs_payload {
            true => {
                Some(page.sha256().ok_or_else(|| Fault::new(FaultKind::Other, "the page can't be read"))?)
            }
            false => None,
        };
        let sum = sends_checksum.then(|| aws_smithy_types::base64::encode(metadata.checksum.to_be_bytes()));
        if let Some(lean) = &self.lean {
            let headers = self.page_headers(metadata, replace, sum);
            let headers = headers.map_err(|error| Fault::new(FaultKind::Other, error.to_string()))?;
            return lean.put(object, page.body(), headers, sha256).await;
        }
        let mut put = self
            .sdk
            .put_object()
            .bucket(&self.bucket)
            .key(object)
            .set_metadata(Some(metadata.write()))
            .set_checksum_crc64_nvme(sum)
            .content_length(i64::try_from(metadata.bytes).unwrap_or(i64::MAX))
            .body(ByteStream::new(SdkBody::from_body_1_x(page.body())));
        if !replace {
            put = put.if_none_match("*");
        }
        let customized = self.encrypted(put).customize();
        let customized = match sha256 {
            Some(sum) => customized.interceptor(SignedAs(sum.to_owned())),
            None => customized.disable_payload_signing(),
        };
        Box::pin(customized.send()).await.map(drop).map_err(|error| Fault::of_sdk(&error))
    }

    /// What is said of a page with it, as the SDK says it too.
    fn page_headers(
        &self,
        metadata: &PageMetadata,
        replace: bool,
        sum: Option<String>,
    ) -> Result<HeaderMap, http::Error> {
        let mut headers = HeaderMap::with_capacity(16);
        metadata.write_headers(&mut headers)?;
        if let Some(sum) = sum {
            headers.insert(&CHECKSUM, sum.try_into()?);
        }
        if !replace {
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
        match &self.encryption {
            Encryption::Bucket => {}
            Encryption::Store => _ = headers.insert(&ENCRYPTION, HeaderValue::from_static("AES256")),
            Encryption::Kms(key) => {
                headers.insert(&ENCRYPTION, HeaderValue::from_static("aws:kms"));
                if let Some(key) = key {
                    headers.insert(&KMS_KEY, HeaderValue::from_str(key)?);
                }
            }
        }
        Ok(headers)
    }

    /// Puts a small text; only if nothing is there, unless `replace`.
    pub(crate) async fn put_text(&self, object: &str, text: &str, replace: bool) -> Result<(), Fault> {
        let mut put = self.sdk.put_object().bucket(&self.bucket).key(object);
        if !replace {
            put = put.if_none_match("*");
        }
        let put = put.content_type("application/json").body(ByteStream::from(text.as_bytes().to_vec()));
        Box::pin(self.encrypted(put).send()).await.map(drop).map_err(|error| Fault::of_sdk(&error))
    }

    /// With the headers of encryption: a bucket may refuse whatever comes without.
    fn encrypted(&self, put: PutObjectFluentBuilder) -> PutObjectFluentBuilder {
        match &self.encryption {
            Encryption::Bucket => put,
            Encryption::Store => put.server_side_encryption(ServerSideEncryption::Aes256),
            Encryption::Kms(key) => {
                put.server_side_encryption(ServerSideEncryption::AwsKms).set_ssekms_key_id(key.clone())
            }
        }
    }

    /// Deletes objects, at most 1,000. Those that it could not delete, with the reason.
    pub(crate) async fn delete(&self, objects: &[String]) -> Result<Vec<(String, String)>, Fault> {
        let other = |error: &dyn std::fmt::Display| Fault::new(FaultKind::Other, error.to_string());
        let named = objects.iter().map(|object| ObjectIdentifier::builder().key(object).build());
        let named = named.collect::<std::result::Result<Vec<_>, _>>().map_err(|error| other(&error))?;
        let delete = Delete::builder().quiet(true).set_objects(Some(named)).build();
        let delete = delete.map_err(|error| other(&error))?;
        let sent = Box::pin(self.sdk.delete_objects().bucket(&self.bucket).delete(delete).send()).await;
        let output = sent.map_err(|error| Fault::of_sdk(&error))?;
        let failed = output.errors().iter().map(|error| {
            let reason = error.code().or(error.message()).unwrap_or("no reason given");
            (error.key().unwrap_or_default().to_owned(), reason.to_owned())
        });
        Ok(failed.collect())
    }

    /// Lists at most `most` objects whose names begin with `start` and come after `after`.
    pub(crate) async fn list(&self, start: &str, after: Option<&str>, most: usize) -> Result<Part, Fault> {
        let list = self.sdk.list_objects_v2().bucket(&self.bucket).prefix(start);
        let list = list.max_keys(i32::try_from(most.min(1000)).unwrap_or(1000));
        let sent = Box::pin(list.set_start_after(after.map(str::to_owned)).send()).await;
        let output = sent.map_err(|error| Fault::of_sdk(&error))?;
        let object = |object: &aws_sdk_s3::types::Object| {
            Some((object.key()?.to_owned(), u64::try_from(object.size()?).ok()?))
        };
        Ok(Part {
            objects: output.contents().iter().filter_map(object).collect(),
            more: output.is_truncated().unwrap_or(false),
        })
    }
}

/// Signs a payload by its sum. The SDK takes it of bodies that are one piece of memory only, and nobody sees one of those
/// move.
#[derive(Debug)]
struct SignedAs(String);

#[dyn_dispatch_hint]
impl Intercept for SignedAs {
    fn name(&self) -> &'static str {
        "SignedAs"
    }

    fn modify_before_signing(
        &self,
        _context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        config.interceptor_state().store_put(PayloadSigningOverride::Precomputed(self.0.clone()));
        Ok(())
    }
}

/// Whether AWS's address in a region is the one of [`base`]. In other partitions it is not; the SDK knows theirs.
fn knows_address(region: &str) -> bool {
    !["cn-", "us-iso", "eu-iso", "eusc-"].iter().any(|partition| region.starts_with(partition))
}

/// Address of the bucket, with its slash at the end.
fn base(config: &S3Config, address: Option<&str>, region: &str) -> String {
    let aws = format!("https://s3.{region}.amazonaws.com");
    let address = address.unwrap_or(&aws).trim_end_matches('/');
    match address.split_once("://") {
        Some((scheme, host)) if !config.path_style => format!("{scheme}://{}.{host}/", config.bucket),
        _ => format!("{address}/{}/", config.bucket),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let mut config = S3Config::new("pages");
        assert_eq!(base(&config, Some("http://host:1/"), "r"), "http://host:1/pages/");
        config.path_style = false;
        assert_eq!(base(&config, Some("http://host:1"), "r"), "http://pages.host:1/");
        assert_eq!(base(&config, None, "eu-1"), "https://pages.s3.eu-1.amazonaws.com/");
        for (region, lean) in
            [("eu-west-1", true), ("us-gov-west-1", true), ("cn-north-1", false), ("us-isob-east-1", false)]
        {
            let endpoint = Endpoint::new(&config, None, region).unwrap();
            assert_eq!(endpoint.lean.is_some(), lean, "{region}");
        }
        let endpoint = Endpoint::new(&config, Some("http://host:1"), "cn-north-1").unwrap();
        assert!(endpoint.lean.is_some(), "an address that is given is the one");
    }
}
