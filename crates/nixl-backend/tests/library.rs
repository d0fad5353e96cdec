//! The library itself: what it exports, what it lists, and how it refuses.

mod fixture;

use fixture::*;
use hicache_core::{Engine, ErrorKind};
use hicache_nixl_backend::{Agent, MemoryType, NixlEngine, NixlEngineConfig};

#[test]
fn it_is_found_and_complete() {
    let Some(library) = library() else { return };
    // The pinned wheel is 1.5.1; every function of the table was there, or it would not have been opened.
    assert!(library.is_since_1_5_0());
    if let Some(path) = library.path() {
        assert!(path.starts_with(site_packages()), "{path:?}");
    }
}

#[test]
fn plugins_and_their_parameters() {
    let Some(library) = library() else { return };
    let agent = Agent::new(&library, "test").unwrap();
    let plugins = agent.plugins().unwrap();
    assert!(plugins.contains(&"POSIX".to_owned()) && plugins.contains(&"OBJ".to_owned()), "{plugins:?}");
    assert!(plugins.is_sorted());
    let posix = agent.plugin_parameters("POSIX").unwrap();
    assert!(posix.memory.contains(&MemoryType::Dram) && posix.memory.contains(&MemoryType::File));
    assert!(posix.parameters.iter().any(|(name, _)| name == "ios_pool_size"), "{posix:?}");
    // As many in flight as were asked for: the plugin is told to have room for them.
    for depth in [1024, 100, 5] {
        let engine = open(&library, NixlEngineConfig { depth, ..NixlEngineConfig::new("POSIX") });
        assert_eq!(engine.capabilities().max_in_flight, depth, "{posix:?}");
    }
}

#[test]
fn what_is_not_there_or_wrong_is_an_error() {
    let Some(library) = library() else { return };
    let agent = Agent::new(&library, "test").unwrap();
    for error in [
        agent.plugin_parameters("NO_SUCH").unwrap_err(),
        agent.create_backend("NO_SUCH", &[]).unwrap_err(),
        NixlEngine::open(&library, NixlEngineConfig::new("NO_SUCH")).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("NO_SUCH"), "{error}");
    }
    // A plugin that moves objects is no engine.
    let pairs = [("bucket", "none"), ("access_key", "a"), ("secret_key", "b"), ("region", "us-east-1")];
    let objects = pairs.into_iter().fold(NixlEngineConfig::new("OBJ"), |c, (k, v)| c.with_parameter(k, v));
    let error = NixlEngine::open(&library, objects).unwrap_err();
    assert!([ErrorKind::Unsupported, ErrorKind::Unavailable].contains(&error.kind()), "{error}");
    assert!(!error.to_string().contains("secret_key=b"), "{error}");
    let zero = agent.create_backend("POSIX\0", &[]).unwrap_err();
    assert_eq!(zero.kind(), ErrorKind::Config);
}

#[test]
fn a_query_tells_what_is_there() {
    let Some(library) = library() else { return };
    let backend = Agent::new(&library, "test").unwrap().create_backend("POSIX", &[]).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [1; 777]).unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let found = backend.query(MemoryType::File, &[path.as_str(), "/no/such/file"]).unwrap();
    let there = found[0].as_ref().unwrap();
    assert!(there.iter().any(|(_, value)| value == "777"), "{there:?}");
    assert!(found[1].is_none());
    assert!(backend.query(MemoryType::File, &[] as &[&str]).unwrap().is_empty());
}
