//! Page copies of every layout, on the device, against the same copies on the CPU.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hicache_controller::{Attention, Layout, PageShape};
use hicache_core::{
    Access, CopyBatch, CopyPlan, CpuDevice, Device, Error, ErrorKind, PageCopy, PageLeases, Region, Result,
};
use hicache_gds::{Context, CudaDevice};

const SLOTS: usize = 3;

/// Memory of one side, a plane for each buffer of a page.
fn region(device: &dyn Device, host: bool, shape: &PageShape, layout: Layout) -> Result<Arc<Region>> {
    let (planes, bytes) = (shape.buffers(layout), shape.buffer_bytes(layout));
    if host { device.allocate_host(planes, SLOTS, bytes) } else { device.allocate(planes, SLOTS, bytes) }
}

fn fill(region: &Arc<Region>, bytes: usize, seed: u64) -> Result<()> {
    for slot in 0..SLOTS {
        let mut lease = region.lease(slot, 0, bytes, Access::Write)?;
        for plane in 0..region.planes() {
            let start = seed + ((slot * region.planes() + plane) * bytes) as u64;
            for (i, byte) in lease.plane_mut(plane)?.iter_mut().enumerate() {
                *byte = ((start + i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
            }
        }
    }
    Ok(())
}

/// All slots, from one region to another; slot `i` goes to the one that `crossed` says.
fn copy(
    device: &dyn Device,
    from: &Arc<Region>,
    to: &Arc<Region>,
    plan: &Arc<CopyPlan>,
    lengths: [usize; 2],
) -> Result<()> {
    let pages = (0..SLOTS)
        .map(|slot| {
            Ok(PageCopy {
                from: PageLeases::from_iter([from.lease(slot, 0, lengths[0], Access::Read)?]),
                to: PageLeases::from_iter([to.lease((slot + 1) % SLOTS, 0, lengths[1], Access::Write)?]),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let (steps, out_of_order) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(None)));
    let (seen, wrong) = (Arc::clone(&steps), Arc::clone(&out_of_order));
    let hook = move |number: usize, whole: bool| {
        let expected = seen.fetch_add(1, Ordering::SeqCst);
        if number != expected || !whole {
            *wrong.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some((number, whole));
        }
    };
    let batch = CopyBatch { pages, plan: Arc::clone(plan), step_done: Some(Arc::new(hook)) };
    let done = device.stream("copies")?.copy(batch).wait();
    done.outcomes.into_iter().collect::<Result<Vec<()>>>()?;
    let wrong = out_of_order.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    if wrong.is_some() || steps.load(Ordering::SeqCst) != plan.steps().len() {
        let message = format!("steps were told in another order: {wrong:?}");
        return Err(Error::new(ErrorKind::Unexpected, message));
    }
    Ok(())
}

fn same(one: &Arc<Region>, other: &Arc<Region>, bytes: usize) -> Result<bool> {
    for slot in 0..SLOTS {
        let (a, b) = (one.lease(slot, 0, bytes, Access::Read)?, other.lease(slot, 0, bytes, Access::Read)?);
        for plane in 0..one.planes() {
            if a.plane(plane)? != b.plane(plane)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Host, in one layout, to the device in another, and back to the host in the first; against the CPU.
fn there_and_back(
    gpu: &CudaDevice,
    shape: &PageShape,
    host: Layout,
    device: Layout,
    by_layer: bool,
) -> Result<bool> {
    let plan = |from, to| if by_layer { shape.by_layer(from, to) } else { shape.whole(from, to) };
    let (there, back) = (Arc::new(plan(host, device)?), Arc::new(plan(device, host)?));
    let (h, d) = (shape.buffer_bytes(host), shape.buffer_bytes(device));
    let cpu = CpuDevice::new();
    let source = region(gpu, true, shape, host)?;
    fill(&source, h, 1)?;
    let mut results = Vec::new();
    for on in [gpu as &dyn Device, &*cpu] {
        let (middle, result) = (region(on, false, shape, device)?, region(on, true, shape, host)?);
        fill(&result, h, 99)?;
        copy(on, &source, &middle, &there, [h, d])?;
        copy(on, &middle, &result, &back, [d, h])?;
        results.push(result);
    }
    same(&results[0], &results[1], h)
}

pub(crate) fn run(context: &Arc<Context>) -> Result<bool> {
    let gpu = CudaDevice::new(Arc::clone(context));
    let mha = PageShape {
        attention: Attention::Mha,
        page_tokens: 16,
        layers: 4,
        heads: 8,
        head_dim: 128,
        element_bytes: 2,
    };
    let mla = PageShape { attention: Attention::Mla, heads: 1, head_dim: 576, ..mha };
    let (mut compared, mut good) = (0, true);
    for shape in [mha, mla] {
        for host in Layout::ALL {
            for device in Layout::ALL {
                let has_page_head = host == Layout::PageHead || device == Layout::PageHead;
                if shape.attention == Attention::Mla && has_page_head {
                    continue;
                }
                for by_layer in [false, true] {
                    let held = there_and_back(&gpu, &shape, host, device, by_layer)?;
                    if !held {
                        println!(
                            "WRONG  {:?}, host {host}, device {device}, by layer {by_layer}",
                            shape.attention
                        );
                    }
                    (compared, good) = (compared + 1, good && held);
                }
            }
        }
    }
    println!(
        "copies: {compared} pairs of layouts compared with the CPU's{}",
        if good { "" } else { "; some differ" }
    );
    match gpu.short_copies() {
        (launches, None) => println!("short copies: by the kernel: {launches} launches"),
        (_, Some(reason)) => println!("short copies: by the copy engines ({reason})"),
    }
    Ok(good)
}
