//! A server that keeps objects in memory and asks nobody who he is: what it costs is not measured.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

type Objects = Arc<Mutex<HashMap<String, (Bytes, HeaderMap)>>>;

/// A certificate of its own for this address, written to `ca_file`.
fn tls(ca_file: &Path) -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let text = aws_smithy_types::base64::encode(made.cert.der());
    let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    std::fs::write(ca_file, pem).expect("a file");
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_no_client_auth();
    let config = config.with_single_cert(vec![made.cert.der().clone()], key.into()).expect("a certificate");
    TlsAcceptor::from(Arc::new(config))
}

/// Serves until it is killed, and says its port first; over TLS where a file for its certificate is named.
#[allow(clippy::print_stdout, reason = "the port is read there")]
pub(crate) fn serve(ca_file: Option<&Path>) {
    let tls = ca_file.map(tls);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("an address").port());
        let objects = Objects::default();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            let (objects, tls) = (Arc::clone(&objects), tls.clone());
            tokio::spawn(async move {
                let answer = service_fn(|request| answer(&objects, request));
                let served = hyper::server::conn::http1::Builder::new();
                match tls {
                    None => _ = served.serve_connection(TokioIo::new(stream), answer).await,
                    Some(tls) => {
                        let Ok(stream) = tls.accept(stream).await else { return };
                        let _ = served.serve_connection(TokioIo::new(stream), answer).await;
                    }
                }
            });
        }
    });
}

async fn answer(objects: &Objects, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let mut response = Response::new(Full::default());
    if request.method() == Method::PUT {
        let mut kept = HeaderMap::new();
        for (name, value) in request.headers() {
            if name.as_str().starts_with("x-amz-meta-") {
                kept.insert(name.clone(), value.clone());
            }
        }
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        objects.lock().unwrap_or_else(PoisonError::into_inner).insert(path, (body, kept));
        response.headers_mut().insert("etag", "\"0\"".parse().expect("a value"));
        return Ok(response);
    }
    let found = objects.lock().unwrap_or_else(PoisonError::into_inner).get(&path).cloned();
    match found {
        Some((body, kept)) => {
            let length = body.len();
            response = Response::new(if request.method() == Method::HEAD {
                Full::default()
            } else {
                Full::new(body)
            });
            *response.headers_mut() = kept;
            response.headers_mut().insert("content-length", length.into());
            response.headers_mut().insert("etag", "\"0\"".parse().expect("a value"));
            let date = "Sat, 21 Nov 2026 00:00:00 GMT".parse().expect("a value");
            response.headers_mut().insert("last-modified", date);
        }
        None => *response.status_mut() = http::StatusCode::NOT_FOUND,
    }
    Ok(response)
}
