//! Device, host and storage: backup, prefetch, attaching and detaching, and storages that fail in every way.

mod fixture;

use std::sync::Arc;
use std::time::{Duration, Instant};

use fixture::{Engine, LONG, Served, TOKENS, config, keys, prompt};
use hicache_controller::{
    ControllerConfig, Layout, Operation, PrefetchPolicy, PrefetchStatus, PromptSpace, WritePolicy,
};
use hicache_core::{Direction, ErrorKind, MemoryStorage, Namespace, Storage};
use hicache_testkit::{FaultPlan, FaultyStorage, StorageFault};

fn served(device: usize, host: usize, storage: usize, computed: usize) -> Option<Served> {
    Some(Served { device, host, storage, computed })
}

fn faulty() -> Arc<FaultyStorage> {
    FaultyStorage::new(Arc::new(MemoryStorage::new()), FaultPlan::none())
}

fn engine(config: ControllerConfig, storage: &Arc<FaultyStorage>) -> Engine {
    let mut engine = Engine::new(config);
    engine.controller.attach(Arc::clone(storage) as _).unwrap();
    engine
}

#[test]
fn what_left_both_upper_tiers_comes_back_from_storage_in_every_layout() {
    for layout in Layout::ALL {
        let storage = faulty();
        let mut config = config(8, 24);
        config.host_layout = layout;
        let mut engine = engine(config, &storage);
        assert_eq!(engine.serve_from_storage("a", &[1, 2, 3, 4, 5]), served(0, 0, 0, 5));
        engine.rest();
        assert_eq!(storage.stat().stored_pages, 5, "{layout}");
        engine.controller.reset(LONG).unwrap();
        assert_eq!(engine.serve_from_storage("b", &[1, 2, 3, 4, 5, 6]), served(0, 0, 5, 1), "{layout}");
        engine.rest();
        // Only what was new is stored.
        assert_eq!((storage.stat().stored_pages, storage.stat().present_pages), (6, 0));
        engine.controller.evict_device(8);
        assert_eq!(engine.serve_from_storage("c", &[1, 2, 3, 7]), served(0, 3, 0, 1));
        engine.rest();
        assert!(engine.controller.metrics().text().unwrap().contains("operation=\"prefetch\""));
    }
}

#[test]
fn long_prompts_go_in_batches_and_stop_at_the_first_miss() {
    let storage = faulty();
    let mut engine = engine(config(400, 900), &storage);
    let names: Vec<u64> = (1..=300).collect();
    engine.serve(&names).unwrap();
    engine.rest();
    let key = keys(&prompt(&names))[200];
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(storage.delete(&[key])).unwrap();
    engine.controller.reset(LONG).unwrap();
    assert_eq!(engine.serve_from_storage("a", &names), served(0, 0, 200, 100));
    engine.rest();
}

#[test]
fn small_hits_are_revoked_and_too_many_prefetches_refused() {
    let storage = faulty();
    let mut config = config(16, 40);
    (config.prefetch_threshold_tokens, config.prefetch_capacity_tokens) = (3 * TOKENS, Some(8 * TOKENS));
    let mut engine = engine(config, &storage);
    engine.serve(&[1, 2]).unwrap();
    engine.serve(&[11, 12, 13, 14]).unwrap();
    engine.rest();
    engine.controller.reset(LONG).unwrap();
    assert_eq!(
        engine.serve_from_storage("a", &[1, 2, 3, 4]),
        served(0, 0, 0, 4),
        "two pages are not worth it"
    );
    let long: Vec<u64> = (21..40).collect();
    let request = engine.controller.begin(PromptSpace::default(), prompt(&long));
    assert!(engine.controller.prefetch("b", &request).is_none(), "more than may be under way");
    engine.controller.cancel(request);
    let request = engine.controller.begin(PromptSpace::default(), prompt(&[11, 12]));
    assert!(engine.controller.prefetch("c", &request).is_none(), "below the threshold");
    engine.controller.cancel(request);
    assert_eq!(engine.serve_from_storage("d", &[11, 12, 13, 14]), served(0, 0, 4, 0));
    engine.rest();
    let text = engine.controller.metrics().text().unwrap();
    for outcome in ["revoked", "rate-limited", "complete"] {
        assert!(text.contains(&format!("outcome=\"{outcome}\"")), "{text}");
    }
}

#[test]
fn a_terminated_prefetch_answers_what_is_complete() {
    let storage = faulty();
    let mut config = config(400, 900);
    config.prefetch_policy = PrefetchPolicy::BestEffort;
    let mut engine = engine(config, &storage);
    let names: Vec<u64> = (1..=300).collect();
    engine.serve(&names).unwrap();
    engine.rest();
    engine.controller.reset(LONG).unwrap();
    // The second batch of pages takes long.
    storage.set_plan(FaultPlan::script([(
        Direction::Read,
        128,
        StorageFault::Late(Duration::from_millis(300)),
    )]));
    let mut request = engine.controller.begin(PromptSpace::default(), prompt(&names));
    let id = engine.controller.prefetch("a", &request).unwrap();
    let until = Instant::now() + LONG;
    while storage.injected() == 0 && Instant::now() < until {
        engine.controller.wait(Duration::from_millis(5));
    }
    let begun = Instant::now();
    assert_eq!(engine.controller.check_prefetch(id), PrefetchStatus::Ended { pages: 128, found: 300 });
    assert!(begun.elapsed() < Duration::from_millis(200), "it did not wait for the batch");
    assert!(engine.account().abandoned_pages > 0, "the batch still writes into its pages");
    engine.controller.look_again(&mut request);
    assert_eq!(engine.go_on(request, 128), served(0, 0, 128, 172));
    std::thread::sleep(Duration::from_millis(400));
    engine.rest();
}

#[test]
fn the_policies_wait_as_they_say() {
    for (policy, waits_ms) in [
        (PrefetchPolicy::BestEffort, 0..80),
        (PrefetchPolicy::Timeout, 100..250),
        (PrefetchPolicy::WaitComplete, 300..2000),
    ] {
        let storage = faulty();
        let mut config = config(8, 24);
        config.prefetch_policy = policy;
        (config.prefetch_timeout_base_ms, config.prefetch_timeout_per_ki_token_ms) = (50, 50 * 1024 / 12);
        let mut engine = engine(config, &storage);
        engine.serve(&[1, 2, 3]).unwrap();
        engine.rest();
        engine.controller.reset(LONG).unwrap();
        storage.set_plan(FaultPlan::every(Direction::Read, StorageFault::Late(Duration::from_millis(300))));
        let begun = Instant::now();
        let got = engine.serve_from_storage("a", &[1, 2, 3]).unwrap();
        let waited = begun.elapsed().as_millis();
        assert!(waits_ms.contains(&waited), "{policy}: {waited} ms");
        assert_eq!(got.storage, if policy == PrefetchPolicy::WaitComplete { 3 } else { 0 });
        std::thread::sleep(Duration::from_millis(320));
        engine.rest();
    }
}

#[test]
fn a_page_that_fails_is_tried_again_and_stops_nothing_behind_it() {
    let storage = faulty();
    let mut engine = engine(config(8, 24), &storage);
    storage.set_plan(FaultPlan::script([(Direction::Write, 1, StorageFault::Fail(ErrorKind::Io))]));
    engine.serve(&[1, 2, 3]).unwrap();
    engine.rest();
    assert_eq!(storage.stat().stored_pages, 3, "tried again");
    // One page never works: the others are stored, and what is missing is told.
    let bad = keys(&prompt(&[11, 12, 13]))[1];
    storage.set_plan(FaultPlan::custom(move |operation| {
        (operation.key == Some(bad)).then_some(StorageFault::Fail(ErrorKind::Io))
    }));
    engine.controller.take_acknowledged();
    engine.serve(&[11, 12, 13]).unwrap();
    engine.rest();
    let backup = |ack: &hicache_controller::Acknowledged| ack.operation == Operation::Backup;
    let told = engine.controller.take_acknowledged().into_iter().find(backup).unwrap();
    assert_eq!((told.pages, storage.stat().stored_pages), ((3, 2), 5));
    // When it is used again, it is offered again.
    storage.set_plan(FaultPlan::none());
    engine.serve(&[11, 12, 13]).unwrap();
    engine.rest();
    assert_eq!(storage.stat().stored_pages, 6);
}

#[test]
fn faults_of_every_kind_cost_hits_and_nothing_else() {
    let faults = [
        StorageFault::Fail(ErrorKind::Io),
        StorageFault::Absent,
        StorageFault::NeverSubmitted,
        StorageFault::Swallowed,
        StorageFault::Panic,
        StorageFault::Late(Duration::from_millis(400)),
    ];
    for fault in faults {
        for direction in [Direction::Read, Direction::Write] {
            let storage = faulty();
            let mut config = config(8, 24);
            (config.storage_timeout_ms, config.breaker_backoff_ms) = (150, 20);
            let mut engine = engine(config, &storage);
            if direction == Direction::Read {
                engine.serve(&[1, 2, 3]).unwrap();
                engine.rest();
                engine.controller.reset(LONG).unwrap();
            }
            storage.set_plan(FaultPlan::every(direction, fault));
            let got = engine.serve_from_storage("a", &[1, 2, 3]);
            assert_eq!(got, served(0, 0, 0, 3), "{fault:?} {direction:?}");
            assert!(engine.controller.drain(LONG), "{fault:?}");
            engine.account();
            storage.set_plan(FaultPlan::none());
            storage.release_lost();
            std::thread::sleep(Duration::from_millis(450));
            engine.rest();
            // Back to normal: what was not stored is, and what is stored is found.
            engine.serve_from_storage("b", &[1, 2, 3]).unwrap();
            engine.rest();
            engine.controller.reset(LONG).unwrap();
            let expected = if fault == StorageFault::Absent && direction == Direction::Write { 0 } else { 3 };
            let got = engine.serve_from_storage("c", &[1, 2, 3]).unwrap();
            assert_eq!(got.storage, expected, "{fault:?} {direction:?}");
            engine.rest();
        }
    }
}

#[test]
fn a_backend_that_dies_is_cut_off_and_taken_up_again() {
    let storage = faulty();
    let mut config = config(8, 40);
    config.breaker_failures = 2;
    let mut engine = engine(config, &storage);
    engine.serve(&[1, 2, 3]).unwrap();
    engine.rest();
    engine.controller.reset(LONG).unwrap();
    storage.set_down(true);
    for (i, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let got = engine.serve_from_storage(name, &[1, 2, 3, 10 + i as u64]);
        assert_eq!(got.unwrap().storage, 0);
        engine.rest();
    }
    assert_eq!(engine.controller.is_cut_off(), (true, true));
    storage.set_down(false);
    std::thread::sleep(Duration::from_millis(200));
    // Used again, so stored; and then found.
    engine.serve_from_storage("e", &[1, 2, 3, 13]).unwrap();
    engine.rest();
    engine.controller.reset(LONG).unwrap();
    assert_eq!(engine.serve_from_storage("f", &[1, 2, 3, 13]), served(0, 0, 4, 0));
    engine.rest();
    assert_eq!(engine.controller.is_cut_off(), (false, false));
}

#[test]
fn a_storage_is_attached_and_detached_while_the_rest_goes_on() {
    let storage = faulty();
    let mut engine = Engine::new(config(8, 24));
    engine.serve(&[1, 2, 3]).unwrap();
    assert_eq!(engine.controller.detach().unwrap_err().kind(), ErrorKind::Config);
    engine.controller.attach(Arc::clone(&storage) as _).unwrap();
    assert_eq!(engine.controller.attach(Arc::clone(&storage) as _).unwrap_err().kind(), ErrorKind::Busy);
    storage.set_plan(FaultPlan::every(Direction::Write, StorageFault::Late(Duration::from_millis(200))));
    engine.serve(&[1, 2, 3, 4]).unwrap();
    let until = Instant::now() + LONG;
    while storage.injected() == 0 && Instant::now() < until {
        engine.controller.wait(Duration::from_millis(5));
    }
    let error = engine.controller.detach().unwrap_err();
    assert!(error.kind() == ErrorKind::Busy && error.to_string().contains("backups"), "{error}");
    engine.rest();
    let back = engine.controller.detach().unwrap();
    assert_eq!(back.stat().stored_pages, 4, "also what was there before it was attached");
    assert_eq!(engine.serve_from_storage("a", &[1, 2, 3, 4, 5]), served(4, 0, 0, 1));
    // Another storage has nothing of it yet.
    let other = faulty();
    engine.controller.attach(Arc::clone(&other) as _).unwrap();
    engine.serve(&[1, 2, 3, 4, 5]).unwrap();
    engine.rest();
    assert_eq!(other.stat().stored_pages, 5);
    assert_eq!(engine.controller.clear(LONG).unwrap(), 5);
    assert_eq!(engine.rest().tree.nodes, 0);
    let (storage, drained) = engine.controller.shutdown(LONG);
    assert!(drained && storage.is_some());
}

#[test]
fn a_storage_of_another_namespace_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let namespace = Namespace::new("another model");
    let mut store = hicache_page_store::PageStoreConfig::new([directory.path().to_owned()], namespace);
    store.capacity_bytes = Some(64 << 20);
    store.segment_bytes = 1 << 20;
    let engine = hicache_posix_uring::PreadEngine::open(Default::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = runtime.block_on(hicache_page_store::PageStore::open(store, vec![Arc::new(engine)])).unwrap();
    let mut engine = Engine::new(config(8, 24));
    let error = engine.controller.attach(Arc::clone(&store) as _).unwrap_err().to_string();
    assert!(error.contains("another model") && error.contains("tests"), "{error}");
    runtime.block_on(store.close()).unwrap();
}

#[test]
fn the_page_store_serves_every_layout() {
    for layout in Layout::ALL {
        let directory = tempfile::tempdir().unwrap();
        let mut store =
            hicache_page_store::PageStoreConfig::new([directory.path().to_owned()], Namespace::new("tests"));
        store.capacity_bytes = Some(64 << 20);
        store.segment_bytes = 1 << 20;
        let io = hicache_posix_uring::PreadEngine::open(Default::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let store = runtime.block_on(hicache_page_store::PageStore::open(store, vec![Arc::new(io)])).unwrap();
        let mut config = config(16, 40);
        (config.host_layout, config.write_policy) = (layout, WritePolicy::WriteThrough);
        let mut engine = Engine::new(config);
        engine.controller.attach(Arc::clone(&store) as _).unwrap();
        engine.serve(&[1, 2, 3, 4, 5, 6, 7]).unwrap();
        engine.rest();
        engine.controller.reset(LONG).unwrap();
        assert_eq!(engine.serve_from_storage("a", &[1, 2, 3, 4, 5, 6, 7, 8]), served(0, 0, 7, 1), "{layout}");
        engine.rest();
        drop(engine);
        runtime.block_on(store.close()).unwrap();
    }
}

#[test]
fn only_the_writer_of_ranks_that_hold_the_same_stores() {
    let storage = faulty();
    let mut config = config(8, 24);
    config.storage_writer = false;
    let mut engine = engine(config, &storage);
    engine.serve(&[1, 2, 3]).unwrap();
    engine.rest();
    assert_eq!(storage.stat().stored_pages, 0);
}
