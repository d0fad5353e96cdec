//! Memory of the device: what is refused, and checksums by the kernel against the CPU's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hicache_core::{
    Access, Engine, Error, ErrorKind, OwnerId, PageMemory, Piece, Region, Registration, Result, hashing,
};
use hicache_gds::cuda::copies::Copying;
use hicache_gds::cuda::{Queue, RawCopy};
use hicache_gds::{Calls, Context, DeviceChecksums, Summer};

use crate::Told;
use crate::conformance::{close, cufile, staged};
use crate::pages::Pages;
use crate::rates::PAGE;

pub(crate) fn run(context: &Arc<Context>, told: &Told, with_cufile: bool) -> Result<bool> {
    let mut good = true;
    let mut tried = vec![
        ("refusals", refusals(context)),
        ("a freed tensor", freed(context)),
        ("checksums by the kernel", checksums(context)),
        ("checksums of staged", staged_sums(context)),
    ];
    if with_cufile {
        tried.push(("checksums of cuFile", cufile_sums(context, told)));
    }
    for (what, outcome) in tried {
        match outcome {
            Ok(seen) => println!("{what}: {seen}"),
            Err(error) => {
                println!("WRONG  {what}: {error}");
                good = false;
            }
        }
    }
    Ok(good)
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::Unexpected, message)
}

fn refused<T>(what: &str, kind: ErrorKind, result: Result<T>) -> Result<()> {
    match result {
        Err(error) if error.kind() == kind => Ok(()),
        Err(error) => Err(wrong(format!("{what} must be {kind}, and is: {error}"))),
        Ok(_) => Err(wrong(format!("{what} was taken; it must be {kind}"))),
    }
}

fn foreign(context: &Arc<Context>, address: u64, bytes: usize) -> Result<Arc<Region>> {
    // SAFETY: whether it is memory is what is asked; nobody uses it.
    unsafe { context.foreign(address, bytes, Box::new(())) }
}

fn refusals(context: &Arc<Context>) -> Result<String> {
    let (device, host) = (context.allocate(1, 2, 1 << 20)?, context.allocate_pinned(1, 1, 4096)?);
    let start = device.base().as_ptr() as u64;
    foreign(context, start, 1 << 20)?;
    foreign(context, start + 4096, 4096)?;
    // Rounded up to pages of the GPU, an allocation is longer than what was asked for; not by as much as this.
    refused("a range beyond its allocation", ErrorKind::Config, foreign(context, start, 64 << 20))?;
    refused("pinned memory", ErrorKind::Config, foreign(context, host.base().as_ptr() as u64, 4096))?;
    let on_the_stack = 0_u64;
    refused("the stack", ErrorKind::Config, foreign(context, (&raw const on_the_stack) as u64, 8))?;
    refused("address 0", ErrorKind::Config, foreign(context, 0, 8))?;
    refused("more than there is", ErrorKind::NoSpace, context.allocate(1, 1, 1 << 45))?;
    refused("no slots", ErrorKind::Config, context.allocate(1, 0, 4096))?;
    refused("device 99", ErrorKind::Config, context.cuda().context(99))?;
    Ok("each with its reason".to_owned())
}

fn freed(context: &Arc<Context>) -> Result<String> {
    let region = context.allocate(1, 1, 32 << 20)?;
    let start = region.base().as_ptr() as u64;
    drop(region);
    let until = Instant::now() + Duration::from_secs(10);
    while foreign(context, start, 4096).is_ok() {
        if Instant::now() > until {
            return Err(wrong("memory that was freed ten seconds ago is taken".to_owned()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok("refused".to_owned())
}

/// Which way the checksums of an engine go: what it says, having summed a few pages.
fn staged_sums(context: &Arc<Context>) -> Result<String> {
    let engine = staged(context, DeviceChecksums::Auto)?;
    let summed = engine_sums(context, &*engine);
    close(&*engine)?;
    summed.map(|()| engine.checksum_counts().to_string())
}

fn cufile_sums(context: &Arc<Context>, told: &Told) -> Result<String> {
    let engine = cufile(context, told, 1, Calls::Threads)?;
    let summed = engine_sums(context, &*engine);
    close(&*engine)?;
    summed.map(|()| engine.checksum_counts().to_string())
}

fn engine_sums(context: &Arc<Context>, engine: &dyn Engine) -> Result<()> {
    let pages = Pages::new(context, 3)?;
    pages.fill(5)?;
    let registration = engine.register(&pages.device)?;
    for (slot, expected) in pages.sums(5).into_iter().enumerate() {
        let sum = engine.checksum(&registration.page(slot, PAGE, Access::Read)?)?;
        if sum != expected {
            return Err(wrong(format!("{sum:x} is not {expected:x}")));
        }
    }
    Ok(())
}

/// Pages of several lengths, one of them in pieces.
fn checksums(context: &Arc<Context>) -> Result<String> {
    const SLOT: usize = 2 << 20;
    let lengths = [4096, 65_537, SLOT, 1_000_003];
    let host = context.allocate_pinned(1, lengths.len(), SLOT)?;
    let device = context.allocate(1, lengths.len(), SLOT)?;
    let registration = Registration::new(OwnerId::new(), Arc::clone(&device), Box::new(()));
    let queue = Queue::new(context)?;
    let mut expected = Vec::new();
    for (slot, &length) in lengths.iter().enumerate() {
        let mut from = host.lease(slot, 0, SLOT, Access::Write)?;
        let seed = (slot as u64) << 32;
        for (i, byte) in from.bytes_mut()?.iter_mut().enumerate() {
            *byte = ((seed + i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
        }
        let to = device.lease(slot, 0, SLOT, Access::Write)?;
        let copy = RawCopy { from: from.address() as u64, to: to.address() as u64, bytes: SLOT };
        // SAFETY: both are leased until the stream is past the copy.
        unsafe { Copying::of(context).queue(&queue, &[copy]) }?;
        queue.synchronize()?;
        expected.push(hashing::checksum(&from.bytes()?[..length]));
    }
    let page = |slot: usize, length: usize| -> Result<PageMemory> {
        if slot == 1 {
            let cuts = [(0, 1), (1, 40_000), (40_001, length - 40_001)];
            let pieces = cuts.map(|(at, bytes)| registration.piece(slot, at, bytes, Access::Read));
            return PageMemory::from_pieces(pieces.into_iter().collect::<Result<Vec<Piece>>>()?);
        }
        registration.page(slot, length, Access::Read)
    };
    let mut summer = Summer::new(context)?;
    for round in 0..2 {
        let pages = lengths.iter().enumerate().map(|(slot, &length)| page(slot, length));
        let sums = summer.sum(pages.collect::<Result<Vec<_>>>()?).sums?;
        if sums != expected {
            return Err(wrong(format!("round {round}: {sums:x?} is not {expected:x?}")));
        }
    }
    // More parts than one launch takes.
    const MANY: usize = 50;
    let many = (0..MANY).map(|_| page(2, lengths[2])).collect::<Result<Vec<_>>>()?;
    if summer.sum(many).sums? != vec![expected[2]; MANY] {
        return Err(wrong("sums of several launches differ".to_owned()));
    }
    Ok(format!("{} pages, bit for bit the CPU's", 2 * lengths.len() + MANY))
}
