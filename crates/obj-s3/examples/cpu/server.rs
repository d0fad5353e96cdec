//! A server that keeps objects in memory and asks nobody who he is: what it costs is not measured.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::BufRead;
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

type Objects = Arc<Mutex<HashMap<String, (Bytes, HeaderMap)>>>;

/// Serves until its standard input ends, and says its port first.
#[allow(clippy::print_stdout, reason = "the port is read there")]
pub(crate) fn serve() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("an address").port());
        let objects = Objects::default();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            let objects = Arc::clone(&objects);
            tokio::spawn(async move {
                let answer = service_fn(|request| answer(&objects, request));
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), answer)
                    .await;
            });
        }
    });
}

pub(crate) fn port_of(child: &mut Child) -> u16 {
    let output = child.stdout.take().expect("its output");
    let mut line = String::new();
    std::io::BufReader::new(output).read_line(&mut line).expect("a line");
    line.trim().parse().expect("a port")
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
