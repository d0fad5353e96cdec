//! A page as the body of a request, without a copy: the memory comes back when the last part of the connection has let
//! go of it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use hicache_core::PageMemory;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

/// A page that is lent to a request. When the last [`Bytes`] of it is dropped the memory comes back.
#[derive(Debug)]
pub(crate) struct Lent(Arc<Loan>);

#[derive(Debug)]
struct Loan {
    memory: Option<PageMemory>,
    back: Option<oneshot::Sender<PageMemory>>,
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

impl Lent {
    /// Lends `memory`; it comes back through the receiver.
    pub(crate) fn new(memory: PageMemory) -> (Self, oneshot::Receiver<PageMemory>) {
        let (back, receiver) = oneshot::channel();
        (Self(Arc::new(Loan { memory: Some(memory), back: Some(back) })), receiver)
    }

    /// A body of all its bytes. May be asked for again, for another try.
    pub(crate) fn body(&self) -> SdkBody {
        let pieces = self.0.memory.as_ref().map_or(0, |memory| memory.pieces().len());
        let bytes = |piece| Bytes::from_owner(LentPiece { loan: Arc::clone(&self.0), piece });
        if pieces == 1 {
            return SdkBody::from(bytes(0));
        }
        SdkBody::from_body_1_x(Pieces((0..pieces).rev().map(bytes).collect()))
    }
}

/// A body of several pieces, the last first.
struct Pieces(Vec<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|bytes| bytes.len() as u64).sum())
    }
}

#[cfg(test)]
mod tests {
    use hicache_core::{Access, MemoryStorage, Region, Storage};

    use super::*;

    #[test]
    fn memory_comes_back_with_the_last_bytes() {
        let registered = MemoryStorage::new().register(&Region::allocate(1, 4096).unwrap()).unwrap();
        let memory = registered.page(0, 4096, Access::Read).unwrap();
        let (lent, mut back) = Lent::new(memory);
        let body = lent.body();
        let bytes = Bytes::copy_from_slice(body.bytes().unwrap());
        assert_eq!(bytes.len(), 4096);
        drop(lent);
        assert!(back.try_recv().is_err(), "the body still reads it");
        drop(body);
        assert_eq!(back.try_recv().unwrap().bytes(), 4096);
    }
}
