//! Figures of the controller, each measured side by side with what it is compared with, in one run:
//!
//! ```text
//! cargo run --release --package hicache-controller --example figures [copies] [hiding] [overhead] [radix]
//! ```
//!
//! Medians of nine interleaved rounds, with the least and the most. It prints, and judges nothing: a busy machine shows
//! in the spread.

#![allow(clippy::print_stdout, reason = "it prints figures")]

mod copies;
mod nothing;
mod overhead;
mod radix;

use std::sync::Arc;
use std::time::Duration;

use hicache_controller::{
    Attention, Controller, ControllerConfig, Layout, PageShape, PrefetchPolicy, PromptSpace, TokenId,
    WritePolicy,
};
use hicache_core::{Access, CpuDevice, Device, Namespace, Result};

const ROUNDS: usize = 9;
const LONG: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name);
    if wants("copies") {
        for layout in [Layout::PageFirstDirect, Layout::PageFirst, Layout::LayerFirst] {
            copies::copies(layout)?;
        }
    }
    if wants("hiding") {
        copies::hiding()?;
    }
    if wants("overhead") {
        for host in [Layout::PageFirst, Layout::PageFirstDirect] {
            overhead::overhead(Layout::LayerFirst, host, 32, 8)?;
        }
        // Where an operation costs more than its pages.
        overhead::overhead(Layout::LayerFirst, Layout::PageFirst, 32, 1)?;
        overhead::overhead(Layout::LayerFirst, Layout::PageFirst, 4, 8)?;
    }
    if wants("radix") {
        radix::radix(1);
        radix::radix(16);
    }
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

/// Over host memory as the device.
fn controller(shape: PageShape, layout: Layout, device_layout: Layout, pages: usize) -> Result<Controller> {
    controller_over(CpuDevice::new(), shape, layout, device_layout, pages)
}

fn controller_over(
    device: Arc<dyn Device>,
    shape: PageShape,
    layout: Layout,
    device_layout: Layout,
    pages: usize,
) -> Result<Controller> {
    let tokens = pages * shape.page_tokens;
    let mut config = ControllerConfig::new(shape, Namespace::new("figures"), tokens, 2 * tokens);
    (config.host_layout, config.device_layout) = (layout, device_layout);
    config.write_policy = WritePolicy::WriteThrough;
    config.prefetch_threshold_tokens = shape.page_tokens;
    config.prefetch_policy = PrefetchPolicy::WaitComplete;
    Controller::new(config, device)
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
