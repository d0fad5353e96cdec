//! GET and HEAD without the SDK's layers: a request is made, signed and sent over the same connections.

use std::time::SystemTime;

use aws_smithy_runtime_api::client::http::{HttpConnector, SharedHttpConnector};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::body::SdkBody;
use hicache_core::{Error, Result};
use http_body_util::{BodyExt, Limited};

use crate::credentials::CachedCredentials;
use crate::fault::{Fault, FaultKind, shortened};
use crate::sign::{NO_BODY, Signer};

/// No error's body is longer.
const MOST_ERROR_BYTES: usize = 64 << 10;

/// Makes, signs and sends requests to one endpoint.
#[derive(Debug)]
pub(crate) struct Lean {
    connector: SharedHttpConnector,
    credentials: Option<CachedCredentials>,
    signer: Signer,
    /// Address of the bucket, with its slash at the end.
    base: String,
    /// Where the path begins in it.
    path: usize,
}

impl Lean {
    /// `base` is the address of the bucket, with its slash at the end.
    ///
    /// # Errors
    /// `Config` for what is no address.
    pub(crate) fn new(
        connector: SharedHttpConnector,
        credentials: Option<CachedCredentials>,
        region: &str,
        base: String,
    ) -> Result<Self> {
        let wrong = || Error::config(format!("obj_s3.endpoint leads to {base:?}, which is no address"));
        let (scheme, rest) = base.split_once("://").ok_or_else(wrong)?;
        let host = rest.split('/').next().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
        let path = scheme.len() + "://".len() + host.len();
        // As it is sent: a port that the scheme implies is left out.
        let implied = if scheme == "https" { ":443" } else { ":80" };
        let host = host.strip_suffix(implied).unwrap_or(host).to_owned();
        Ok(Self { connector, credentials, signer: Signer::new(host, region.to_owned()), base, path })
    }

    /// Sends a request without a body; answers that are no success are faults.
    pub(crate) async fn send(&self, method: &'static str, object: &str) -> Result<HttpResponse, Fault> {
        let mut request = self.request(method, object).map_err(|error| broken(&*error))?;
        if let Some(credentials) = &self.credentials {
            let (credentials, generation) = credentials.get().await?;
            let path = &request.uri()[self.path..];
            let signed = self.signer.sign(method, path, &credentials, generation, SystemTime::now());
            let headers = request.headers_mut();
            let mut put =
                |name, value| headers.try_insert(name, value).map(drop).map_err(|error| broken(&error));
            put("authorization", signed.authorization)?;
            put("x-amz-date", signed.time)?;
            if let Some(token) = signed.token {
                put("x-amz-security-token", token)?;
            }
        }
        let answer = self.connector.call(request).await.map_err(|error| {
            let kind = if error.is_timeout() { FaultKind::Stalled } else { FaultKind::Connection };
            Fault::new(kind, shortened(&describe(&error)))
        })?;
        match answer.status().is_success() {
            true => Ok(answer),
            false => Err(Box::pin(fault_of(answer)).await),
        }
    }

    fn request(&self, method: &str, object: &str) -> Result<HttpRequest, Box<dyn std::error::Error>> {
        let mut request = HttpRequest::new(SdkBody::empty());
        request.set_method(method)?;
        request.set_uri(format!("{}{object}", self.base))?;
        let headers = request.headers_mut();
        headers.try_insert("host", self.signer.host().to_owned())?;
        headers.try_insert("x-amz-content-sha256", NO_BODY)?;
        Ok(request)
    }
}

fn broken(error: &dyn std::error::Error) -> Fault {
    Fault::new(FaultKind::Other, error.to_string())
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
    fn hosts_and_paths_of_addresses() {
        let connector = || crate::connect::connector(&crate::config::S3Config::new("b")).unwrap();
        let lean = |base: &str| Lean::new(connector(), None, "r", base.to_owned());
        for (base, host, path) in [
            ("http://127.0.0.1:9000/pages/", "127.0.0.1:9000", "/pages/"),
            ("https://pages.s3.eu-1.amazonaws.com/", "pages.s3.eu-1.amazonaws.com", "/"),
            ("https://host:443/a/b/", "host", "/a/b/"),
            ("http://host:80/b/", "host", "/b/"),
            ("http://host:443/b/", "host:443", "/b/"),
            ("http://[::1]:9000/b/", "[::1]:9000", "/b/"),
        ] {
            let lean = lean(base).unwrap();
            assert_eq!((lean.signer.host(), &lean.base[lean.path..]), (host, path), "{base}");
            let request = lean.request("GET", "hash.kv").unwrap();
            assert_eq!(request.uri(), format!("{base}hash.kv"));
        }
        for base in ["host/b/", "http:///b/"] {
            assert!(lean(base).unwrap_err().to_string().contains("obj_s3.endpoint"), "{base}");
        }
    }

    #[test]
    fn elements_are_found() {
        let xml = "<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code><Message>gone</Message></Error>";
        assert_eq!((element(xml, "Code"), element(xml, "Message")), (Some("NoSuchKey"), Some("gone")));
        for bad in ["", "<html><body>404</body></html>", "<Code>", "<Code>x"] {
            assert_eq!(element(bad, "Code"), None, "{bad}");
        }
    }
}
