//! The runs of every layout, done one by one, against what the CPU device does with the same plan.

use std::sync::Arc;

use hicache_controller::{Attention, Layout, PageShape};
use hicache_core::{Access, CopyBatch, CopyPlan, CpuDevice, Device, PageCopy, PageLeases, Region};

use super::runs::runs_of;
use crate::cuda::RawCopy;

const MHA: PageShape = PageShape {
    attention: Attention::Mha,
    page_tokens: 4,
    layers: 3,
    heads: 2,
    head_dim: 5,
    element_bytes: 2,
};
const SLOTS: usize = 2;

/// One region, with a plane for each buffer of a page.
fn region(shape: &PageShape, layout: Layout) -> Arc<Region> {
    Region::allocate_planes(shape.buffers(layout), SLOTS, shape.buffer_bytes(layout)).unwrap()
}

/// Fills a slot with bytes that differ from plane to plane, slot to slot and byte to byte.
fn fill(region: &Arc<Region>, slot: usize, bytes: usize, seed: u64) {
    let mut lease = region.lease(slot, 0, bytes, Access::Write).unwrap();
    for plane in 0..region.planes() {
        let start = seed + ((slot * region.planes() + plane) * bytes) as u64;
        for (i, byte) in lease.plane_mut(plane).unwrap().iter_mut().enumerate() {
            *byte = ((start + i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
        }
    }
}

fn content(region: &Arc<Region>, slot: usize, bytes: usize) -> Vec<Vec<u8>> {
    let lease = region.lease(slot, 0, bytes, Access::Read).unwrap();
    (0..region.planes()).map(|plane| lease.plane(plane).unwrap().to_vec()).collect()
}

fn pages(from: &Arc<Region>, to: &Arc<Region>, from_bytes: usize, to_bytes: usize) -> Vec<PageCopy> {
    // Crossed, so that slots that are mixed up are found out.
    (0..SLOTS)
        .map(|slot| PageCopy {
            from: PageLeases::from_iter([from.lease(slot, 0, from_bytes, Access::Read).unwrap()]),
            to: PageLeases::from_iter([to.lease(SLOTS - 1 - slot, 0, to_bytes, Access::Write).unwrap()]),
        })
        .collect()
}

/// What a GPU's copy engines do with the runs.
fn copy_all(copies: &[RawCopy]) {
    for copy in copies {
        let (from, to) = (copy.from as usize as *const u8, copy.to as usize as *mut u8);
        // SAFETY: the caller holds the leases of both pages, whose regions are host memory.
        unsafe { std::ptr::copy_nonoverlapping(from, to, copy.bytes) };
    }
}

fn compare(shape: &PageShape, from: Layout, to: Layout, plan: CopyPlan) -> usize {
    let (from_bytes, to_bytes) = (shape.buffer_bytes(from), shape.buffer_bytes(to));
    let source = region(shape, from);
    let (by_runs, by_cpu) = (region(shape, to), region(shape, to));
    for slot in 0..SLOTS {
        fill(&source, slot, from_bytes, 1);
        fill(&by_runs, slot, to_bytes, 77);
        fill(&by_cpu, slot, to_bytes, 77);
    }
    let plan = Arc::new(plan);
    let mut most = 0;
    let own = pages(&source, &by_runs, from_bytes, to_bytes);
    for step in plan.steps() {
        let mut copies = Vec::new();
        for page in &own {
            page.check(&plan).unwrap();
            runs_of(page, step, &mut copies).unwrap();
        }
        most = most.max(copies.len());
        copy_all(&copies);
    }
    drop(own);
    let batch = CopyBatch { pages: pages(&source, &by_cpu, from_bytes, to_bytes), plan, step_done: None };
    let done = CpuDevice::new().stream("test").unwrap().copy(batch).wait();
    assert!(done.outcomes.iter().all(Result::is_ok));
    drop(done);
    for slot in 0..SLOTS {
        assert_eq!(
            content(&by_runs, slot, to_bytes),
            content(&by_cpu, slot, to_bytes),
            "{from} to {to}, slot {slot}"
        );
    }
    most
}

#[test]
fn every_layout_becomes_every_other() {
    let mla = PageShape { attention: Attention::Mla, heads: 1, ..MHA };
    for shape in [MHA, mla] {
        for from in Layout::ALL {
            for to in Layout::ALL {
                let has_page_head = from == Layout::PageHead || to == Layout::PageHead;
                if shape.attention == Attention::Mla && has_page_head {
                    continue;
                }
                compare(&shape, from, to, shape.whole(from, to).unwrap());
                compare(&shape, from, to, shape.by_layer(from, to).unwrap());
            }
        }
    }
}

/// Contiguous layers are one run a buffer and page, whatever the plan says of tokens and heads.
#[test]
fn neighbours_are_one_run() {
    let (from, to) = (Layout::PageFirstDirect, Layout::LayerFirst);
    let runs = compare(&MHA, from, to, MHA.by_layer(from, to).unwrap());
    assert_eq!(runs, 2 * SLOTS, "keys and values of each page");
}
