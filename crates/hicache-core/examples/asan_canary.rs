//! Uses memory after it was freed, on purpose: the proof that AddressSanitizer would see it if `tests/ownership.rs` ever
//! did. Run under AddressSanitizer it must die with `heap-use-after-free`; a run that ends well means that the sanitizer
//! is not working, and the exit code says so to whoever expects a failure.
//!
//! The mistake is the one that `Transfer` exists to make impossible: the future owns the leases, so that dropping it
//! ends them, while the thread that moves the bytes has kept the address.

use std::ptr::NonNull;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use hicache_core::{Access, MemoryKind, OwnerId, PageMemory, Region, Registration};

const BYTES: usize = 4096;

/// An address that is sent to the thread without what keeps it valid.
struct Address(*mut u8);

// SAFETY: not upheld by anybody, which is the point of this program.
unsafe impl Send for Address {}

/// What a future must never be: the owner of memory that an engine writes into.
struct OwningFuture {
    _memory: PageMemory,
}

/// Starts to read into the memory; the thread writes once `go` is sent to it.
fn submit(memory: PageMemory) -> (OwningFuture, Sender<()>, JoinHandle<()>) {
    let address = Address(memory.pieces()[0].lease().address());
    let (go, begun) = channel();
    let engine = std::thread::spawn(move || {
        let address = address;
        if begun.recv().is_ok() {
            // SAFETY: there is none; the lease of this memory may have ended.
            unsafe { address.0.write_bytes(7, BYTES) };
        }
    });
    (OwningFuture { _memory: memory }, go, engine)
}

fn main() {
    let heap: Box<Vec<u8>> = Box::new(vec![0; BYTES]);
    let base = NonNull::new(heap.as_ptr().cast_mut()).expect("a vector is not at address 0");
    // SAFETY: the vector is kept by the region, is never resized, and nobody else touches it.
    let region = unsafe { Region::foreign(base, BYTES, MemoryKind::Host, heap) }.expect("a region of a page");
    let registration = Registration::new(OwnerId::new(), region, Box::new(()));
    // SAFETY: the only lease.
    let piece =
        unsafe { registration.piece_of_range(0, BYTES, Access::Write) }.expect("a piece of the region");
    drop(registration);
    let (future, go, engine) = submit(PageMemory::new(piece));
    drop(future);
    go.send(()).expect("the engine waits");
    engine.join().expect("the engine ends");
}
