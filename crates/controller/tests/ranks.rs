//! Ranks agree on the least; one that fails, lags or disagrees costs hits, never a wait without end.

mod fixture;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use fixture::{Engine, LONG, Served, config};
use hicache_controller::{RankGroup, SingleRank, TcpCoordinator, TcpRank};
use hicache_core::{ErrorKind, MemoryStorage};
use hicache_testkit::argument;

const BOUND: Duration = Duration::from_millis(300);

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn group(ranks: usize) -> Vec<Arc<dyn RankGroup>> {
    let coordinator = TcpCoordinator::listen(anywhere(), ranks, BOUND).unwrap();
    let address = coordinator.address();
    let mut group: Vec<Arc<dyn RankGroup>> = vec![Arc::new(coordinator)];
    group.extend((1..ranks).map(|rank| Arc::new(TcpRank::new(address, rank, ranks).unwrap()) as _));
    group
}

/// All ranks that give a value do so at once; what each is answered.
fn ask(group: &[Arc<dyn RankGroup>], topic: u8, values: &[Option<u64>]) -> Vec<Option<u64>> {
    let threads: Vec<_> = group
        .iter()
        .zip(values)
        .map(|(rank, value)| {
            let (rank, value) = (Arc::clone(rank), *value);
            std::thread::spawn(move || rank.minimum([topic; 32], value?, 2 * BOUND).ok())
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn the_least_is_agreed_on() {
    let group = group(4);
    assert_eq!(ask(&group, 1, &[Some(7), Some(9), Some(5), Some(8)]), [Some(5); 4]);
    assert_eq!(ask(&group, 2, &[Some(0), Some(9), Some(5), Some(8)]), [Some(0); 4]);
    assert_eq!(SingleRank.minimum([1; 32], 3, BOUND).unwrap(), 3);
}

#[test]
fn a_rank_that_does_not_ask_costs_the_hit_and_a_bounded_wait() {
    let group = group(3);
    assert_eq!(ask(&group, 1, &[Some(7); 3]), [Some(7); 3]);
    let begun = Instant::now();
    assert_eq!(ask(&group, 2, &[Some(7), Some(7), None]), [Some(0), Some(0), None]);
    assert!(begun.elapsed() < 4 * BOUND, "{:?}", begun.elapsed());
    // Late, it is told what was decided.
    assert_eq!(group[2].minimum([2; 32], 7, BOUND).unwrap(), 0);
    assert_eq!(ask(&group, 3, &[Some(7); 3]), [Some(7); 3]);
}

#[test]
fn a_rank_that_is_gone_is_not_waited_for_and_one_that_comes_back_counts() {
    let mut group = group(3);
    assert_eq!(ask(&group, 1, &[Some(7); 3]), [Some(7); 3]);
    group.truncate(2); // Its connection ends.
    std::thread::sleep(Duration::from_millis(50));
    let begun = Instant::now();
    assert_eq!(ask(&group, 2, &[Some(7), Some(7)]), [Some(0), Some(0)]);
    assert!(begun.elapsed() < BOUND / 2, "{:?}", begun.elapsed());
}

#[test]
fn without_a_coordinator_nothing_is_agreed_and_nobody_hangs() {
    let mut group = group(2);
    assert_eq!(ask(&group, 1, &[Some(7); 2]), [Some(7); 2]);
    drop(group.remove(0));
    let begun = Instant::now();
    for topic in 2..10 {
        assert!(group[0].minimum([topic; 32], 7, BOUND).is_err());
    }
    assert!(begun.elapsed() < 9 * BOUND);
    // A stranger's port: somebody listens and says nothing.
    let silent = std::net::TcpListener::bind(anywhere()).unwrap();
    let rank = TcpRank::new(silent.local_addr().unwrap(), 1, 2).unwrap();
    assert_eq!(rank.minimum([1; 32], 7, BOUND).unwrap_err().kind(), ErrorKind::Timeout);
}

#[test]
fn a_rank_that_is_stopped_costs_one_wait_and_counts_again_when_it_speaks() {
    let group = group(3);
    assert_eq!(ask(&group, 1, &[Some(7); 3]), [Some(7); 3]);
    // Its connection stays, and it says nothing.
    let begun = Instant::now();
    for topic in 2..12 {
        assert_eq!(ask(&group, topic, &[Some(7), Some(7), None]), [Some(0), Some(0), None]);
    }
    assert!(begun.elapsed() < 4 * BOUND, "{:?} for ten topics", begun.elapsed());
    assert_eq!(group[2].minimum([11; 32], 7, BOUND).unwrap(), 0);
    assert_eq!(ask(&group, 12, &[Some(7); 3]), [Some(7); 3]);
}

#[test]
fn ranks_that_ask_of_a_silent_coordinator_do_not_wait_for_each_other() {
    let silent = std::net::TcpListener::bind(anywhere()).unwrap();
    let rank: Arc<dyn RankGroup> = Arc::new(TcpRank::new(silent.local_addr().unwrap(), 1, 2).unwrap());
    let begun = Instant::now();
    let asking: Vec<_> = (0..8)
        .map(|topic| {
            let rank = Arc::clone(&rank);
            std::thread::spawn(move || rank.minimum([topic; 32], 7, BOUND).unwrap_err().kind())
        })
        .collect();
    for thread in asking {
        assert_eq!(thread.join().unwrap(), ErrorKind::Timeout);
    }
    assert!(begun.elapsed() < 4 * BOUND, "{:?}", begun.elapsed());
    // It was waited for once; before it is heard of again it is not given so long.
    let begun = Instant::now();
    for topic in 8..13 {
        assert_eq!(rank.minimum([topic; 32], 7, BOUND).unwrap_err().kind(), ErrorKind::Timeout);
    }
    assert!(begun.elapsed() < 3 * BOUND, "{:?}", begun.elapsed());
}

/// Says who it is, as rank 1 of 2.
fn stranger(address: SocketAddr) -> std::net::TcpStream {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let mut hello = b"hicache1".to_vec();
    hello.extend([1, 0, 0, 0, 2, 0, 0, 0]);
    std::io::Write::write_all(&mut stream, &hello).unwrap();
    stream
}

#[test]
fn a_rank_that_takes_no_answers_holds_up_nobody() {
    let coordinator = TcpCoordinator::listen(anywhere(), 2, BOUND).unwrap();
    let mut stream = stranger(coordinator.address());
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    assert_eq!(coordinator.minimum([0; 32], 7, Duration::ZERO).unwrap_err().kind(), ErrorKind::Timeout);
    // The same topic again and again, once it is decided: each time it is answered, and no answer is read.
    let begun = Instant::now();
    let mut frame = [0_u8; 40];
    frame[32] = 7;
    let mut asked = 0;
    while asked < 400_000 && std::io::Write::write_all(&mut stream, &frame).is_ok() {
        asked += 1;
    }
    assert!(asked < 400_000, "it was not cut off");
    for topic in 1..20 {
        let begun = Instant::now();
        let _ = coordinator.minimum([topic; 32], 7, BOUND);
        assert!(begun.elapsed() < 2 * BOUND, "{:?}", begun.elapsed());
    }
    assert!(begun.elapsed() < LONG, "{:?}", begun.elapsed());
}

#[test]
fn an_answer_that_was_lost_with_its_connection_is_asked_for_again() {
    let coordinator = Arc::new(TcpCoordinator::listen(anywhere(), 2, BOUND).unwrap());
    let address = coordinator.address();
    let between = std::net::TcpListener::bind(anywhere()).unwrap();
    let rank = TcpRank::new(between.local_addr().unwrap(), 1, 2).unwrap();
    // The first connection ends when its value has come through; the second lasts.
    let relay = std::thread::spawn(move || {
        let (mut rank, _) = between.accept().unwrap();
        let mut ours = std::net::TcpStream::connect(address).unwrap();
        let mut bytes = [0; 56];
        std::io::Read::read_exact(&mut rank, &mut bytes).unwrap();
        std::io::Write::write_all(&mut ours, &bytes).unwrap();
        let mut answer = [0; 40];
        std::io::Read::read_exact(&mut ours, &mut answer).unwrap();
        drop((rank, ours));
        let (mut rank, _) = between.accept().unwrap();
        let mut ours = std::net::TcpStream::connect(address).unwrap();
        std::io::Read::read_exact(&mut rank, &mut bytes).unwrap();
        std::io::Write::write_all(&mut ours, &bytes).unwrap();
        std::io::Read::read_exact(&mut ours, &mut answer).unwrap();
        std::io::Write::write_all(&mut rank, &answer).unwrap();
        rank
    });
    let other = Arc::clone(&coordinator);
    let first = std::thread::spawn(move || other.minimum([1; 32], 5, BOUND).unwrap());
    assert_eq!(rank.minimum([1; 32], 7, 2 * BOUND).unwrap(), 5, "both use what was decided");
    assert_eq!(first.join().unwrap(), 5);
    drop(relay.join().unwrap());
}

#[test]
fn strangers_are_turned_away() {
    let coordinator = TcpCoordinator::listen(anywhere(), 2, BOUND).unwrap();
    let other_size = TcpRank::new(coordinator.address(), 1, 3).unwrap();
    assert!(other_size.minimum([1; 32], 7, BOUND).is_err());
    let mut stream = std::net::TcpStream::connect(coordinator.address()).unwrap();
    std::io::Write::write_all(&mut stream, &[0xff; 100]).unwrap();
    let rank = TcpRank::new(coordinator.address(), 1, 2).unwrap();
    let asked = std::thread::spawn(move || rank.minimum([2; 32], 9, BOUND));
    assert_eq!(coordinator.minimum([2; 32], 8, BOUND).unwrap(), 8);
    assert_eq!(asked.join().unwrap().unwrap(), 8);
    for (rank, ranks) in [(0, 2), (2, 2)] {
        assert_eq!(TcpRank::new(anywhere(), rank, ranks).unwrap_err().kind(), ErrorKind::Config);
    }
    assert_eq!(TcpCoordinator::listen(anywhere(), 0, BOUND).unwrap_err().kind(), ErrorKind::Config);
}

/// The prompts of a round: pages that storage has.
const NAMES: [u64; 6] = [1, 2, 3, 4, 5, 6];
const RANKS: usize = 4;

/// One rank: serves a prompt a round from storage, and says what it found. Begun by the tests below.
#[test]
#[ignore = "a part of the others, which run it"]
fn rank_process() {
    let number = |name| argument(name).expect("begun by another test");
    let (rank, port, first) = (number("rank") as usize, number("port") as u16, number("first"));
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let group: Arc<dyn RankGroup> = match rank {
        0 => {
            // The port of one that was killed may take a moment.
            let until = Instant::now() + LONG;
            loop {
                match TcpCoordinator::listen(address, RANKS, BOUND) {
                    Ok(coordinator) => break Arc::new(coordinator) as _,
                    Err(error) if Instant::now() >= until => panic!("{error}"),
                    Err(_) => std::thread::sleep(Duration::from_millis(20)),
                }
            }
        }
        _ => Arc::new(TcpRank::new(address, rank, RANKS).unwrap()),
    };
    let mut config = config(16, 40);
    config.rank_timeout_ms = BOUND.as_millis() as u64 * 2;
    let mut engine = Engine::new(config);
    engine.controller.join_ranks(group).unwrap();
    engine.controller.attach(Arc::new(MemoryStorage::new())).unwrap();
    // Rank 1 lacks the last page.
    engine.serve(&NAMES[..if rank == 1 { 5 } else { 6 }]).unwrap();
    engine.rest();
    for round in first.. {
        engine.controller.reset(LONG).unwrap();
        let served: Served = engine.serve_from_storage(&format!("round {round}"), &NAMES).unwrap();
        // What is computed is stored; rank 1 goes on lacking it.
        engine.rest();
        if rank == 1 {
            let key = fixture::keys(&fixture::prompt(&NAMES))[5];
            let storage = Arc::clone(engine.controller.storage().unwrap());
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(storage.delete(&[key])).unwrap();
        }
        println!("rank {rank} round {round} storage {} computed {}", served.storage, served.computed);
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A rank's process, and the rounds that it tells of.
struct Process {
    child: Child,
    rounds: Receiver<(u64, u64)>,
}

impl Process {
    fn start(rank: usize, port: u16, first: u64) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "rank_process", "--ignored", "--nocapture"])
            .args([format!("rank={rank}"), format!("port={port}"), format!("first={first}")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, rounds) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let words: Vec<&str> = line.split_whitespace().collect();
                if let ["rank", _, "round", round, "storage", storage, ..] = words[..] {
                    let _ = sender.send((round.parse().unwrap(), storage.parse().unwrap()));
                }
            }
        });
        Self { child, rounds }
    }

    /// The next round, which must not be long in coming.
    fn next(&self, what: &str) -> (u64, u64) {
        self.rounds.recv_timeout(LONG).unwrap_or_else(|_| panic!("{what}: a rank hangs or has died"))
    }

    /// Waits for a round in which so many pages came from storage.
    fn until(&self, pages: u64, what: &str) -> u64 {
        let until = Instant::now() + LONG;
        loop {
            let (round, storage) = self.next(what);
            assert!(storage <= 5, "{what}: {storage} pages, and rank 1 has 5");
            if storage == pages {
                return round;
            }
            assert!(Instant::now() < until, "{what}: no round with {pages} pages");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn one_is_killed_and_restarted(victim: usize) {
    let port = {
        let free = std::net::TcpListener::bind(anywhere()).unwrap();
        free.local_addr().unwrap().port()
    };
    let mut ranks: Vec<Process> = (0..RANKS).map(|rank| Process::start(rank, port, 0)).collect();
    for rank in &ranks {
        rank.until(5, "at first");
    }
    ranks[victim].child.kill().unwrap();
    ranks[victim].child.wait().unwrap();
    // The others go on, without hits.
    let mut last = 0;
    for (number, rank) in ranks.iter().enumerate().filter(|(number, _)| *number != victim) {
        while rank.rounds.try_recv().is_ok() {}
        last = last.max(rank.until(0, &format!("rank {number} while {victim} is dead")));
        let begun = Instant::now();
        for _ in 0..5 {
            last = last.max(rank.next("while one is dead").0);
        }
        assert!(begun.elapsed() < LONG / 2, "{:?} for five rounds", begun.elapsed());
    }
    // It comes back, some rounds ahead, and the hits with it.
    ranks[victim] = Process::start(victim, port, last + 5);
    for rank in &ranks {
        rank.until(5, "after the restart");
    }
}

#[test]
fn a_rank_that_is_killed_and_restarted() {
    one_is_killed_and_restarted(2);
}

#[test]
fn the_coordinator_is_killed_and_restarted() {
    one_is_killed_and_restarted(0);
}
