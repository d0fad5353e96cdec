//! Connections to an endpoint, for requests that we make ourselves: the one that was idle last, or a new one.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::rustls::ClientConfig;
use tower_service::Service;

use crate::body::PageBody;
use crate::connect::{CONNECT_TIMEOUT, MOST_IDLE_TIME};
use crate::fault::{Fault, FaultKind, chain, shortened};

/// How long a connection may go on sending a body after its request was answered, before it is ended.
const SENDING_LIMIT: Duration = Duration::from_secs(1);
/// What the system asks of a connection that nothing comes from, and how soon.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Connections to one address.
pub(crate) struct Line {
    connector: HttpsConnector<HttpConnector>,
    /// Scheme, host and port.
    address: Uri,
    most_idle: usize,
    /// The one that was used last is the last.
    idle: Mutex<VecDeque<(Instant, Connection)>>,
}

/// One connection. Dropped, it ends at once, and reads no body any more, whatever the peer does.
struct Connection {
    sender: SendRequest<PageBody>,
    task: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why no answer came.
pub(crate) struct Broken {
    pub(crate) fault: Fault,
    /// Whether the connection had been idle: then it may have ended long before, and a new one is worth trying.
    pub(crate) was_idle: bool,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Line {
    /// To `address`, which is scheme, host and port. Makes no connection yet.
    pub(crate) fn new(address: Uri, tls: Arc<ClientConfig>, most_idle: usize) -> Arc<Self> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnector::from((tcp, tls));
        Arc::new(Self { connector, address, most_idle, idle: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Instant, Connection)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what is idle: the endpoint may have gone without a word.
    pub(crate) fn forget_idle(&self) {
        let idle = std::mem::take(&mut *self.lock());
        drop(idle);
    }

    fn take(&self) -> Option<Connection> {
        let mut idle = self.lock();
        while let Some((since, connection)) = idle.pop_back() {
            if since.elapsed() > MOST_IDLE_TIME {
                // So have all that come before it.
                idle.clear();
                return None;
            }
            if !connection.sender.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    fn put(&self, connection: Connection) {
        let (now, mut idle) = (Instant::now(), self.lock());
        while idle.front().is_some_and(|(since, _)| now.duration_since(*since) > MOST_IDLE_TIME) {
            idle.pop_front();
        }
        if idle.len() < self.most_idle && !connection.sender.is_closed() {
            idle.push_back((now, connection));
        }
    }

    async fn connect(&self) -> Result<Connection, Fault> {
        let mut connector = self.connector.clone();
        let connecting = async {
            std::future::poll_fn(|context| connector.poll_ready(context)).await?;
            let stream = connector.call(self.address.clone()).await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(http1::handshake(stream).await?)
        };
        let (sender, connection) = match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(made)) => made,
            Ok(Err(error)) => return Err(broken(&*error)),
            Err(_) => {
                let message = format!("no connection within {CONNECT_TIMEOUT:?}");
                return Err(Fault::new(FaultKind::Stalled, message));
            }
        };
        // Its errors are told to whoever waits for an answer.
        let task = tokio::spawn(async move { drop(connection.await) });
        Ok(Connection { sender, task: task.abort_handle() })
    }

    /// Sends a request, whose address is its path, and which has its host as a header.
    pub(crate) async fn send(
        self: &Arc<Self>,
        mut request: Request<PageBody>,
    ) -> Result<Response<Answered>, Broken> {
        let has_body = !request.body().is_end_stream();
        loop {
            let idle = self.take();
            let was_idle = idle.is_some();
            let mut connection = match idle {
                Some(idle) => idle,
                None => Box::pin(self.connect()).await.map_err(|fault| Broken { fault, was_idle: false })?,
            };
            // It may not have seen yet that its last answer is over; or it has just ended.
            if was_idle && connection.sender.ready().await.is_err() {
                continue;
            }
            let mut error = match connection.sender.try_send_request(request).await {
                Ok(answer) => {
                    return Ok(answer.map(|body| Answered::new(body, connection, self, has_body)));
                }
                Err(error) => error,
            };
            match error.take_message() {
                // Nothing of it was sent.
                Some(unsent) if was_idle => request = unsent,
                _ => return Err(Broken { fault: broken(&error.into_error()), was_idle }),
            }
        }
    }
}

fn broken(error: &(dyn std::error::Error + 'static)) -> Fault {
    Fault::new(FaultKind::Connection, shortened(&chain(error)))
}

/// The body of an answer. When it is over, its connection is for the next request; dropped before, that ends.
pub(crate) struct Answered {
    body: Incoming,
    line: Arc<Line>,
    connection: Option<Connection>,
    /// Whether the request had a body, some of which may still be under way.
    had_body: bool,
}

impl Answered {
    fn new(body: Incoming, connection: Connection, line: &Arc<Line>, had_body: bool) -> Self {
        let mut answered = Self { body, line: Arc::clone(line), connection: Some(connection), had_body };
        if answered.body.is_end_stream() {
            answered.over();
        }
        answered
    }

    fn over(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if !self.had_body || connection.sender.is_ready() {
            return self.line.put(connection);
        }
        // Nobody shall get it who would have to wait for what is still being sent.
        let line = Arc::clone(&self.line);
        tokio::spawn(async move {
            if let Ok(Ok(())) = timeout(SENDING_LIMIT, connection.sender.ready()).await {
                line.put(connection);
            }
        });
    }
}

impl Body for Answered {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Err(_)) => self.connection = None,
            Some(Ok(_)) if !self.body.is_end_stream() => {}
            _ => self.over(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hicache_core::{Access, MemoryStorage, Region, Storage};
    use http::{HeaderMap, Method};
    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::body::Lent;
    use crate::config::S3Config;
    use crate::lean::Lean;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    /// Reads a request's head; whether there was one.
    async fn head(stream: &mut TcpStream) -> bool {
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => seen.push(byte),
                Err(_) => return false,
            }
        }
        true
    }

    /// A server on each of whose connections `work` is done; how many there were.
    async fn serve<F: Future<Output = ()> + Send + 'static>(
        work: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> (Lean, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/pages/", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(work(stream));
            }
        });
        (Lean::new(&S3Config::new("pages"), None, "r", &base).unwrap(), connections)
    }

    async fn read(lean: &Lean) -> Result<Bytes, Fault> {
        let answer = lean.read(Method::GET, "a").await?;
        Ok(answer.into_body().collect().await.map_err(|error| broken(&error))?.to_bytes())
    }

    #[tokio::test]
    async fn connections_are_used_again() {
        let (lean, connections) = serve(|mut stream| async move {
            while head(&mut stream).await {
                stream.write_all(ANSWER).await.unwrap();
            }
        })
        .await;
        for _ in 0..20 {
            assert_eq!(read(&lean).await.unwrap(), "ok");
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1);
        // Those that ran beside each other, too.
        for _ in 0..3 {
            let reads = futures::future::join_all((0..5).map(|_| read(&lean))).await;
            assert!(reads.iter().all(Result::is_ok));
        }
        assert!(connections.load(Ordering::SeqCst) <= 5);
        lean.forget_idle();
        read(&lean).await.unwrap();
        assert!(connections.load(Ordering::SeqCst) <= 6);
    }

    /// A server ends a connection just when the next request comes over it: nobody sees that.
    #[tokio::test]
    async fn what_ended_while_it_was_idle_is_no_failure() {
        let (lean, connections) = serve(|mut stream| async move {
            for _ in 0..3 {
                assert!(head(&mut stream).await);
                stream.write_all(ANSWER).await.unwrap();
            }
            head(&mut stream).await;
        })
        .await;
        for number in 0..12 {
            assert_eq!(read(&lean).await.unwrap(), "ok", "{number}");
        }
        assert_eq!(connections.load(Ordering::SeqCst), 4);
        // On a new one it is a failure.
        let (lean, connections) = serve(|mut stream| async move { _ = head(&mut stream).await }).await;
        assert_eq!(read(&lean).await.unwrap_err().kind, FaultKind::Connection);
        assert_eq!(connections.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_body_that_nobody_reads_ends_its_connection() {
        let (lean, connections) = serve(|mut stream| async move {
            while head(&mut stream).await {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok").await;
            }
        })
        .await;
        for number in 1..4 {
            let answer = lean.read(Method::GET, "a").await.unwrap();
            assert_eq!(connections.load(Ordering::SeqCst), number);
            drop(answer);
        }
    }

    /// An answer that comes before the page was sent, and a try that is given up: the memory is soon free, though the
    /// peer reads no more.
    #[tokio::test]
    async fn memory_comes_back_whatever_the_peer_does() {
        const LONG: usize = 32 << 20;
        let registered = MemoryStorage::new().register(&Region::allocate(1, LONG).unwrap()).unwrap();
        for answers in [true, false] {
            let (lean, _) = serve(move |mut stream| async move {
                head(&mut stream).await;
                if answers {
                    stream.write_all(ANSWER).await.unwrap();
                }
                tokio::time::sleep(Duration::from_secs(60)).await;
            })
            .await;
            let lent = Lent::new(registered.page(0, LONG, Access::Read).unwrap());
            let put = lean.put("a", lent.body(), HeaderMap::new(), None);
            let put = timeout(Duration::from_millis(300), put).await;
            assert_eq!(put.is_ok_and(|put| put.is_ok()), answers);
            let begun = Instant::now();
            assert!(lent.end(Duration::from_secs(10)).await.is_some());
            assert!(begun.elapsed() < SENDING_LIMIT * 3, "{answers}: {:?}", begun.elapsed());
        }
    }
}
