//! Device and host: what was computed is found again, byte for byte, also when it had to leave the device.

mod fixture;

use std::time::{Duration, Instant};

use fixture::{Engine, LONG, SHAPE, Served, config, prompt};
use hicache_controller::{
    HostState, IoBackend, LayerWait, Layout, Operation, PageShape, PromptSpace, WritePolicy,
};
use hicache_core::{DeviceFault, ErrorKind};

fn served(device: usize, host: usize, computed: usize) -> Option<Served> {
    Some(Served { device, host, storage: 0, computed })
}

#[test]
fn what_left_the_device_comes_back_from_the_host_in_every_layout() {
    for layout in Layout::ALL {
        for policy in [WritePolicy::WriteThrough, WritePolicy::WriteBack] {
            let mut config = config(8, 24);
            (config.host_layout, config.write_policy) = (layout, policy);
            let mut engine = Engine::new(config);
            assert_eq!(engine.serve(&[1, 2, 3, 4, 5, 6]), served(0, 0, 6), "{layout}");
            engine.controller.drain(LONG);
            assert_eq!(engine.serve(&[1, 2, 3, 4, 5, 6, 7]), served(6, 0, 1));
            engine.controller.drain(LONG);
            // Another prompt takes all of the device but one page.
            assert_eq!(engine.serve(&[11, 12, 13, 14, 15, 16, 17]), served(0, 0, 7));
            engine.controller.drain(LONG);
            assert_eq!(engine.serve(&[1, 2, 3, 4, 5, 6, 7]), served(1, 6, 0));
            engine.controller.drain(LONG);
            assert_eq!(engine.serve(&[1, 2, 30]), served(2, 0, 1));
            engine.rest();
        }
    }
}

#[test]
fn prompts_of_other_spaces_share_nothing() {
    let mut engine = Engine::new(config(8, 24));
    engine.serve(&[1, 2]).unwrap();
    let lora = PromptSpace { extra_key: Some("lora".into()), salt: None };
    let request = engine.controller.begin(lora, prompt(&[1, 2]));
    assert!(request.matched().device_pages.is_empty());
    engine.controller.cancel(request);
    engine.rest();
}

#[test]
fn selective_writes_wait_for_the_second_use_and_what_was_not_written_is_gone() {
    let mut config = config(4, 24);
    config.write_policy = WritePolicy::WriteThroughSelective;
    let mut engine = Engine::new(config);
    engine.serve(&[1, 2]).unwrap();
    assert_eq!(engine.rest().tree.host_pages, 0);
    engine.serve(&[1, 2, 3]).unwrap();
    assert_eq!(engine.rest().tree.host_pages, 2, "the new page was used once");
    engine.serve(&[11, 12, 13, 14]).unwrap();
    assert_eq!(engine.serve(&[1, 2, 3]), served(0, 2, 1));
    engine.rest();
}

#[test]
fn what_is_used_is_not_evicted() {
    let mut engine = Engine::new(config(4, 8));
    engine.serve(&[1, 2, 3]).unwrap();
    engine.controller.drain(LONG);
    let request = engine.controller.begin(PromptSpace::default(), prompt(&[1, 2, 3]));
    assert_eq!(request.matched().device_pages.len(), 3);
    assert!(engine.serve(&[11, 12]).is_none(), "there is room for one page only");
    assert_eq!(engine.controller.allocate(2).unwrap_err().kind(), ErrorKind::NoSpace);
    assert!(engine.controller.is_whole(&request));
    for (page, key) in request.matched().device_pages.iter().zip(fixture::keys(&prompt(&[1, 2, 3]))) {
        engine.check(*page, &key);
    }
    engine.controller.cancel(request);
    assert_eq!(engine.serve(&[11, 12]), served(0, 0, 2));
    engine.rest();
}

#[test]
fn what_a_failed_load_left_is_not_found_by_others_and_goes_with_the_last_user() {
    let mut engine = Engine::new(config(8, 16));
    engine.serve(&[1, 2, 3]).unwrap();
    engine.controller.drain(LONG);
    engine.controller.evict_device(8);
    let begin = |engine: &mut Engine| engine.controller.begin(PromptSpace::default(), prompt(&[1, 2, 3]));
    engine.device.set_faults(|_| Some(DeviceFault::Fail));
    let mut first = begin(&mut engine);
    engine.controller.load_back(&mut first).unwrap();
    let second = begin(&mut engine);
    assert_eq!(second.matched().device_pages.len(), 3, "on their way");
    assert_eq!(engine.controller.start_loading().wait_all(LONG), LayerWait::Failed);
    assert!(engine.controller.wait_loaded(LONG));
    engine.account();
    assert!(!engine.controller.is_whole(&first) && !engine.controller.is_whole(&second));
    let third = begin(&mut engine);
    assert_eq!((third.matched().device_pages.len(), third.matched().host_pages), (0, 0));
    engine.controller.cancel(first);
    engine.account();
    engine.controller.cancel(second);
    engine.controller.cancel(third);
    engine.device.clear_faults();
    assert_eq!(engine.serve(&[1, 2, 3]), served(0, 3, 0));
    engine.rest();
}

#[test]
fn loads_that_are_lost_do_not_stop_later_ones() {
    let mut config = config(16, 32);
    config.device_timeout_ms = 30;
    let mut engine = Engine::new(config);
    for first in [1, 11, 21, 31] {
        engine.serve(&[first, first + 1]).unwrap();
    }
    engine.rest();
    engine.controller.evict_device(16);
    engine.device.set_faults(|operation| (operation.number < 3).then_some(DeviceFault::Swallowed));
    for first in [1, 11, 21, 31] {
        let mut request = engine.controller.begin(PromptSpace::default(), prompt(&[first, first + 1]));
        engine.controller.load_back(&mut request).unwrap();
        drop(engine.controller.start_loading());
        assert!(engine.controller.drain(LONG), "the load of {first} waits for lost ones");
        assert_eq!(engine.controller.is_whole(&request), first == 31);
        engine.controller.cancel(request);
    }
    engine.device.release_lost();
    engine.controller.poll();
    engine.rest();
}

#[test]
fn the_host_forgets_what_was_used_longest_ago_and_keeps_heads_over_tails() {
    let mut engine = Engine::new(config(4, 8));
    for names in [[1, 2, 3, 4], [11, 12, 13, 14], [21, 22, 23, 24]] {
        engine.serve(&names).unwrap();
        engine.controller.drain(LONG);
    }
    assert_eq!(engine.serve(&[11, 12, 13, 14]), served(0, 4, 0));
    engine.controller.drain(LONG);
    // Two pages more than fit: of the oldest prompt the tail goes.
    assert_eq!(engine.serve(&[21, 22, 31, 32]), served(0, 2, 2));
    engine.controller.drain(LONG);
    assert_eq!(engine.serve(&[21, 22, 23, 24]), served(2, 0, 2));
    assert_eq!(engine.rest().host.of(HostState::Free), 0);
}

#[test]
fn a_forward_pass_waits_layer_by_layer() {
    let mut engine = Engine::new(config(4, 8));
    engine.serve(&[1, 2, 3]).unwrap();
    engine.controller.drain(LONG);
    engine.controller.evict_device(4);
    let delay = Duration::from_millis(40);
    engine.device.set_faults(move |_| Some(DeviceFault::LateSteps(delay)));
    let mut request = engine.controller.begin(PromptSpace::default(), prompt(&[1, 2, 3]));
    assert_eq!(engine.controller.load_back(&mut request).unwrap(), 3);
    let gate = engine.controller.start_loading();
    assert_eq!(gate.wait(0, Duration::from_millis(1)), LayerWait::TimedOut);
    assert_eq!(gate.wait(0, LONG), LayerWait::Done);
    assert_eq!(gate.wait(2, Duration::from_millis(1)), LayerWait::TimedOut, "the last layer takes longer");
    assert_eq!(gate.wait(2, LONG), LayerWait::Done);
    engine.controller.cancel(request);
    engine.rest();
    let loads = |ack: &&hicache_controller::Acknowledged| ack.operation == Operation::Load;
    let acknowledged = engine.controller.take_acknowledged();
    assert_eq!(acknowledged.iter().filter(loads).map(|ack| ack.pages).collect::<Vec<_>>(), [(3, 3)]);
}

#[test]
fn a_load_that_fails_is_told_and_what_was_whole_stays() {
    for fault in [DeviceFault::FailPage { page: 2, step: 1 }, DeviceFault::Fail, DeviceFault::NeverSubmitted]
    {
        let mut engine = Engine::new(config(8, 16));
        engine.serve(&[1, 2, 3, 4]).unwrap();
        engine.controller.drain(LONG);
        engine.controller.evict_device(8);
        engine.device.set_faults(move |operation| (operation.stream == "hicache-load").then_some(fault));
        let mut request = engine.controller.begin(PromptSpace::default(), prompt(&[1, 2, 3, 4]));
        engine.controller.load_back(&mut request).unwrap();
        assert_eq!(engine.controller.start_loading().wait_all(LONG), LayerWait::Failed);
        assert!(engine.controller.drain(LONG));
        engine.account();
        engine.controller.cancel(request);
        let whole = if matches!(fault, DeviceFault::FailPage { .. }) { 2 } else { 0 };
        assert_eq!(engine.rest().tree.device_pages, whole, "{fault:?}");
        engine.device.clear_faults();
        assert_eq!(engine.serve(&[1, 2, 3, 4]), served(whole, 4 - whole, 0));
        engine.rest();
    }
}

#[test]
fn a_write_that_fails_keeps_the_pages_before_it() {
    let mut engine = Engine::new(config(8, 16));
    engine.device.set_faults(|_| Some(DeviceFault::FailPage { page: 2, step: 0 }));
    engine.serve(&[1, 2, 3, 4]).unwrap();
    assert_eq!(engine.rest().tree.host_pages, 2);
    let told: Vec<_> =
        engine.controller.take_acknowledged().iter().map(|ack| (ack.operation, ack.pages)).collect();
    assert_eq!(told, [(Operation::Write, (4, 2))]);
    engine.device.clear_faults();
    // The next use tries the rest again.
    engine.serve(&[1, 2, 3, 4]).unwrap();
    assert_eq!(engine.rest().tree.host_pages, 4);
}

#[test]
fn copies_that_are_lost_cost_time_and_no_page() {
    let mut config = config(8, 16);
    config.device_timeout_ms = 50;
    let mut engine = Engine::new(config);
    engine.device.set_faults(|operation| (operation.number == 0).then_some(DeviceFault::Swallowed));
    engine.serve(&[1, 2, 3]).unwrap();
    assert!(engine.controller.drain(LONG));
    let account = engine.account();
    assert_eq!((account.abandoned_pages, account.tree.host_pages), (3, 0));
    // The device pages are still being read, as far as anybody knows: they are not given to anybody else.
    engine.controller.evict_device(8);
    assert_eq!(engine.account().abandoned_pages, 6);
    engine.serve(&[11, 12, 13]).unwrap();
    engine.device.release_lost();
    engine.controller.poll();
    engine.rest();
}

#[test]
fn many_writes_are_merged_and_cut() {
    let mut config = config(32, 64);
    (config.write_batch_pages, config.write_buffers) = (4, 1);
    let mut engine = Engine::new(config);
    let (counted, batches) = std::sync::mpsc::channel();
    engine.device.set_faults(move |operation| {
        counted.send(operation.pages).unwrap();
        Some(DeviceFault::LateStart(Duration::from_millis(5)))
    });
    for first in 1..=5 {
        engine.serve(&[first * 10, first * 10 + 1, first * 10 + 2]).unwrap();
    }
    engine.rest();
    let batches: Vec<usize> = batches.try_iter().collect();
    assert_eq!(batches.iter().sum::<usize>(), 15);
    assert!(batches.iter().all(|&pages| pages <= 4) && batches.len() < 7, "{batches:?}");
}

#[test]
fn write_back_makes_room_without_blocking_within_a_bound_and_evicts_no_more_than_needed() {
    let mut config = config(8, 24);
    (config.write_policy, config.device_timeout_ms) = (WritePolicy::WriteBack, 600);
    let mut engine = Engine::new(config);
    engine.serve(&[1, 2, 3, 4]).unwrap();
    engine.serve(&[11, 12, 13, 14]).unwrap();
    let delay = Duration::from_millis(250);
    engine.device.set_faults(move |_| Some(DeviceFault::LateStart(delay)));
    let begun = Instant::now();
    for _ in 0..5 {
        let error = engine.controller.try_allocate(2).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        engine.controller.poll();
    }
    assert!(begun.elapsed() < delay / 2, "{:?}", begun.elapsed());
    let pages = engine.controller.allocate(2).unwrap();
    let account = engine.account();
    assert_eq!((account.tree.device_pages, account.tree.host_pages), (6, 2), "only what was needed");
    engine.controller.give_back(&pages).unwrap();
    // Copies that are never answered: it waits for as long as the device may take, and no longer.
    engine.device.set_faults(|_| Some(DeviceFault::Swallowed));
    let begun = Instant::now();
    assert!(engine.controller.allocate(8).is_err());
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    assert_eq!(engine.controller.allocate(9).unwrap_err().kind(), ErrorKind::NoSpace);
    engine.device.clear_faults();
    assert!(engine.controller.drain(LONG));
    engine.device.release_lost();
    engine.controller.poll();
    engine.rest();
}

#[test]
fn what_a_request_ends_with_must_be_its_own() {
    let mut engine = Engine::new(config(8, 16));
    engine.serve(&[1, 2]).unwrap();
    engine.controller.drain(LONG);
    // Other tokens for the pages that were matched.
    let request = engine.controller.begin(PromptSpace::default(), prompt(&[1, 2]));
    let error = engine.controller.finish(request, &prompt(&[1, 9]), &[]).unwrap_err().to_string();
    assert!(error.contains("first 8 tokens"), "{error}");
    // One page for two.
    let page = engine.controller.allocate(1).unwrap()[0];
    let request = engine.controller.begin(PromptSpace::default(), prompt(&[3, 4]));
    let error = engine.controller.finish(request, &prompt(&[3, 4]), &[page, page]).unwrap_err().to_string();
    assert!(error.contains("given twice"), "{error}");
    assert_eq!(engine.account().held_device_pages, 1, "still the caller's");
    engine.controller.give_back(&[page]).unwrap();
    assert_eq!(engine.serve(&[1, 2]), served(2, 0, 0));
    engine.rest();
    // A request of another controller.
    let mut other = Engine::new(config(8, 16));
    let mut request = engine.controller.begin(PromptSpace::default(), prompt(&[1, 2]));
    assert_eq!(other.controller.load_back(&mut request).unwrap_err().kind(), ErrorKind::Config);
    assert!(other.controller.prefetch("a", &request).is_none() && !other.controller.is_whole(&request));
    other.controller.look_again(&mut request);
    assert_eq!(request.matched().device_pages.len(), 2);
    engine.controller.cancel(request);
    let request = engine.controller.begin(PromptSpace::default(), prompt(&[1, 2]));
    assert!(other.controller.finish(request, &prompt(&[1, 2]), &[]).is_err());
    other.rest();
}

#[test]
fn spaces_that_users_make_up_leave_nothing_behind() {
    let mut engine = Engine::new(config(8, 16));
    engine.serve(&[1, 2]).unwrap();
    for user in 0..100 {
        let space = PromptSpace { extra_key: None, salt: Some(format!("user {user}")) };
        let request = engine.controller.begin(space, prompt(&[1, 2]));
        if user % 2 == 0 {
            engine.controller.cancel(request);
        } else {
            let pages = engine.controller.allocate(2).unwrap();
            engine.controller.finish(request, &prompt(&[1, 2]), &pages).unwrap();
            engine.controller.drain(LONG);
        }
    }
    let nodes = engine.rest().tree.nodes;
    assert!(engine.controller.tree().spaces() <= nodes, "{nodes} nodes");
    engine.controller.evict_device(8);
    engine.controller.evict_host(16);
    assert_eq!((engine.rest().tree.nodes, engine.controller.tree().spaces()), (0, 0));
}

#[test]
fn bad_input_is_refused_with_what_would_be_right() {
    type Change = fn(&mut hicache_controller::ControllerConfig);
    let cases: [(Change, &str); 8] = [
        (|c| c.shape.page_tokens = 0, "page_tokens is 0"),
        (|c| c.device_tokens = 30, "device_tokens is 30; it must be a multiple of page_tokens, 4"),
        (|c| c.host_tokens = 0, "host_tokens is 0"),
        (|c| c.host_tokens = c.device_tokens, "it must be larger"),
        (|c| c.io_backend = IoBackend::Direct, "page_first_direct"),
        (|c| c.shape = PageShape { attention: hicache_controller::Attention::Mla, ..SHAPE }, "pages of MLA"),
        (|c| c.namespace.layout = Some("layer_first".into()), "namespace.layout"),
        (|c| c.storage_timeout_ms = 0, "storage_timeout_ms is 0"),
    ];
    for (change, words) in cases {
        let mut config = config(8, 16);
        change(&mut config);
        let error = config.validate().unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    for (error, valid) in [
        ("sometimes".parse::<WritePolicy>().unwrap_err(), "write_through_selective"),
        ("rdma".parse::<IoBackend>().unwrap_err(), "kernel, direct"),
        ("never".parse::<hicache_controller::PrefetchPolicy>().unwrap_err(), "wait_complete"),
        ("x".parse::<Layout>().unwrap_err(), "page_head"),
    ] {
        assert!(error.to_string().contains(valid), "{error}");
    }
    let mut engine = Engine::new(config(8, 16));
    let outside = hicache_controller::DevicePage::new(8);
    assert!(engine.controller.give_back(&[outside]).unwrap_err().to_string().contains("has 8 pages"));
    let page = engine.controller.allocate(1).unwrap();
    engine.controller.give_back(&page).unwrap();
    assert!(engine.controller.give_back(&page).unwrap_err().to_string().contains("free and can't be freed"));
    let request = engine.controller.begin(PromptSpace::default(), prompt(&[1]));
    assert!(engine.controller.finish(request, &prompt(&[1]), &page).is_err());
    engine.rest();
}
