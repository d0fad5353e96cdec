//! CPU of the controller itself, for each page and each direction.
//!
//! Device and storage answer and move nothing, so all CPU of the process is the controller's, but for hashing, which is
//! timed alone and taken off. Thousands of pages a round: what a round takes is hundreds of times what the clock can't
//! tell.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use hicache_controller::{Controller, LayerWait, Layout, PrefetchStatus, PromptSpace, TokenId};
use hicache_core::{OwnerId, Result};

use crate::nothing::{NoDevice, NoStorage};
use crate::{LARGE, LONG, ROUNDS, controller_over, prompt, say};

const PAGES: usize = 8192;

/// CPU of the whole process, in microseconds a page.
fn cpu_of(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let now = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    let begun = now();
    work()?;
    Ok((now() - begun) * 1e6 / PAGES as f64)
}

/// Requests of `request` pages of 64 tokens, with 32 layers, of which `flights` are in flight at once.
pub(crate) fn overhead(device: Layout, host: Layout, request: usize, flights: usize) -> Result<()> {
    let mut shape = LARGE;
    (shape.heads, shape.head_dim) = (1, 1); // Never touched, but it takes room.
    let mut controller = controller_over(Arc::new(NoDevice), shape, host, device, PAGES)?;
    let mut figures = [const { Vec::new() }; 5];
    for round in 0..ROUNDS as u64 {
        let prompts: Vec<_> = (0..(PAGES / request) as u64)
            .map(|i| prompt(round << 16 | i, request, shape.page_tokens))
            .collect();
        let times = round_trip(&mut controller, &prompts, flights)?;
        figures.iter_mut().zip(times).for_each(|(figure, time)| figure.push(time));
    }
    println!(
        "CPU a page, {device} on the device, {host} on the host, requests of {request} pages, {flights} at once:"
    );
    let names =
        ["device to host", "host to device", "host to storage", "storage to host", "(hashing, taken off)"];
    for (name, figure) in names.into_iter().zip(figures) {
        say(&format!("  {name}"), figure, "us");
    }
    Ok(())
}

/// Every page once in each direction.
fn round_trip(controller: &mut Controller, prompts: &[Vec<TokenId>], flights: usize) -> Result<[f64; 5]> {
    let page_tokens = controller.config().shape.page_tokens;
    let up = cpu_of(|| {
        for tokens in prompts {
            let request = controller.begin(PromptSpace::default(), tokens.clone());
            let pages = controller.allocate(tokens.len() / page_tokens)?;
            controller.finish(request, tokens, &pages)?;
        }
        controller.drain(LONG);
        Ok(())
    })?;
    controller.evict_device(PAGES);
    let down = cpu_of(|| {
        for some in prompts.chunks(flights) {
            let mut requests: Vec<_> =
                some.iter().map(|tokens| controller.begin(PromptSpace::default(), tokens.clone())).collect();
            for request in &mut requests {
                assert_eq!(controller.load_back(request)?, request.tokens().len() / page_tokens);
            }
            assert_eq!(controller.start_loading().wait_all(LONG), LayerWait::Done);
            controller.wait_loaded(LONG);
            requests.into_iter().for_each(|request| controller.cancel(request));
        }
        Ok(())
    })?;
    let hashing = cpu_of(|| {
        let page = NonZeroUsize::new(page_tokens).unwrap_or(NonZeroUsize::MIN);
        prompts.iter().for_each(|tokens| drop(black_box(hicache_hashing::page_hashes(tokens, page, None))));
        Ok(())
    })?;
    controller.attach(Arc::new(NoStorage(OwnerId::new())))?;
    let out = cpu_of(|| {
        for tokens in prompts {
            let request = controller.begin(PromptSpace::default(), tokens.clone());
            controller.finish(request, tokens, &[])?;
            while controller.backlog_pages() > PAGES / 4 {
                controller.wait(Duration::from_millis(1));
            }
        }
        controller.drain(LONG);
        Ok(())
    })?;
    controller.reset(LONG)?;
    let back = cpu_of(|| bring_back(controller, prompts, flights))?;
    controller.reset(LONG)?;
    controller.detach()?;
    Ok([up, down, out - hashing, back - hashing, hashing])
}

/// Prefetches every prompt.
fn bring_back(controller: &mut Controller, prompts: &[Vec<TokenId>], flights: usize) -> Result<()> {
    for some in prompts.chunks(flights) {
        let mut open = Vec::new();
        for tokens in some {
            let request = controller.begin(PromptSpace::default(), tokens.clone());
            let prefetch = controller.prefetch(&format!("{:?}", tokens.first()), &request);
            open.push((request, prefetch));
        }
        for (mut request, prefetch) in open {
            if let Some(id) = prefetch {
                while controller.check_prefetch(id) == PrefetchStatus::Pending {
                    controller.wait(LONG);
                }
            }
            controller.look_again(&mut request);
            let pages = request.tokens().len() / controller.config().shape.page_tokens;
            assert_eq!(request.matched().host_pages, pages);
            controller.cancel(request);
        }
    }
    Ok(())
}
