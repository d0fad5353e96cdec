//! Random interleavings of everything a controller does, against a model: the bytes of every page that is found are
//! checked, and every page of both pools is accounted for after each step.

mod fixture;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use fixture::{Engine, LONG, config, keys, prompt};
use hicache_controller::{LayerWait, PrefetchId, PrefetchPolicy, PromptSpace, Request, WritePolicy};
use hicache_core::{DeviceFault, ErrorKind, MemoryStorage};
use hicache_testkit::{FaultPlan, FaultyStorage, StorageFault, argument};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[derive(Clone, Debug)]
enum Step {
    /// Serves a prompt from begin to finish.
    Serve(Vec<u64>),
    /// Begins a request that stays open, with a prefetch.
    Open(Vec<u64>),
    /// Finishes or cancels an open one.
    Close(usize, bool),
    /// Loads what an open one has on the host, and does not wait.
    Load(usize),
    Terminate(usize),
    EvictDevice(usize),
    EvictHost(usize),
    Poll,
    Wait,
    Drain,
    Reset,
    Detach,
    Attach,
    DeviceFault(Option<u8>),
    StorageFault(Option<u8>),
    /// Lost operations let go of their memory.
    Release,
}

fn names() -> impl Strategy<Value = Vec<u64>> {
    // A few prompts that share prefixes.
    (1_u64..4, 1_usize..9, 0_u64..3).prop_map(|(root, pages, branch)| {
        let part =
            |i: usize| if i < 3 { root * 1000 + i as u64 } else { root * 1000 + branch * 100 + i as u64 };
        (0..pages).map(part).collect()
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => names().prop_map(Step::Serve),
        4 => names().prop_map(Step::Open),
        4 => (0_usize..4, any::<bool>()).prop_map(|(i, finish)| Step::Close(i, finish)),
        2 => (0_usize..4).prop_map(Step::Load),
        2 => (0_usize..4).prop_map(Step::Terminate),
        2 => (1_usize..10).prop_map(Step::EvictDevice),
        2 => (1_usize..10).prop_map(Step::EvictHost),
        3 => Just(Step::Poll),
        2 => Just(Step::Wait),
        1 => Just(Step::Drain),
        1 => Just(Step::Reset),
        1 => Just(Step::Detach),
        2 => Just(Step::Attach),
        2 => proptest::option::of(0_u8..5).prop_map(Step::DeviceFault),
        2 => proptest::option::of(0_u8..6).prop_map(Step::StorageFault),
        1 => Just(Step::Release),
    ]
}

struct Play {
    engine: Engine,
    storage: Arc<FaultyStorage>,
    open: Vec<(Request, Option<PrefetchId>)>,
    /// Pages that were ever computed: nothing else may be found.
    computed: HashSet<hicache_core::PageKey>,
    next_name: u64,
}

impl Play {
    fn new(write: WritePolicy, prefetch: PrefetchPolicy) -> Self {
        let mut config = config(12, 20);
        (config.write_policy, config.prefetch_policy) = (write, prefetch);
        (config.storage_timeout_ms, config.device_timeout_ms) = (60, 60);
        (config.breaker_backoff_ms, config.write_batch_pages) = (5, 3);
        let storage = FaultyStorage::new(Arc::new(MemoryStorage::with_capacity(1 << 16)), FaultPlan::none());
        let mut engine = Engine::new(config);
        engine.controller.attach(Arc::clone(&storage) as _).unwrap();
        Self { engine, storage, open: Vec::new(), computed: HashSet::new(), next_name: 0 }
    }

    /// Nothing may be found that was not computed.
    fn check_found(&self, request: &Request) {
        let pages = request.matched().device_pages.len() + request.matched().host_pages;
        for key in keys(request.tokens()).iter().take(pages) {
            assert!(self.computed.contains(key), "{key} was found and never computed");
        }
    }

    /// Loads, checks every byte, computes the rest.
    fn finish(&mut self, mut request: Request) {
        self.check_found(&request);
        let controller = &mut self.engine.controller;
        let _ = controller.load_back(&mut request);
        let whole = controller.start_loading().wait_all(Duration::from_millis(500)) == LayerWait::Done;
        let arrived = controller.wait_loaded(LONG);
        if !whole || !arrived || !controller.is_whole(&request) {
            return controller.cancel(request);
        }
        let keys = keys(request.tokens());
        let found = request.matched().device_pages.clone();
        for (page, key) in found.iter().zip(&keys) {
            self.engine.check(*page, key);
        }
        let Ok(computed) = self.engine.controller.allocate(keys.len() - found.len()) else {
            return self.engine.controller.cancel(request);
        };
        for (page, key) in computed.iter().zip(&keys[found.len()..]) {
            self.engine.compute(*page, key);
            self.computed.insert(*key);
        }
        let tokens = request.tokens().to_vec();
        self.engine.controller.finish(request, &tokens, &computed).unwrap();
    }

    fn take_open(&mut self, at: usize) -> Option<Request> {
        if self.open.is_empty() {
            return None;
        }
        let (mut request, prefetch) = self.open.remove(at % self.open.len());
        if let Some(id) = prefetch {
            self.engine.controller.terminate_prefetch(id);
            self.engine.controller.look_again(&mut request);
        }
        Some(request)
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Serve(names) => {
                let request = self.engine.controller.begin(PromptSpace::default(), prompt(names));
                self.finish(request);
            }
            Step::Open(names) if self.open.len() < 4 => {
                let request = self.engine.controller.begin(PromptSpace::default(), prompt(names));
                self.check_found(&request);
                self.next_name += 1;
                let prefetch = self.engine.controller.prefetch(&self.next_name.to_string(), &request);
                self.open.push((request, prefetch));
            }
            Step::Open(_) => {}
            Step::Close(at, finish) => {
                if let Some(request) = self.take_open(*at) {
                    if *finish { self.finish(request) } else { self.engine.controller.cancel(request) }
                }
            }
            Step::Load(at) if !self.open.is_empty() => {
                let at = at % self.open.len();
                let _ = self.engine.controller.load_back(&mut self.open[at].0);
                drop(self.engine.controller.start_loading());
            }
            Step::Terminate(at) if !self.open.is_empty() => {
                let at = at % self.open.len();
                if let Some(id) = self.open[at].1.take() {
                    self.engine.controller.terminate_prefetch(id);
                    self.engine.controller.look_again(&mut self.open[at].0);
                }
            }
            Step::Load(_) | Step::Terminate(_) => {}
            Step::EvictDevice(pages) => _ = self.engine.controller.evict_device(*pages),
            Step::EvictHost(pages) => _ = self.engine.controller.evict_host(*pages),
            Step::Poll => _ = self.engine.controller.poll(),
            Step::Wait => _ = self.engine.controller.wait(Duration::from_millis(5)),
            Step::Drain => assert!(self.engine.controller.drain(LONG), "it hangs"),
            Step::Reset => match self.engine.controller.reset(LONG) {
                Ok(()) => assert_eq!(self.engine.account().tree.nodes, 0),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error}"),
            },
            Step::Detach => drop(self.engine.controller.detach()),
            Step::Attach => drop(self.engine.controller.attach(Arc::clone(&self.storage) as _)),
            Step::DeviceFault(fault) => {
                let faults = [
                    DeviceFault::Fail,
                    DeviceFault::FailPage { page: 1, step: 1 },
                    DeviceFault::NeverSubmitted,
                    DeviceFault::Swallowed,
                    DeviceFault::LateStart(Duration::from_millis(3)),
                ];
                match fault {
                    Some(fault) => {
                        let fault = faults[usize::from(*fault)];
                        self.engine
                            .device
                            .set_faults(move |operation| (operation.number % 2 == 0).then_some(fault));
                    }
                    None => self.engine.device.clear_faults(),
                }
            }
            Step::StorageFault(fault) => {
                let faults = [
                    StorageFault::Fail(ErrorKind::Io),
                    StorageFault::Absent,
                    StorageFault::NeverSubmitted,
                    StorageFault::Swallowed,
                    StorageFault::Panic,
                    StorageFault::Late(Duration::from_millis(80)),
                ];
                self.storage.set_plan(match fault {
                    Some(fault) => FaultPlan::random(7, 300, [faults[usize::from(*fault)]]),
                    None => FaultPlan::none(),
                });
            }
            Step::Release => {
                self.engine.device.release_lost();
                self.storage.release_lost();
            }
        }
        self.engine.account();
    }

    /// Everything comes to rest, and every page is back.
    fn end(mut self) {
        self.engine.device.clear_faults();
        self.storage.set_plan(FaultPlan::none());
        while let Some(request) = self.take_open(0) {
            self.engine.controller.cancel(request);
        }
        self.engine.controller.terminate_prefetches();
        assert!(self.engine.controller.drain(LONG), "it hangs");
        self.engine.controller.reset(LONG).unwrap();
        // What was lost lets go, some of it only now.
        let until = std::time::Instant::now() + LONG;
        loop {
            self.engine.device.release_lost();
            self.storage.release_lost();
            self.engine.controller.wait(Duration::from_millis(5));
            if self.engine.account().abandoned_pages == 0 || std::time::Instant::now() >= until {
                break;
            }
        }
        let account = self.engine.rest();
        assert_eq!(account.tree.nodes, 0);
        assert_eq!(self.engine.controller.host_pool().free_pages(), 20);
        assert_eq!(self.engine.controller.device_pool().free_pages(), 12);
    }
}

fn play(write: WritePolicy, prefetch: PrefetchPolicy, cases: u64) {
    let cases = argument("rounds").unwrap_or(cases);
    let config = Config { cases: cases as u32, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&prop::collection::vec(step(), 1..60), |steps| {
            let mut play = Play::new(write, prefetch);
            for step in &steps {
                play.step(step);
            }
            play.end();
            Ok(())
        })
        .unwrap();
}

#[test]
fn write_through_random() {
    play(WritePolicy::WriteThrough, PrefetchPolicy::WaitComplete, 40);
}

#[test]
fn write_through_selective_random() {
    play(WritePolicy::WriteThroughSelective, PrefetchPolicy::BestEffort, 40);
}

#[test]
fn write_back_random() {
    play(WritePolicy::WriteBack, PrefetchPolicy::Timeout, 40);
}
