//! Requests for pages without the SDK's layers: made, signed and sent by ourselves.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use hicache_core::{Error, Result};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body::Body as _;
use http_body_util::{BodyExt, Limited};

use crate::body::PageBody;
use crate::config::S3Config;
use crate::connect::tls;
use crate::credentials::CachedCredentials;
use crate::fault::{Fault, FaultKind};
use crate::line::{Answered, Line};
use crate::sign::{NO_BODY, Signer, UNSIGNED};

/// No error's body is longer.
const MOST_ERROR_BYTES: usize = 64 << 10;

/// Makes, signs and sends requests to one endpoint.
#[derive(Debug)]
pub(crate) struct Lean {
    line: Arc<Line>,
    credentials: Option<CachedCredentials>,
    signer: Signer,
    /// Where the bucket is, with its slash at the end.
    path: String,
}

impl Lean {
    /// `base` is the address of the bucket, with its slash at the end.
    ///
    /// # Errors
    /// `Config` for what is no address, and for certificates that are none.
    pub(crate) fn new(
        config: &S3Config,
        credentials: Option<CachedCredentials>,
        region: &str,
        base: &str,
    ) -> Result<Self> {
        let wrong = || Error::config(format!("obj_s3.endpoint leads to {base:?}, which is no address"));
        let (scheme, rest) = base.split_once("://").ok_or_else(wrong)?;
        let (host, path) = rest
            .find('/')
            .map(|end| rest.split_at(end))
            .filter(|(host, _)| !host.is_empty())
            .ok_or_else(wrong)?;
        let address = Uri::builder().scheme(scheme).authority(host).path_and_query("/").build();
        // As it is sent: a port that the scheme implies is left out.
        let implied = if scheme == "https" { ":443" } else { ":80" };
        let host = HeaderValue::from_str(host.strip_suffix(implied).unwrap_or(host));
        let (Ok(address), Ok(host)) = (address, host) else { return Err(wrong()) };
        Ok(Self {
            line: Line::new(address, tls(config, scheme == "https")?, config.concurrency),
            credentials,
            signer: Signer::new(host, region.to_owned()),
            path: path.to_owned(),
        })
    }

    /// What is idle may have ended without a word.
    pub(crate) fn forget_idle(&self) {
        self.line.forget_idle();
    }

    /// Sends a request without a body; answers that are no success are faults.
    pub(crate) async fn read(&self, method: Method, object: &str) -> Result<Response<Answered>, Fault> {
        loop {
            let payload = HeaderValue::from_static(NO_BODY);
            let request =
                self.request(method.clone(), object, PageBody::Nothing, HeaderMap::with_capacity(8), payload);
            match self.line.send(request.await?).await {
                Ok(answer) => return succeeded(answer).await,
                // All that were idle as long may have ended as well. Nothing is done twice by asking again.
                Err(broken) if broken.was_idle => self.line.forget_idle(),
                Err(broken) => return Err(broken.fault),
            }
        }
    }

    /// Puts `body`, with `headers`. A signature covers it if its SHA-256 is given.
    pub(crate) async fn put(
        &self,
        object: &str,
        body: PageBody,
        headers: HeaderMap,
        sha256: Option<&str>,
    ) -> Result<(), Fault> {
        let payload = match sha256 {
            Some(sum) => HeaderValue::from_str(sum).map_err(|error| unmade(&error))?,
            None => HeaderValue::from_static(UNSIGNED),
        };
        let request = self.request(Method::PUT, object, body, headers, payload).await?;
        let answer = self.line.send(request).await.map_err(|broken| {
            if broken.was_idle {
                self.line.forget_idle();
            }
            broken.fault
        })?;
        let answer = succeeded(answer).await?;
        if !answer.body().is_end_stream() {
            // So that the connection can be used again.
            let _ = Box::pin(collect(answer.into_body())).await;
        }
        Ok(())
    }

    async fn request(
        &self,
        method: Method,
        object: &str,
        body: PageBody,
        mut headers: HeaderMap,
        payload: HeaderValue,
    ) -> Result<Request<PageBody>, Fault> {
        let uri = Uri::try_from([&self.path, object].concat()).map_err(|error| unmade(&error))?;
        self.signer.prepare(&mut headers, payload);
        if let Some(credentials) = &self.credentials {
            let (credentials, generation) = credentials.get().await?;
            let now = SystemTime::now();
            self.signer
                .sign(method.as_str(), uri.path(), &mut headers, &credentials, generation, now)
                .map_err(|error| unmade(&*error))?;
        }
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

fn unmade(error: &dyn std::error::Error) -> Fault {
    Fault::new(FaultKind::Other, error.to_string())
}

async fn succeeded(answer: Response<Answered>) -> Result<Response<Answered>, Fault> {
    match answer.status().is_success() {
        true => Ok(answer),
        false => Err(Box::pin(fault_of(answer)).await),
    }
}

async fn collect(body: Answered) -> Option<Bytes> {
    Some(Limited::new(body, MOST_ERROR_BYTES).collect().await.ok()?.to_bytes())
}

async fn fault_of(answer: Response<Answered>) -> Fault {
    let status = answer.status().as_u16();
    let Some(body) = collect(answer.into_body()).await else {
        // It broke off, or is longer than any store's: nothing is known but that it is no plain answer.
        return Fault::of_answer(status, None, "the answer broke off, or is no object store's");
    };
    let text = String::from_utf8_lossy(&body);
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

    #[tokio::test]
    async fn hosts_and_paths_of_addresses() {
        let lean = |base: &str| Lean::new(&S3Config::new("b"), None, "r", base);
        for (base, host, path) in [
            ("http://127.0.0.1:9000/pages/", "127.0.0.1:9000", "/pages/hash.kv"),
            ("https://pages.s3.eu-1.amazonaws.com/", "pages.s3.eu-1.amazonaws.com", "/hash.kv"),
            ("https://host:443/a/b/", "host", "/a/b/hash.kv"),
            ("http://host:80/b/", "host", "/b/hash.kv"),
            ("http://host:443/b/", "host:443", "/b/hash.kv"),
            ("http://[::1]:9000/b/", "[::1]:9000", "/b/hash.kv"),
        ] {
            let (lean, payload) = (lean(base).unwrap(), HeaderValue::from_static(NO_BODY));
            let request = lean.request(Method::GET, "hash.kv", PageBody::Nothing, HeaderMap::new(), payload);
            let request = request.await.unwrap();
            assert_eq!(request.uri(), path, "{base}");
            assert_eq!(request.headers()["host"], host, "{base}");
        }
        for base in ["host/b/", "http:///b/", "http://host"] {
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
