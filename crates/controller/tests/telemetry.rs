//! Spans and figures: one span an operation, and every tier in what Prometheus reads. A file of its own, since the
//! subscriber is the process's.

mod fixture;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use fixture::{Engine, LONG, Served, config};
use hicache_core::{Direction, ErrorKind, MemoryStorage};
use hicache_testkit::{FaultPlan, FaultyStorage, StorageFault};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Counts the spans that were opened, by name.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<HashMap<&'static str, u64>>>, Arc<AtomicU64>);

impl Subscriber for Spans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span()
    }
    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        *self.0.lock().unwrap().entry(attributes.metadata().name()).or_default() += 1;
        Id::from_u64(self.1.fetch_add(1, Ordering::Relaxed) + 1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The value of a line of the figures.
fn figure(text: &str, name: &str) -> f64 {
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("no {name} in\n{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn every_operation_has_a_span_and_every_tier_its_figures() {
    let spans = Spans::default();
    tracing::subscriber::set_global_default(spans.clone()).unwrap();
    let storage = FaultyStorage::new(Arc::new(MemoryStorage::new()), FaultPlan::none());
    let mut engine = Engine::new(config(8, 24));
    engine.controller.attach(Arc::clone(&storage) as _).unwrap();
    engine.serve_from_storage("a", &[1, 2, 3]).unwrap();
    engine.rest();
    engine.controller.evict_device(2);
    engine.serve_from_storage("b", &[1, 2, 3]).unwrap();
    engine.rest();
    engine.controller.reset(LONG).unwrap();
    let got = engine.serve_from_storage("c", &[1, 2, 3, 4]).unwrap();
    assert_eq!(got, Served { storage: 3, computed: 1, ..Served::default() });
    engine.rest();
    storage.set_plan(FaultPlan::every(Direction::Write, StorageFault::Fail(ErrorKind::Io)));
    engine.serve(&[11]).unwrap();
    engine.rest();

    let counted = spans.0.lock().unwrap().clone();
    // Three writes: two prompts, and what was not on the device after the reset but computed.
    for (name, times) in [("write", 3), ("load", 2), ("storage-hits", 2), ("prefetch", 1), ("backup", 3)] {
        assert_eq!(counted.get(name), Some(&times), "{name}: {counted:?}");
    }
    let text = engine.controller.metrics().text().unwrap();
    let metric = |name: &str| figure(&text, &format!("hicache_controller_{name}"));
    assert_eq!(metric("hit_pages_total{tier=\"device\"}"), 1.0);
    assert_eq!(metric("hit_pages_total{tier=\"host\"}"), 2.0);
    assert_eq!(metric("hit_pages_total{tier=\"storage\"}"), 3.0);
    assert_eq!(metric("missed_pages_total{cause=\"not-stored\"}"), 4.0);
    assert_eq!(metric("computed_pages_total"), 5.0);
    assert_eq!(metric("prefetch_used_pages_total"), 3.0);
    for (operation, pages) in [("write", 5.0), ("load", 5.0), ("prefetch", 3.0), ("backup", 4.0)] {
        let of = |name: &str| metric(&format!("{name}{{operation=\"{operation}\"}}"));
        assert_eq!(of("moved_pages_total"), pages, "{operation}");
        assert_eq!(of("moved_bytes_total"), pages * fixture::SHAPE.page_bytes() as f64, "{operation}");
        assert!(of("operation_seconds_count") >= 1.0 && of("operation_seconds_sum") >= 0.0, "{operation}");
    }
    assert_eq!(metric("failed_pages_total{operation=\"backup\",cause=\"given-up\"}"), 1.0);
    assert_eq!(metric("evicted_pages_total{tier=\"device\"}"), 2.0);
    assert_eq!(metric("pool_pages{pool=\"host\",state=\"synced\"}"), 5.0);
    for queue in ["write", "load", "prefetch", "backup_pages"] {
        metric(&format!("queued{{queue=\"{queue}\"}}"));
    }
    assert!(text.ends_with("# EOF\n"));
}
