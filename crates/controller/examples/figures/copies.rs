//! Copies of whole pages beside memcpy, and what of them a forward pass hides.

use std::hint::black_box;
use std::time::{Duration, Instant};

use hicache_controller::{LayerWait, Layout, PromptSpace};
use hicache_core::Result;

use crate::{LARGE, LONG, ROUNDS, controller, fill, prompt, say};

/// Writes and loads of 2 MiB pages against memcpy of as many bytes.
pub(crate) fn copies(layout: Layout) -> Result<()> {
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
pub(crate) fn hiding() -> Result<()> {
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
