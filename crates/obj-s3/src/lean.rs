//! GET and HEAD without the SDK's layers: a request is made, signed and sent over the same connections.

use std::time::SystemTime;

use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::http::{HttpConnector, SharedHttpConnector};
use aws_smithy_runtime_api::client::identity::Identity;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::body::SdkBody;
use http_body_util::{BodyExt, Limited};

use crate::credentials::CachedCredentials;
use crate::fault::{Fault, FaultKind, shortened};

/// SHA-256 of nothing: what a signature says of a request without a body.
const NO_BODY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// No error's body is longer.
const MOST_ERROR_BYTES: usize = 64 << 10;

/// Makes, signs and sends requests to one endpoint.
#[derive(Debug)]
pub(crate) struct Lean {
    connector: SharedHttpConnector,
    credentials: Option<CachedCredentials>,
    region: String,
    /// Address of the bucket, with its slash at the end.
    base: String,
}

impl Lean {
    pub(crate) fn new(
        connector: SharedHttpConnector,
        credentials: Option<CachedCredentials>,
        region: &str,
        base: String,
    ) -> Self {
        Self { connector, credentials, region: region.to_owned(), base }
    }

    /// Sends a request without a body; answers that are no success are faults.
    pub(crate) async fn send(&self, method: &'static str, object: &str) -> Result<HttpResponse, Fault> {
        let broken = |error: &dyn std::fmt::Display| Fault::new(FaultKind::Other, error.to_string());
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("{}{object}", self.base))
            .header("x-amz-content-sha256", NO_BODY)
            .body(SdkBody::empty())
            .map_err(|error| broken(&error))?;
        if let Some(credentials) = &self.credentials {
            let (credentials, _) = credentials.get().await?;
            self.sign(&mut request, &credentials.into()).map_err(|error| broken(&error))?;
        }
        let request = HttpRequest::try_from(request).map_err(|error| broken(&error))?;
        let answer = self.connector.call(request).await.map_err(|error| {
            let kind = if error.is_timeout() { FaultKind::Stalled } else { FaultKind::Connection };
            Fault::new(kind, shortened(&describe(&error)))
        })?;
        match answer.status().is_success() {
            true => Ok(answer),
            false => Err(fault_of(answer).await),
        }
    }

    fn sign(
        &self,
        request: &mut http::Request<SdkBody>,
        identity: &Identity,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut settings = SigningSettings::default();
        // Names of objects need no escaping, and S3 wants paths as they are.
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::NoHeader;
        let params = v4::SigningParams::builder()
            .identity(identity)
            .region(&self.region)
            .name("s3")
            .time(SystemTime::now())
            .settings(settings)
            .build()?
            .into();
        let uri = request.uri().to_string();
        let signable = SignableRequest::new(
            request.method().as_str(),
            uri,
            [("x-amz-content-sha256", NO_BODY)].into_iter(),
            SignableBody::Precomputed(NO_BODY.to_owned()),
        )?;
        let (instructions, _) = sign(signable, &params)?.into_parts();
        instructions.apply_to_request_http1x(request);
        Ok(())
    }
}

fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

async fn fault_of(answer: HttpResponse) -> Fault {
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), MOST_ERROR_BYTES).collect().await;
    let Ok(body) = body else {
        // It broke off, or is longer than any store's: nothing is known but that it is no plain answer.
        return Fault::of_answer(status, None, "the answer broke off, or is no object store's");
    };
    let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    if text.is_empty() {
        return Fault::of_answer(status, Some(""), "");
    }
    Fault::of_answer(status, element(&text, "Code"), element(&text, "Message").unwrap_or_default())
}

/// The text of the first element of this name. Bodies of errors are flat.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let start = xml.find(&format!("<{name}>"))? + name.len() + 2;
    let end = xml[start..].find('<')? + start;
    Some(&xml[start..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found() {
        let xml = "<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code><Message>gone</Message></Error>";
        assert_eq!((element(xml, "Code"), element(xml, "Message")), (Some("NoSuchKey"), Some("gone")));
        for bad in ["", "<html><body>404</body></html>", "<Code>", "<Code>x"] {
            assert_eq!(element(bad, "Code"), None, "{bad}");
        }
    }
}
