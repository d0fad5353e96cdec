//! Opening: whether the bucket is there and ours, before anything is promised.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use hicache_core::{Access, Direction, Error, ErrorKind, PageMemory, Region, Result};

use super::shared::Shared;
use super::wire::{Flight, Heads, Wire, Wires};
use super::{NAME, manifest};

const PAUSE: Duration = Duration::from_millis(1);
/// How long a connection may take before the store counts as down.
const CONNECT: Duration = Duration::from_secs(2);

/// Compares the namespace's manifest, or makes it. Blocks.
///
/// # Errors
/// `Config` for a bucket that is missing or forbidden, for credentials that are not told what is missing, and for a
/// manifest of another namespace; `Unavailable` where nothing answers.
pub(super) fn check(shared: &Shared, wires: &mut Wires) -> Result<()> {
    // The plugin tries for long where nothing answers, and then tells no cause.
    reach(shared)?;
    let object = shared.names.manifest();
    let Some(heads) = wires.heads.first_mut() else {
        return Err(Error::new(ErrorKind::Unexpected, "nobody asks for objects"));
    };
    let there = is_there(&mut **heads, &object).map_err(|error| refused(shared, "can't be asked", error))?;
    if there {
        read(shared, &mut *wires.wire, &object)?;
        return misses_are_told(shared, &mut **heads);
    }
    if shared.config.read_only {
        // Nothing was ever stored; whoever stores will make it. A bucket that is not there looks the same.
        return Ok(());
    }
    write(shared, &mut *wires.wire, &object)?;
    // A store that takes what it does not keep is none.
    match is_there(&mut **heads, &object) {
        Ok(true) => Ok(()),
        Ok(false) => Err(refused(shared, "does not have what it has just taken", lost())),
        Err(error) => Err(refused(shared, "can't be asked", error)),
    }
}

fn is_there(heads: &mut dyn Heads, object: &str) -> Result<bool> {
    let answers = heads.heads(&[object.to_owned()])?;
    answers.first().copied().ok_or_else(lost)
}

/// S3 calls what is missing forbidden to those who may not list the bucket: each miss would look like a failure.
fn misses_are_told(shared: &Shared, heads: &mut dyn Heads) -> Result<()> {
    is_there(heads, &shared.names.nothing()).map(drop).map_err(|error| {
        let message = format!(
            "{} gives the manifest and does not tell that another object is missing: to credentials without \
             s3:ListBucket S3 answers 403 instead of 404; grant it for the bucket",
            shared.place()
        );
        Error::config(message).with_backend(NAME).with_source(error)
    })
}

fn lost() -> Error {
    Error::new(ErrorKind::Unexpected, "an answer is missing")
}

/// A store that can't be reached is told from one that refuses, which the plugin does not do.
fn reach(shared: &Shared) -> Result<()> {
    let parameters = &shared.config.parameters;
    let Some(endpoint) = &parameters.endpoint_override else { return Ok(()) };
    let (port, host) = match endpoint.split_once("://") {
        Some(("http", host)) => (80, host),
        Some((_, host)) => (443, host),
        None => (if parameters.https { 443 } else { 80 }, endpoint.as_str()),
    };
    let host = host.split('/').next().unwrap_or(host);
    let unavailable = |error: std::io::Error| {
        Error::new(ErrorKind::Unavailable, format!("nothing answers for {}", shared.place()))
            .with_backend(NAME)
            .with_source(error)
    };
    let resolved = host.to_socket_addrs().or_else(|_| (host, port).to_socket_addrs()).map_err(unavailable)?;
    let mut last = None;
    for address in resolved {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(_) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    Err(unavailable(last.unwrap_or_else(|| std::io::Error::other("the name has no address"))))
}

fn refused(shared: &Shared, what: &str, error: Error) -> Error {
    let message = format!(
        "{} {what}: the bucket may be missing, the credentials refused, or without s3:ListBucket, so that S3 answers \
         403 for what is missing. NIXL does not say which; its log on standard error does",
        shared.place()
    );
    Error::config(message).with_backend(NAME).with_source(error)
}

fn write(shared: &Shared, wire: &mut dyn Wire, object: &str) -> Result<()> {
    let text = manifest::write(&shared.namespace);
    let mut memory = memory(wire, text.len())?;
    memory.copy_from(text.as_bytes())?;
    transfer(shared, wire, Direction::Write, object, memory, "can't be written to").map(drop)
}

fn read(shared: &Shared, wire: &mut dyn Wire, object: &str) -> Result<()> {
    // How long it is nobody says; what is not read stays zero.
    let mut memory = memory(wire, manifest::MOST_BYTES)?;
    memory.copy_from(&vec![0; manifest::MOST_BYTES])?;
    let memory = transfer(shared, wire, Direction::Read, object, memory, "can't be read")?;
    let bytes = memory.contiguous().unwrap_or_default();
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    manifest::check(object, &bytes[..end], &shared.namespace)
}

fn memory(wire: &mut dyn Wire, bytes: usize) -> Result<PageMemory> {
    let region = Region::allocate_with(1, bytes, false)?;
    wire.register(&region)?.page(0, bytes, Access::Write)
}

/// Moves one object, and waits for it.
fn transfer(
    shared: &Shared,
    wire: &mut dyn Wire,
    direction: Direction,
    object: &str,
    memory: PageMemory,
    what: &str,
) -> Result<PageMemory> {
    let begun = wire.begin(direction, object, memory);
    let mut flight: Box<dyn Flight> = begun.map_err(|begun| refused(shared, what, begun.error))?;
    let until = Instant::now() + Duration::from_millis(shared.config.store_timeout_ms);
    loop {
        match flight.poll() {
            Some(Ok(())) => return flight.finish().ok_or_else(lost),
            Some(Err(error)) => return Err(refused(shared, what, error)),
            None if Instant::now() < until => std::thread::sleep(PAUSE),
            None => {
                let message = format!("{} does not answer in time", shared.place());
                return Err(Error::new(ErrorKind::Unavailable, message).with_backend(NAME));
            }
        }
    }
}
