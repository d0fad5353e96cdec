//! What went wrong with a request, and what that means.

use std::error::Error as StdError;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use hicache_core::{Error, ErrorKind, PageKey};

/// No message of a store is shown at greater length.
const MOST_CHARS: usize = 200;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// There is no such object.
    Missing,
    /// There is no such bucket.
    NoBucket,
    /// Too much is asked of the store.
    Throttled,
    /// A 503 that does not say why: too much is asked of it, or nothing is there behind the address.
    Unready,
    /// An object is there that must not be.
    Exists,
    /// Somebody else writes the object now.
    Conflict,
    /// The credentials don't allow it, are wrong, or have expired.
    Denied,
    /// The clocks differ too much.
    Clock,
    /// The bucket is in another region.
    Region,
    /// The store failed.
    Server,
    /// The connection could not be made, or broke.
    Connection,
    /// Nothing came in time.
    Stalled,
    /// The deadline came first.
    Late,
    /// The body ended early or late.
    Body,
    /// What the store got of a body is not what was sent.
    Garbled,
    /// The bytes are not those that were stored.
    Corrupt,
    /// What answered is no object store.
    NotS3,
    /// The store does not do that.
    NotImplemented,
    /// No credentials were found.
    NoCredentials,
    /// All endpoints are left alone for now.
    Refused,
    /// Something else.
    Other,
}

/// What went wrong with a request.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    pub(crate) status: Option<u16>,
    pub(crate) code: Option<String>,
    pub(crate) message: String,
}

impl Fault {
    pub(crate) fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self { kind, status: None, code: None, message: message.into() }
    }

    /// From the status of an answer, and what its body says: `code` is empty where there was no body, `None` where the
    /// body is not an object store's.
    pub(crate) fn of_answer(status: u16, code: Option<&str>, message: &str) -> Self {
        let kind = match (status, code) {
            (404, Some("NoSuchBucket")) => FaultKind::NoBucket,
            (404, Some("" | "NoSuchKey" | "NotFound")) => FaultKind::Missing,
            (412, _) => FaultKind::Exists,
            (409, _) => FaultKind::Conflict,
            (301 | 307, _) | (_, Some("PermanentRedirect" | "AuthorizationHeaderMalformed")) => {
                FaultKind::Region
            }
            (_, Some("RequestTimeTooSkewed")) => FaultKind::Clock,
            (_, Some("SlowDown" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded"))
            | (429, _) => FaultKind::Throttled,
            (503, _) => FaultKind::Unready,
            (
                _,
                Some(
                    "BadDigest"
                    | "InvalidDigest"
                    | "XAmzContentChecksumMismatch"
                    | "XAmzContentSHA256Mismatch"
                    | "IncompleteBody",
                ),
            ) => FaultKind::Garbled,
            (_, Some("RequestTimeout")) => FaultKind::Stalled,
            (501, _) | (_, Some("NotImplemented")) => FaultKind::NotImplemented,
            // An answer to HEAD has no body that says so: AWS refuses a token that has ended with 400.
            (401 | 403, _)
            | (400, Some(""))
            | (_, Some("ExpiredToken" | "InvalidToken" | "TokenRefreshRequired")) => FaultKind::Denied,
            (500..=599, _) => FaultKind::Server,
            (404 | 405, None) => FaultKind::NotS3,
            _ => FaultKind::Other,
        };
        let code = code.filter(|code| !code.is_empty()).map(str::to_owned);
        Self { kind, status: Some(status), code, message: shortened(message) }
    }

    pub(crate) fn of_sdk<E: ProvideErrorMetadata + StdError + 'static>(
        error: &SdkError<E, HttpResponse>,
    ) -> Self {
        match error {
            SdkError::TimeoutError(_) => Self::new(FaultKind::Stalled, "no answer in time"),
            SdkError::DispatchFailure(failure) => {
                let text = failure.as_connector_error().map(|error| chain(error)).unwrap_or_default();
                let credentials = text.contains("credentials") || text.contains("identity");
                let kind = if credentials { FaultKind::NoCredentials } else { FaultKind::Connection };
                Self::new(kind, shortened(&text))
            }
            SdkError::ServiceError(answer) => {
                let status = answer.raw().status().as_u16();
                let code = answer.err().code();
                // An answer without a body, as every one to HEAD, has no code.
                let is_s3 = code.is_some() || answer.raw().body().bytes().is_none_or(|body| body.is_empty());
                let code = code.or(is_s3.then_some(""));
                Self::of_answer(status, code, answer.err().message().unwrap_or_default())
            }
            SdkError::ResponseError(answer) => {
                let status = answer.raw().status().as_u16();
                match status {
                    200..=299 => Self::new(FaultKind::NotS3, "the answer is not an object store's"),
                    _ => Self::of_answer(status, None, "the answer is not an object store's"),
                }
            }
            SdkError::ConstructionFailure(_) => {
                let text = error.source().map(chain).unwrap_or_default();
                let credentials = text.contains("credentials") || text.contains("identity");
                let kind = if credentials { FaultKind::NoCredentials } else { FaultKind::Other };
                Self::new(kind, shortened(&text))
            }
            _ => Self::new(FaultKind::Other, "the request could not be made"),
        }
    }

    /// Whether the same request may succeed later.
    pub(crate) fn may_pass(&self) -> bool {
        use FaultKind as K;
        matches!(
            self.kind,
            K::Throttled
                | K::Unready
                | K::Conflict
                | K::Server
                | K::Connection
                | K::Stalled
                | K::Body
                | K::Garbled
                | K::Corrupt
        )
    }

    /// Whether it speaks against the endpoint, and not against the request. A slow endpoint that says so is sound.
    pub(crate) fn blames_endpoint(&self) -> bool {
        use FaultKind as K;
        matches!(
            self.kind,
            K::NoBucket
                | K::Denied
                | K::Clock
                | K::Region
                | K::Unready
                | K::Server
                | K::Connection
                | K::Stalled
                | K::NotS3
                | K::NoCredentials
        )
    }

    /// As a caller of the storage sees it. `opening` says that nothing has worked yet: then it is the configuration.
    pub(crate) fn error(&self, operation: &'static str, bucket: &str, opening: bool) -> Error {
        use FaultKind as K;
        let (kind, mend) = match self.kind {
            K::NoBucket => (ErrorKind::Config, "make the bucket, or name another"),
            K::Denied => (
                ErrorKind::Config,
                "the credentials must allow s3:GetObject, PutObject, DeleteObject and ListBucket, and be valid now",
            ),
            K::Clock => (ErrorKind::Config, "set this machine's clock"),
            K::Region => (ErrorKind::Config, "set obj_s3.region to the bucket's"),
            K::NotS3 => (ErrorKind::Config, "set obj_s3.endpoint to an object store's"),
            K::NoCredentials => (
                ErrorKind::Config,
                "give credentials by the environment, a profile, or the instance; see obj_s3.profile",
            ),
            K::NotImplemented => (ErrorKind::Unsupported, "the store does not do that"),
            K::Throttled => (ErrorKind::Unavailable, "ask less of the store"),
            K::Refused | K::Connection | K::Unready => (ErrorKind::Unavailable, "is the store up?"),
            K::Stalled | K::Late => (ErrorKind::Timeout, ""),
            K::Corrupt => (ErrorKind::Corrupt, ""),
            K::Conflict => (ErrorKind::Busy, ""),
            K::Body | K::Garbled | K::Server | K::Missing | K::Exists | K::Other => (ErrorKind::Io, ""),
        };
        // While it is open a store can be mended without us; whoever uses it should try again, not give up.
        let kind = if kind == ErrorKind::Config && !opening { ErrorKind::Unavailable } else { kind };
        let status = self.status.map(|status| format!(" ({status})")).unwrap_or_default();
        let code = self.code.as_deref().unwrap_or(self.kind.words());
        let message = if self.message.is_empty() { String::new() } else { format!(": {}", self.message) };
        let mend = if mend.is_empty() { String::new() } else { format!("; {mend}") };
        Error::new(kind, format!("bucket {bucket:?}: {code}{status}{message}{mend}"))
            .with_backend(crate::NAME)
            .with_operation(operation)
            .with_retryable(self.may_pass() || matches!(self.kind, K::Refused | K::Late))
    }

    pub(crate) fn page_error(&self, operation: &'static str, bucket: &str, key: PageKey) -> Error {
        self.error(operation, bucket, false).with_key(key)
    }
}

impl FaultKind {
    fn words(self) -> &'static str {
        match self {
            Self::Missing => "no such object",
            Self::NoBucket => "no such bucket",
            Self::Throttled => "slow down",
            Self::Unready => "not ready",
            Self::Exists => "the object is there",
            Self::Conflict => "somebody else writes the object",
            Self::Denied => "access denied",
            Self::Clock => "the clocks differ",
            Self::Region => "another region",
            Self::Server => "the store failed",
            Self::Connection => "no connection",
            Self::Stalled => "the store said nothing in time",
            Self::Late => "not done by the deadline",
            Self::Garbled => "other bytes came than were sent",
            Self::Body => "the body has another length than announced",
            Self::Corrupt => "the bytes are not those that were stored",
            Self::NotS3 => "what answers is no object store",
            Self::NotImplemented => "not implemented",
            Self::NoCredentials => "no credentials",
            Self::Refused => "every endpoint failed and is left alone for a moment",
            Self::Other => "failed",
        }
    }
}

/// What an error and its sources say, without what their debug form would show of requests.
pub(crate) fn chain(error: &(dyn StdError + '_)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

/// A text of somebody else in one line of bounded length.
pub(crate) fn shortened(text: &str) -> String {
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match one_line.char_indices().nth(MOST_CHARS) {
        Some((end, _)) => format!("{}…", &one_line[..end]),
        None => one_line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_mean_what_a_cache_must_know() {
        use FaultKind as K;
        let cases = [
            (404, Some("NoSuchKey"), K::Missing),
            (404, Some(""), K::Missing),
            (404, Some("NoSuchBucket"), K::NoBucket),
            // A web server's page is not a miss.
            (404, None, K::NotS3),
            (503, Some("SlowDown"), K::Throttled),
            // Of a load balancer with nothing behind it, or of HEAD.
            (503, None, K::Unready),
            (503, Some(""), K::Unready),
            (503, Some("ServiceUnavailable"), K::Unready),
            (429, Some(""), K::Throttled),
            (500, Some("InternalError"), K::Server),
            (403, Some("RequestTimeTooSkewed"), K::Clock),
            (403, Some("SignatureDoesNotMatch"), K::Denied),
            (400, Some("ExpiredToken"), K::Denied),
            // The same to HEAD.
            (400, Some(""), K::Denied),
            (400, Some("KMS.DisabledException"), K::Other),
            (400, Some("BadDigest"), K::Garbled),
            (400, Some("XAmzContentSHA256Mismatch"), K::Garbled),
            (400, Some("AuthorizationHeaderMalformed"), K::Region),
            (301, Some("PermanentRedirect"), K::Region),
            (412, Some("PreconditionFailed"), K::Exists),
            (501, None, K::NotImplemented),
        ];
        for (status, code, kind) in cases {
            assert_eq!(Fault::of_answer(status, code, "").kind, kind, "{status} {code:?}");
        }
    }

    #[test]
    fn while_open_nothing_of_the_store_is_the_callers_configuration() {
        let fault = Fault::of_answer(403, Some("ExpiredToken"), &"x".repeat(1000));
        assert_eq!(fault.error("open", "b", true).kind(), ErrorKind::Config);
        let error = fault.error("load", "b", false);
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().len() < 500, "{error}");
    }
}
