//! MLA: one compressed row a token and layer, one buffer a page, through all three tiers.

mod fixture;

use std::sync::Arc;

use fixture::{LONG, TOKENS, prompt};
use hicache_controller::{
    Attention, Controller, ControllerConfig, LayerWait, Layout, PageShape, PrefetchPolicy, PrefetchStatus,
    PromptSpace, WritePolicy,
};
use hicache_core::{Access, CpuDevice, MemoryStorage, Namespace, Storage};

const SHAPE: PageShape = PageShape {
    attention: Attention::Mla,
    page_tokens: TOKENS,
    layers: 5,
    heads: 1,
    head_dim: 36,
    element_bytes: 2,
};
const PAGES: usize = 6;

/// The byte at a place of a page: none is like its neighbours.
fn byte(page: usize, plane: usize, at: usize) -> u8 {
    (page * 97 + plane * 31 + at * 7 + at / 256) as u8
}

#[test]
fn every_byte_comes_back_from_the_host_and_from_storage() {
    for layout in [Layout::LayerFirst, Layout::PageFirst, Layout::PageFirstDirect] {
        let pool = 8 * TOKENS;
        let mut config = ControllerConfig::new(SHAPE, Namespace::new("mla"), pool, 3 * pool);
        (config.host_layout, config.write_policy) = (layout, WritePolicy::WriteThrough);
        config.prefetch_policy = PrefetchPolicy::WaitComplete;
        config.prefetch_threshold_tokens = 1;
        let storage = Arc::new(MemoryStorage::new());
        let mut controller = Controller::new(config, CpuDevice::poisoning()).unwrap();
        controller.attach(Arc::clone(&storage) as _).unwrap();
        assert_eq!(SHAPE.buffers(layout), if layout == Layout::LayerFirst { 5 } else { 1 });
        let tokens = prompt(&(1..=PAGES as u64).collect::<Vec<_>>());
        let request = controller.begin(PromptSpace::default(), tokens.clone());
        let pages = controller.allocate(PAGES).unwrap();
        for (number, page) in pages.iter().enumerate() {
            let mut lease = controller.device_pool().leases(*page, Access::Write).unwrap();
            for plane in 0..SHAPE.layers {
                let row = lease[0].plane_mut(plane).unwrap();
                row.iter_mut().enumerate().for_each(|(at, to)| *to = byte(number, plane, at));
            }
        }
        controller.finish(request, &tokens, &pages).unwrap();
        assert!(controller.drain(LONG));
        assert_eq!(storage.stat().pages, PAGES as u64);
        for from_storage in [false, true] {
            if from_storage {
                controller.reset(LONG).unwrap();
            } else {
                controller.evict_device(PAGES);
            }
            let mut request = controller.begin(PromptSpace::default(), tokens.clone());
            assert_eq!(request.matched().host_pages, if from_storage { 0 } else { PAGES });
            if let Some(id) = controller.prefetch("again", &request) {
                while controller.check_prefetch(id) == PrefetchStatus::Pending {
                    controller.wait(LONG);
                }
            }
            assert_eq!(controller.load_back(&mut request).unwrap(), PAGES, "{layout}");
            assert_eq!(controller.start_loading().wait_all(LONG), LayerWait::Done);
            assert!(controller.wait_loaded(LONG) && controller.is_whole(&request));
            for (number, page) in request.matched().device_pages.iter().enumerate() {
                let lease = controller.device_pool().leases(*page, Access::Read).unwrap();
                for plane in 0..SHAPE.layers {
                    let row = lease[0].plane(plane).unwrap();
                    let right = row.iter().enumerate().all(|(at, got)| *got == byte(number, plane, at));
                    assert!(right, "{layout}, page {number}, layer {plane}, from storage: {from_storage}");
                }
            }
            controller.cancel(request);
        }
        let account = controller.account().unwrap();
        assert_eq!((account.leaked_host_pages, account.held_device_pages), (0, 0));
    }
}
