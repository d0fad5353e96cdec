//! Figures of the controller as ratios, each measured side by side with what it is compared with, in one run:
//!
//! ```text
//! cargo run --release --package hicache-controller --example figures
//! ```
//!
//! Medians of nine interleaved rounds. It prints, and judges nothing: a busy machine shows in the spread.

#![allow(clippy::print_stdout, reason = "it prints figures")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hicache_controller::{
    Attention, Controller, ControllerConfig, DevicePage, LayerWait, Layout, PageShape, PromptSpace, TokenId,
    Tree, WritePolicy,
};
use hicache_core::{Access, CpuDevice, MemoryStorage, Namespace, Result};

const ROUNDS: usize = 9;
const LONG: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    for layout in [Layout::PageFirstDirect, Layout::PageFirst, Layout::LayerFirst] {
        copies(layout)?;
    }
    hiding()?;
    overhead(Layout::LayerFirst, 32)?;
    overhead(Layout::PageFirstDirect, 32)?;
    radix(1);
    radix(16);
    Ok(())
}

/// Median, and the least and the most.
fn median(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}

fn say(what: &str, values: Vec<f64>, unit: &str) {
    let (middle, least, most) = median(values);
    println!("{what}: {middle:.3} {unit} ({least:.3} to {most:.3})");
}

/// Pages of 2 MiB: 32 layers, 64 tokens, 8 heads of 64 elements.
const LARGE: PageShape = PageShape {
    attention: Attention::Mha,
    page_tokens: 64,
    layers: 32,
    heads: 8,
    head_dim: 32,
    element_bytes: 2,
};

fn controller(shape: PageShape, layout: Layout, device_layout: Layout, pages: usize) -> Result<Controller> {
    let tokens = pages * shape.page_tokens;
    let mut config = ControllerConfig::new(shape, Namespace::new("figures"), tokens, 2 * tokens);
    (config.host_layout, config.device_layout) = (layout, device_layout);
    config.write_policy = WritePolicy::WriteThrough;
    config.prefetch_threshold_tokens = shape.page_tokens;
    Controller::new(config, CpuDevice::new())
}

fn prompt(first: u64, pages: usize, page_tokens: usize) -> Vec<TokenId> {
    (0..(pages * page_tokens) as u64).map(|i| first << 32 | i).collect()
}

/// Computes a prompt of pages that hold something, and waits until it is on the host.
fn fill(controller: &mut Controller, tokens: &[TokenId]) -> Result<()> {
    let request = controller.begin(PromptSpace::default(), tokens.to_vec());
    let pages = controller.allocate(tokens.len() / controller.config().shape.page_tokens)?;
    for page in &pages {
        for lease in &mut controller.device_pool().leases(*page, Access::Write)? {
            for plane in 0..lease.planes() {
                lease.plane_mut(plane)?.fill(1);
            }
        }
    }
    controller.finish(request, tokens, &pages)
}

/// Writes and loads of 2 MiB pages against memcpy of as many bytes.
fn copies(layout: Layout) -> Result<()> {
    const PAGES: usize = 64;
    let mut controller = controller(LARGE, layout, Layout::LayerFirst, PAGES)?;
    let bytes = LARGE.page_bytes();
    let (source, mut target) = (vec![1_u8; PAGES * bytes], vec![2_u8; PAGES * bytes]);
    let tokens = prompt(1, PAGES, LARGE.page_tokens);
    fill(&mut controller, &tokens)?;
    controller.drain(LONG);
    let (mut writes, mut loads) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        for (from, to) in source.chunks(bytes).zip(target.chunks_mut(bytes)) {
            to.copy_from_slice(black_box(from));
        }
        let memcpy = begun.elapsed().as_secs_f64();
        black_box(&target);
        controller.evict_device(PAGES);
        let mut request = controller.begin(PromptSpace::default(), tokens.clone());
        let begun = Instant::now();
        controller.load_back(&mut request)?;
        let gate = controller.start_loading();
        assert_eq!(gate.wait_all(LONG), LayerWait::Done);
        loads.push(memcpy / begun.elapsed().as_secs_f64());
        controller.wait_loaded(LONG);
        controller.cancel(request);
        // The host's copies go; the pages on the device are written again.
        controller.reset(LONG)?;
        fill(&mut controller, &tokens)?;
        controller.drain(LONG);
        controller.reset(LONG)?;
        let request = controller.begin(PromptSpace::default(), tokens.clone());
        let pages = controller.allocate(PAGES)?;
        let begun = Instant::now();
        controller.finish(request, &tokens, &pages)?;
        controller.drain(LONG);
        writes.push(memcpy / begun.elapsed().as_secs_f64());
    }
    say(&format!("write, layer_first to {layout}, 2 MiB pages, of memcpy"), writes, "times");
    say(&format!("load, {layout} to layer_first, 2 MiB pages, of memcpy"), loads, "times");
    Ok(())
}

/// A forward pass whose layers take as long as their copies: how much of the copies it hides.
fn hiding() -> Result<()> {
    const PAGES: usize = 128;
    let mut controller = controller(LARGE, Layout::PageFirstDirect, Layout::LayerFirst, PAGES)?;
    let tokens = prompt(1, PAGES, LARGE.page_tokens);
    fill(&mut controller, &tokens)?;
    controller.drain(LONG);
    let mut hidden = Vec::new();
    for _ in 0..ROUNDS {
        let mut times = [0.0; 2];
        let (mut layer, mut computing) = (Duration::ZERO, 0.0);
        for (round, time) in times.iter_mut().enumerate() {
            controller.evict_device(PAGES);
            let mut request = controller.begin(PromptSpace::default(), tokens.clone());
            controller.load_back(&mut request)?;
            let begun = Instant::now();
            let gate = controller.start_loading();
            if round == 0 {
                assert_eq!(gate.wait_all(LONG), LayerWait::Done);
                layer = begun.elapsed() / LARGE.layers as u32;
            } else {
                for number in 0..LARGE.layers {
                    assert_eq!(gate.wait(number, LONG), LayerWait::Done);
                    // A device computes; this thread has nothing to do.
                    let begun = Instant::now();
                    std::thread::sleep(layer);
                    computing += begun.elapsed().as_secs_f64();
                }
            }
            *time = begun.elapsed().as_secs_f64();
            controller.wait_loaded(LONG);
            controller.cancel(request);
        }
        let [copy, overlapped] = times;
        hidden.push((copy + computing - overlapped) / copy);
    }
    say("layer-wise load behind an equally long forward pass, of the copy hidden", hidden, "");
    Ok(())
}

fn cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// CPU of the same copies without a controller, in microseconds a page: the leases are there already.
fn bare(
    shape: &PageShape,
    from: Layout,
    to: Layout,
    by_layer: bool,
    pages: usize,
    batch: usize,
) -> Result<f64> {
    let device: Arc<dyn hicache_core::Device> = CpuDevice::new();
    let stream = device.stream("bare")?;
    let plan = Arc::new(if by_layer { shape.by_layer(from, to)? } else { shape.whole(from, to)? });
    let source = hicache_controller::HostPool::new(&device, shape, from, pages)?;
    let target = hicache_controller::HostPool::new(&device, shape, to, pages)?;
    let page = |i: usize| {
        let page = hicache_controller::HostPage::new(i as u32);
        let to = target.leases(page, Access::Write)?;
        Ok(hicache_core::PageCopy { from: source.leases(page, Access::Read)?, to })
    };
    let round = || {
        let mut batches = Vec::new();
        for first in (0..pages).step_by(batch) {
            let pages = (first..first + batch).map(page).collect::<Result<_>>()?;
            batches.push(hicache_core::CopyBatch { pages, plan: Arc::clone(&plan), step_done: None });
        }
        let begun = cpu();
        let done: Vec<_> = batches.into_iter().map(|batch| stream.copy(batch).wait()).collect();
        let time = cpu() - begun;
        drop(done);
        Ok(time * 1e6 / pages as f64)
    };
    round()?; // The memory is touched for the first time.
    round()
}

/// CPU of the whole process for each page that is written to the host, loaded and stored, less that of the same copies
/// alone and of hashing; pages are small, so that it shows.
fn overhead(device_layout: Layout, layers: usize) -> Result<()> {
    const PAGES: usize = 4096;
    const REQUEST: usize = 32;
    let shape = PageShape { layers, heads: 1, head_dim: 1, page_tokens: 1, ..LARGE };
    let shape = PageShape { page_tokens: 16, ..shape };
    let mut controller = controller(shape, Layout::PageFirstDirect, device_layout, PAGES)?;
    let (mut up, mut down, mut third) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS as u64 {
        let prompts: Vec<_> = (0..(PAGES / REQUEST) as u64)
            .map(|i| prompt(round << 16 | i, REQUEST, shape.page_tokens))
            .collect();
        let begun = cpu();
        for tokens in &prompts {
            let request = controller.begin(PromptSpace::default(), tokens.clone());
            let pages = controller.allocate(REQUEST)?;
            controller.finish(request, tokens, &pages)?;
        }
        controller.drain(LONG);
        let time = (cpu() - begun) * 1e6 / PAGES as f64;
        up.push(time - bare(&shape, device_layout, Layout::PageFirstDirect, false, PAGES, 1024)?);
        controller.evict_device(PAGES);
        let begun = cpu();
        for tokens in &prompts {
            let mut request = controller.begin(PromptSpace::default(), tokens.clone());
            controller.load_back(&mut request)?;
            controller.start_loading().wait_all(LONG);
            controller.wait_loaded(LONG);
            controller.cancel(request);
        }
        let time = (cpu() - begun) * 1e6 / PAGES as f64;
        down.push(time - bare(&shape, Layout::PageFirstDirect, device_layout, true, PAGES, REQUEST)?);
        // Stored, and brought back, by the reference storage: its copies count, hashing is taken off.
        controller.attach(Arc::new(MemoryStorage::new()))?;
        let begun = cpu();
        for tokens in &prompts {
            let request = controller.begin(PromptSpace::default(), tokens.clone());
            controller.finish(request, tokens, &[])?;
        }
        controller.drain(LONG);
        let stored = cpu() - begun;
        let begun = cpu();
        for tokens in &prompts {
            black_box(hicache_hashing::page_hashes(
                tokens,
                shape.page_tokens.try_into().unwrap_or(std::num::NonZeroUsize::MIN),
                None,
            ));
        }
        third.push((stored - (cpu() - begun)) * 1e6 / PAGES as f64);
        controller.reset(LONG)?;
        controller.detach()?;
    }
    println!(
        "CPU a page beyond copying and hashing, {layers} layers, {device_layout} on the device, requests of {REQUEST} pages:"
    );
    say("  device to host", up, "us");
    say("  host to device", down, "us");
    say("  host to storage, its copy included", third, "us");
    Ok(())
}

/// Matching 10,000-token prompts in a tree of a million nodes of `node_pages` pages on their paths.
fn radix(node_pages: usize) {
    const NODES: usize = 1_000_000;
    const PAGE: usize = 64;
    const PAGES: usize = 10_000 / PAGE;
    let mut tree = Tree::new(PAGE);
    let space = PromptSpace::default();
    let on_path = PAGES.div_ceil(node_pages);
    // Paths take at most a gigabyte; the rest of the nodes are short prompts.
    let paths = (NODES / on_path).min(6_400);
    let prompts: Vec<Vec<TokenId>> = (0..paths as u64).map(|path| prompt(path, PAGES, PAGE)).collect();
    let mut next = 0;
    for tokens in &prompts {
        for pages in (node_pages..PAGES + node_pages).step_by(node_pages) {
            let pages = pages.min(PAGES);
            let held = tree.find(&space, &tokens[..pages * PAGE]).device_pages;
            let new = (held.len()..pages).map(|_| {
                next += 1;
                DevicePage::new(next)
            });
            let all: Vec<_> = held.iter().copied().chain(new).collect();
            tree.insert(&space, &tokens[..pages * PAGE], &all);
        }
    }
    let mut filler = 1 << 20;
    while tree.nodes() < NODES {
        (filler, next) = (filler + 1, next + 1);
        tree.insert(&space, &prompt(filler, 1, PAGE), &[DevicePage::new(next)]);
    }
    // Where the tokens of one path lie side by side.
    let copies = prompts.clone();
    // One miss a node: a walk through memory that is larger than the caches, each step known from the one before.
    let steps = 1 << 24;
    let mut chain: Vec<u32> = vec![0; steps];
    let mut at = 0_usize;
    for step in 1..steps {
        let target = step * 7_368_787 % steps;
        chain[at] = target as u32;
        at = target;
    }
    let (mut ratios, mut microseconds) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let chosen: Vec<usize> = (0..300).map(|i| (i * 7919 + round * 104_729) % paths).collect();
        let begun = Instant::now();
        for &path in &chosen {
            assert_eq!(tree.find(&space, black_box(&prompts[path])).device_pages.len(), PAGES);
        }
        let matching = begun.elapsed().as_secs_f64();
        let others: Vec<usize> = (0..300).map(|i| (i * 7919 + round * 104_729 + paths / 2) % paths).collect();
        let begun = Instant::now();
        for &path in &others {
            assert!(black_box(&prompts[path]) == black_box(&copies[path]));
        }
        let comparing = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        for _ in 0..chosen.len() * on_path {
            at = chain[at] as usize;
        }
        black_box(at);
        let misses = begun.elapsed().as_secs_f64();
        ratios.push(matching / (comparing + misses));
        microseconds.push(matching * 1e6 / chosen.len() as f64);
    }
    println!("radix match, {} nodes, {on_path} on a path of {} tokens:", tree.nodes(), PAGES * PAGE);
    say("  a match", microseconds, "us");
    say("  of one memcmp and one cache miss a node", ratios, "times");
}
