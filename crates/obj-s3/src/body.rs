//! A page as the body of requests.
//!
//! Our own memory goes out without a copy, and comes back when the last part of the connection has let go of it. Memory
//! of somebody else is copied as it is sent: he can't wait for a connection that a peer keeps from ending.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hicache_core::PageMemory;
use hicache_core::hashing::to_hex;
use http_body::{Body, Frame, SizeHint};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

/// A body is handed out in parts of this length, so that it is seen to move.
const PART_BYTES: usize = 256 << 10;
/// The same of what is copied.
const COPIED_PART_BYTES: usize = 64 << 10;

/// A page that is lent to requests.
#[derive(Debug)]
pub(crate) struct Lent {
    page: Page,
    bytes: usize,
    moved: Moved,
    sha256: OnceLock<Option<String>>,
}

#[derive(Debug)]
enum Page {
    Own { loan: Arc<Loan>, back: oneshot::Receiver<PageMemory> },
    Foreign(Arc<Mutex<Option<PageMemory>>>),
}

/// When a part of a body was last asked for, or came.
#[derive(Clone, Debug)]
pub(crate) struct Moved(Arc<Mutex<Instant>>);

impl Moved {
    pub(crate) fn now() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// It moves now.
    pub(crate) fn moves(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub(crate) fn at(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lent {
    pub(crate) fn new(memory: PageMemory) -> Self {
        match memory.is_foreign() {
            true => Self::copied(memory),
            false => {
                let (sender, back) = oneshot::channel();
                let bytes = memory.bytes();
                let loan = Arc::new(Loan { memory: Some(memory), back: Some(sender) });
                Self::of(Page::Own { loan, back }, bytes)
            }
        }
    }

    fn copied(memory: PageMemory) -> Self {
        let bytes = memory.bytes();
        Self::of(Page::Foreign(Arc::new(Mutex::new(Some(memory)))), bytes)
    }

    fn of(page: Page, bytes: usize) -> Self {
        Self { page, bytes, moved: Moved::now(), sha256: OnceLock::new() }
    }

    /// A body of all its bytes, for one try.
    pub(crate) fn body(&self) -> PageBody {
        self.moved.moves();
        match &self.page {
            Page::Own { loan, .. } => self.parts(loan.pieces()),
            Page::Foreign(memory) => PageBody::Copied(Copied {
                memory: Arc::clone(memory),
                at: 0,
                bytes: self.bytes,
                moved: self.moved.clone(),
            }),
        }
    }

    /// SHA-256 of all its bytes, in hexadecimal, for a signature that covers them: taken once, however many tries there
    /// are. `None` for memory that can't be read.
    pub(crate) fn sha256(&self) -> Option<&str> {
        let of = |memory: Option<&PageMemory>| {
            let mut sum = Sha256::new();
            for piece in memory?.pieces() {
                sum.update(piece.lease().bytes().ok()?);
            }
            Some(to_hex(&sum.finalize()))
        };
        let sum = self.sha256.get_or_init(|| match &self.page {
            Page::Own { loan, .. } => of(loan.memory.as_ref()),
            Page::Foreign(memory) => of(memory.lock().unwrap_or_else(PoisonError::into_inner).as_ref()),
        });
        sum.as_deref()
    }

    fn parts(&self, pieces: impl IntoIterator<Item = Bytes>) -> PageBody {
        let mut parts = VecDeque::new();
        for mut piece in pieces {
            while piece.len() > PART_BYTES {
                parts.push_back(piece.split_to(PART_BYTES));
            }
            parts.push_back(piece);
        }
        PageBody::Parts(Parts { parts, moved: self.moved.clone() })
    }

    /// When the last part of a body was asked for, or the last body.
    pub(crate) fn moved(&self) -> Instant {
        self.moved.at()
    }

    /// Ends the loan. Memory of somebody else comes back at once; our own when no connection reads it any more, and
    /// counts as lost when that takes longer than `grace`: its lease ends when the connection does.
    pub(crate) async fn end(self, grace: Duration) -> Option<PageMemory> {
        match self.page {
            Page::Foreign(memory) => memory.lock().unwrap_or_else(PoisonError::into_inner).take(),
            Page::Own { loan, back } => {
                drop(loan);
                timeout(grace, back).await.ok()?.ok()
            }
        }
    }
}

/// Our own memory, lent. When the last [`Bytes`] of it is dropped it comes back.
#[derive(Debug)]
struct Loan {
    memory: Option<PageMemory>,
    back: Option<oneshot::Sender<PageMemory>>,
}

impl Loan {
    fn pieces(self: &Arc<Self>) -> impl Iterator<Item = Bytes> {
        let pieces = self.memory.as_ref().map_or(0, |memory| memory.pieces().len());
        (0..pieces).map(|piece| Bytes::from_owner(LentPiece { loan: Arc::clone(self), piece }))
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let (Some(memory), Some(back)) = (self.memory.take(), self.back.take()) {
            // Nobody waits: the lease ends here.
            drop(back.send(memory));
        }
    }
}

/// One piece of a lent page.
struct LentPiece {
    loan: Arc<Loan>,
    piece: usize,
}

impl AsRef<[u8]> for LentPiece {
    fn as_ref(&self) -> &[u8] {
        // Host memory was asked for when the region was registered.
        let piece = self.loan.memory.as_ref().and_then(|memory| memory.pieces().get(self.piece));
        piece.and_then(|piece| piece.lease().bytes().ok()).unwrap_or_default()
    }
}

/// The body of a request.
pub(crate) enum PageBody {
    /// None at all.
    Nothing,
    Parts(Parts),
    Copied(Copied),
}

/// A body of several parts.
pub(crate) struct Parts {
    parts: VecDeque<Bytes>,
    moved: Moved,
}

/// A body that is copied as it is asked for, for as long as the memory is lent.
pub(crate) struct Copied {
    memory: Arc<Mutex<Option<PageMemory>>>,
    at: usize,
    bytes: usize,
    moved: Moved,
}

/// Why a body ends early.
#[derive(Debug)]
pub(crate) struct Over;

impl std::fmt::Display for Over {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the page is lent no more")
    }
}

impl std::error::Error for Over {}

impl Body for PageBody {
    type Data = Bytes;
    type Error = Over;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Over>>> {
        Poll::Ready(match self.get_mut() {
            Self::Nothing => None,
            Self::Parts(body) => {
                body.moved.moves();
                body.parts.pop_front().map(|bytes| Ok(Frame::data(bytes)))
            }
            Self::Copied(body) => {
                body.moved.moves();
                body.next().map(|part| part.map(Frame::data).ok_or(Over))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Parts(body) => body.parts.is_empty(),
            Self::Copied(body) => body.at == body.bytes,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Nothing => 0,
            Self::Parts(body) => body.parts.iter().map(|bytes| bytes.len() as u64).sum(),
            Self::Copied(body) => (body.bytes - body.at) as u64,
        })
    }
}

impl Copied {
    /// The next part; nothing in it when the page is lent no more.
    fn next(&mut self) -> Option<Option<Bytes>> {
        if self.at == self.bytes {
            return None;
        }
        let part = copy_part(&self.memory, self.at, COPIED_PART_BYTES.min(self.bytes - self.at));
        self.at += part.as_ref().map_or(0, Bytes::len);
        Some(part)
    }
}

/// A copy of the `bytes` bytes at `at` of the page; `None` when it is lent no more.
fn copy_part(memory: &Mutex<Option<PageMemory>>, at: usize, bytes: usize) -> Option<Bytes> {
    // Held while it is copied: who takes the memory back waits for that.
    let memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
    let mut part = Vec::with_capacity(bytes);
    let mut start = 0;
    for piece in memory.as_ref()?.pieces() {
        let end = start + piece.len();
        let (from, to) = (at.max(start), (at + bytes).min(end));
        if from < to {
            part.extend_from_slice(piece.lease().bytes().ok()?.get(from - start..to - start)?);
        }
        start = end;
    }
    (part.len() == bytes).then(|| part.into())
}

#[cfg(test)]
mod tests {
    use hicache_core::{Access, MemoryStorage, Region, Registration, Storage};
    use http_body_util::BodyExt;

    use super::*;

    fn own() -> Registration {
        MemoryStorage::new().register(&Region::allocate(4, 1 << 20).unwrap()).unwrap()
    }

    async fn bytes_of(body: PageBody) -> Result<Vec<u8>, String> {
        body.collect().await.map(|body| body.to_bytes().to_vec()).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn own_memory_comes_back_with_the_last_bytes() {
        let memory = own().page(0, 700_000, Access::Read).unwrap();
        let lent = Lent::new(memory);
        let body = lent.body();
        let (other, before) = (lent.body(), lent.moved());
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert_eq!(bytes_of(other).await.unwrap().len(), 700_000);
        assert!(lent.moved() > before, "it is seen to move");
        let back = lent.end(Duration::from_secs(10));
        let ending = async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            drop(body);
        };
        let begun = Instant::now();
        let (memory, ()) = tokio::join!(back, ending);
        assert_eq!(memory.unwrap().bytes(), 700_000);
        assert!(begun.elapsed() >= Duration::from_millis(30), "the body still read it");
        let lent = Lent::new(own().page(0, 4096, Access::Read).unwrap());
        let _body = lent.body();
        assert!(lent.end(Duration::from_millis(10)).await.is_none());
    }

    /// What a caller owns comes back at once, whatever a connection still does with a body of it.
    #[tokio::test]
    async fn memory_of_others_is_not_waited_for() {
        let registered = own();
        let pieces = [(0, 100_000), (1, 7), (2, 150_000)];
        let pieces = pieces.map(|(slot, bytes)| registered.piece(slot, 0, bytes, Access::Write).unwrap());
        let mut memory = PageMemory::from_pieces(pieces).unwrap();
        let written: Vec<u8> = (0..250_007_u32).map(|i| (i ^ (i >> 8)) as u8).collect();
        memory.copy_from(&written).unwrap();
        let lent = Lent::copied(memory);
        assert_eq!(bytes_of(lent.body()).await.unwrap(), written);
        assert_eq!(lent.sha256().unwrap(), to_hex(&Sha256::digest(&written)));
        // A connection that stands still in the middle.
        let mut stuck = lent.body();
        let before = lent.moved();
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert_eq!(
            stuck.frame().await.unwrap().unwrap().into_data().unwrap()[..],
            written[..COPIED_PART_BYTES]
        );
        assert!(lent.moved() > before, "it is seen to move");
        let begun = Instant::now();
        let memory = lent.end(Duration::from_secs(10)).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1));
        drop(memory);
        assert!(registered.region().leases() == 0, "nothing of it is in use any more");
        assert!(bytes_of(stuck).await.unwrap_err().contains("lent no more"));
    }
}
