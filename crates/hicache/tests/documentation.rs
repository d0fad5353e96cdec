//! docs/configuration.md is what the table of fields says.

#[test]
fn the_configuration_page_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let page = std::fs::read_to_string(path).unwrap();
    assert!(
        page == hicache::config::docs(),
        "docs/configuration.md is not current; write it anew:\n\
         cargo run --package hicache --example configuration_docs > docs/configuration.md"
    );
}
