//! Matching long prompts in a large tree, beside one memcmp and one cache miss a node.

use std::hint::black_box;
use std::time::Instant;

use hicache_controller::{DevicePage, PromptSpace, TokenId, Tree};

use crate::{ROUNDS, prompt, say};

/// Matching 10,000-token prompts in a tree of a million nodes of `node_pages` pages on their paths.
pub(crate) fn radix(node_pages: usize) {
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
