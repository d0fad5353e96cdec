//! What is known of pages ends when they are deleted or stored, whoever does it and however it ends.

mod fixture;

use std::time::{Duration, Instant};

use fixture::{Fault, Ground, Server, config, done, pages};
use hicache_core::{Outcome, PageKey, Storage};
use hicache_testkit::numbered_key;
use http::Method;

fn keys(numbers: std::ops::Range<u64>) -> Vec<PageKey> {
    numbers.map(numbered_key).collect()
}

/// The store has deleted the pages, and its answers are lost: they are not known to be there any more.
#[tokio::test]
async fn what_may_have_been_deleted_is_stored_again() {
    let server = Server::start().await;
    let mut config = config(&[&server]);
    config.store_timeout_ms = 700;
    let ground = Ground::open(config).await;
    for clears in [true, false] {
        ground.store(0..4).await;
        assert_eq!(pages(&server), 4);
        server.fail(|method, _| (*method == Method::POST).then_some(Fault::Lost));
        match clears {
            true => assert!(ground.storage.clear().await.is_err()),
            false => assert!(ground.storage.delete(&keys(0..4)).await.is_err()),
        }
        server.heal();
        assert_eq!(pages(&server), 0, "it did it all the same");
        // The endpoint may be left alone for a moment.
        let until = Instant::now() + Duration::from_secs(5);
        while done(&ground.try_store(0..4, 1, false).await.outcomes) < 4 {
            assert!(Instant::now() < until, "it does not come back");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(pages(&server), 4, "clears: {clears}");
    }
}

/// What another machine deleted is not there for us either, once we have seen that.
#[tokio::test]
async fn what_another_one_deleted_is_stored_again() {
    let server = Server::start().await;
    let (ground, other) = (Ground::open(config(&[&server])).await, Ground::open(config(&[&server])).await);
    ground.store(0..4).await;
    assert_eq!(done(&other.storage.delete(&keys(0..4)).await.unwrap()), 4);
    let deleted = ground.storage.delete(&keys(0..4)).await.unwrap();
    assert!(deleted.iter().all(|outcome| matches!(outcome, Outcome::Absent)), "{deleted:?}");
    ground.store(0..4).await;
    assert_eq!(pages(&server), 4);
}

/// Answers that were given before a change and come after it are about what was.
#[tokio::test]
async fn an_old_answer_does_not_count() {
    let server = Server::start().await;
    Ground::open(config(&[&server])).await.store(0..1).await;
    let ground = Ground::open(config(&[&server])).await;
    let held = Fault::Held(Duration::from_millis(250));
    let key = keys(0..1);
    // It was there, and is deleted before we hear of it.
    server.fail_first(1, Method::HEAD, held.clone());
    let delete = async {
        tokio::time::sleep(Duration::from_millis(80)).await;
        ground.storage.delete(&key).await.unwrap()
    };
    let (there, deleted) = tokio::join!(ground.storage.exists(&key), delete);
    assert_eq!((there.unwrap(), done(&deleted), pages(&server)), (vec![true], 1, 0));
    ground.store(0..1).await;
    assert_eq!(pages(&server), 1, "it is put, since it is not there");

    // It was missing, and is stored before we hear of it.
    let (reader, writer) = (ground.beside(), ground.beside());
    server.fail_first(1, Method::GET, held);
    let store = async {
        tokio::time::sleep(Duration::from_millis(80)).await;
        writer.store(7..8).await;
    };
    let (missed, ()) = tokio::join!(reader.load(7..8), store);
    assert!(matches!(missed[0], Outcome::Absent), "{missed:?}");
    assert_eq!(done(&reader.load(7..8).await), 1, "a load that begins after the store finds it");
}
