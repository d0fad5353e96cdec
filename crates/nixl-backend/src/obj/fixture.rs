//! A store of our own that fails as it is told, and a storage on it: what the plugin can do, without the plugin.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use hicache_core::{
    Access, Direction, Error, ErrorKind, Namespace, Outcome, OwnerId, PageMemory, PageRequest, Region,
    Registration, Result, Storage, StoreOptions,
};
use hicache_testkit::{Content, numbered_key};

use super::config::NixlObjConfig;
use super::shared::Shared;
use super::storage::NixlObjStorage;
use super::wire::{Flight, Heads, MoreHeads, NotBegun, Wire, Wires};
use crate::parameters::ObjParameters;

pub(super) const PAGE: usize = 4096;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fault {
    None,
    Fails,
    /// Right, after so long.
    Slow(Duration),
    /// Never ends.
    Hangs,
    /// Ends with an error, and its memory is lost.
    Loses,
}

/// What happens to an operation (`read`, `write`, `head`) on an object.
pub(super) type Script = Box<dyn FnMut(&str, &str) -> Fault + Send>;

#[derive(Default)]
pub(super) struct Store {
    objects: Mutex<HashMap<String, Vec<u8>>>,
    fault: Mutex<Option<Script>>,
    heads: AtomicUsize,
    most_heads: AtomicUsize,
}

impl Store {
    pub(super) fn objects(&self) -> MutexGuard<'_, HashMap<String, Vec<u8>>> {
        self.objects.lock().unwrap()
    }

    pub(super) fn fail(&self, fault: impl FnMut(&str, &str) -> Fault + Send + 'static) {
        *self.fault.lock().unwrap() = Some(Box::new(fault));
    }

    pub(super) fn heal(&self) {
        *self.fault.lock().unwrap() = None;
    }

    fn fault(&self, operation: &str, object: &str) -> Fault {
        self.fault.lock().unwrap().as_mut().map_or(Fault::None, |fault| fault(operation, object))
    }

    pub(super) fn change(&self, number: u64, change: impl FnOnce(&mut Vec<u8>)) {
        let name = hicache_core::hashing::to_hex(&numbered_key(number).digest);
        let mut objects = self.objects();
        change(objects.iter_mut().find(|(object, _)| object.contains(&name)).unwrap().1);
    }
}

pub(super) struct FakeWire(Arc<Store>, OwnerId);

pub(super) struct FakeFlight {
    fault: Fault,
    polls: u32,
    begun: Instant,
    memory: PageMemory,
}

impl Wire for FakeWire {
    fn register(&mut self, region: &Arc<Region>) -> Result<Registration> {
        Ok(Registration::new(self.1, Arc::clone(region), Box::new(())))
    }

    fn begin(
        &mut self,
        direction: Direction,
        object: &str,
        mut memory: PageMemory,
    ) -> Result<Box<dyn Flight>, Box<NotBegun>> {
        let fault = self.0.fault(direction.as_str(), object);
        let mut objects = self.0.objects();
        let mut fault = fault;
        if matches!(fault, Fault::None | Fault::Slow(_)) {
            match direction {
                Direction::Write => {
                    let mut bytes = vec![0; memory.bytes()];
                    memory.copy_to(&mut bytes).unwrap();
                    objects.insert(object.to_owned(), bytes);
                }
                Direction::Read => match objects.get(object) {
                    // As the plugin does: what is not there is left as it was.
                    Some(bytes) => {
                        let target = memory.bytes_mut().next().unwrap().unwrap();
                        let len = bytes.len().min(target.len());
                        target[..len].copy_from_slice(&bytes[..len]);
                    }
                    None => fault = Fault::Fails,
                },
            }
        }
        Ok(Box::new(FakeFlight { fault, polls: 2, begun: Instant::now(), memory }))
    }
}

impl Flight for FakeFlight {
    fn poll(&mut self) -> Option<Result<()>> {
        self.polls = self.polls.saturating_sub(1);
        match self.fault {
            Fault::Hangs => None,
            Fault::Slow(time) if self.begun.elapsed() < time => None,
            _ if self.polls > 0 => None,
            Fault::None | Fault::Slow(_) => Some(Ok(())),
            Fault::Fails | Fault::Loses => Some(Err(Error::new(ErrorKind::Io, "the backend failed"))),
        }
    }

    fn finish(self: Box<Self>) -> Option<PageMemory> {
        match self.fault {
            Fault::Loses => {
                std::mem::forget(self.memory);
                None
            }
            _ => Some(self.memory),
        }
    }
}

pub(super) struct FakeHeads(Arc<Store>);

impl Heads for FakeHeads {
    fn heads(&mut self, objects: &[String]) -> Result<Vec<bool>> {
        let asked = self.0.heads.fetch_add(objects.len(), Ordering::SeqCst) + objects.len();
        self.0.most_heads.fetch_max(asked, Ordering::SeqCst);
        match self.0.fault("head", &objects[0]) {
            Fault::Hangs => {
                // Until the store is healed, as one in a plugin that waits for a server.
                while self.0.fault.lock().unwrap().is_some() {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(Error::new(ErrorKind::Io, "late"))
            }
            fault @ (Fault::None | Fault::Slow(_)) => {
                if let Fault::Slow(time) = fault {
                    std::thread::sleep(time);
                }
                Ok(objects.iter().map(|object| self.0.objects().contains_key(object)).collect())
            }
            _ => Err(Error::new(ErrorKind::Io, "the backend failed")),
        }
    }
}

pub(super) fn config() -> NixlObjConfig {
    let parameters = ObjParameters { bucket: Some("pages".into()), ..ObjParameters::default() };
    NixlObjConfig { load_timeout_ms: 300, store_timeout_ms: 600, ..NixlObjConfig::new(parameters) }
}

pub(super) async fn open_with(
    config: NixlObjConfig,
    store: &Arc<Store>,
    model: &str,
) -> Result<Arc<NixlObjStorage>> {
    let store = Arc::clone(store);
    let shared = Shared::new(config, &Namespace::new(model));
    NixlObjStorage::start(shared, move |_| {
        let own = Arc::clone(&store);
        let more_heads: MoreHeads = Arc::new(move || Ok(Box::new(FakeHeads(own.clone())) as Box<dyn Heads>));
        let heads = (0..2).map(|_| more_heads()).collect::<Result<_>>()?;
        Ok(Wires { wire: Box::new(FakeWire(store, OwnerId::new())), heads, more_heads })
    })
    .await
}

pub(super) struct Ground {
    pub(super) store: Arc<Store>,
    pub(super) storage: Arc<NixlObjStorage>,
    pub(super) registration: Registration,
}

impl Ground {
    pub(super) async fn new() -> Self {
        Self::with(config()).await
    }

    pub(super) async fn with(config: NixlObjConfig) -> Self {
        let store = Arc::new(Store::default());
        let storage = open_with(config, &store, "test").await.unwrap();
        let registration = storage.register(&Region::allocate(128, PAGE).unwrap()).unwrap();
        Self { store, storage, registration }
    }

    pub(super) async fn store(
        &self,
        numbers: std::ops::Range<u64>,
        version: u64,
        overwrite: bool,
    ) -> Vec<Outcome> {
        let request = |(slot, number)| {
            let key = numbered_key(number);
            let mut memory = self.registration.page(slot, PAGE, Access::Write).unwrap();
            Content::new(&key, version, PAGE).fill(&mut memory).unwrap();
            PageRequest::new(key, memory)
        };
        let requests = numbers.enumerate().map(request).collect();
        let batch = self.storage.store(requests, StoreOptions { overwrite }).await;
        assert!(batch.memory.iter().all(Option::is_some), "memory comes back");
        batch.outcomes
    }

    /// Counts come after the answers that they are of.
    pub(super) async fn all_breakers_are_closed(&self) {
        let until = Instant::now() + Duration::from_secs(5);
        while self.storage.stat().breakers_open != 0 {
            assert!(Instant::now() < until, "{:?}", self.storage.stat());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Loads pages; those that are `Done` must have every byte of the version.
    pub(super) async fn load(&self, numbers: std::ops::Range<u64>, version: u64) -> Vec<Outcome> {
        self.load_at(numbers, version, 0).await
    }

    /// Into the slots from `first` on.
    pub(super) async fn load_at(
        &self,
        numbers: std::ops::Range<u64>,
        version: u64,
        first: usize,
    ) -> Vec<Outcome> {
        let request = |(slot, number): (usize, u64)| {
            let slot = first + slot;
            let memory = self.registration.page(slot, PAGE, Access::Write).unwrap();
            PageRequest::new(numbered_key(number), memory)
        };
        let batch = self.storage.load(numbers.clone().enumerate().map(request).collect()).await;
        for (i, number) in numbers.enumerate() {
            let memory = batch.memory[i].as_ref().expect("memory comes back");
            if batch.outcomes[i].is_done() {
                Content::new(&numbered_key(number), version, PAGE).check_page(memory).unwrap().unwrap();
            }
        }
        batch.outcomes
    }
}

pub(super) fn kinds(outcomes: &[Outcome]) -> Vec<Option<ErrorKind>> {
    outcomes.iter().map(|outcome| outcome.error().map(Error::kind)).collect()
}
