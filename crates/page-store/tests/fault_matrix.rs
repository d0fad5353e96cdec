//! `docs/fault-matrix.md` is what the faults of `matrix` come to.

mod fixture;
mod matrix;

/// Alone in its program: one row lowers a limit of the process.
#[test]
fn the_document_is_what_is_seen() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/fault-matrix.md");
    let known = std::fs::read_to_string(path).unwrap_or_default();
    let seen = matrix::table(&known);
    for (known, seen) in known.lines().zip(seen.lines()).filter(|(known, seen)| known != seen) {
        fixture::say(&format!("documented: {known}\n      seen: {seen}"));
    }
    assert!(
        known == seen,
        "docs/fault-matrix.md says otherwise; if what is seen is what is wanted, write it anew with\n\
         cargo run --package hicache-page-store --example fault_matrix docs/fault-matrix.md\n\n{seen}"
    );
}
