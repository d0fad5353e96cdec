//! Work on the pages of a batch, some at a time. Whoever is done takes the next one, so that a long batch does not stand
//! in line with all its pages before a short one that comes after it, and costs no task a page.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinSet;

struct Queue<I, O, W> {
    left: Mutex<std::iter::Enumerate<std::vec::IntoIter<I>>>,
    done: Mutex<Vec<Option<O>>>,
    work: W,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does `work` on each of `items`, at most `most` at a time. What came of each, in their order; `None` where it panicked.
pub(crate) async fn abreast<I, O, W, F>(most: usize, items: Vec<I>, work: W) -> Vec<Option<O>>
where
    I: Send + 'static,
    O: Send + 'static,
    W: Fn(I) -> F + Send + Sync + 'static,
    F: Future<Output = O> + Send + 'static,
{
    let (number, mut done) = (items.len(), Vec::new());
    done.resize_with(number, || None);
    let queue =
        Arc::new(Queue { left: Mutex::new(items.into_iter().enumerate()), done: Mutex::new(done), work });
    let mut workers = JoinSet::new();
    for _ in 0..number.min(most.max(1)) {
        workers.spawn(run(Arc::clone(&queue)));
    }
    while let Some(joined) = workers.join_next().await {
        if joined.is_err() {
            // It panicked, and what is left is for another one.
            workers.spawn(run(Arc::clone(&queue)));
        }
    }
    std::mem::take(&mut *lock(&queue.done))
}

async fn run<I, O, W, F>(queue: Arc<Queue<I, O, W>>)
where
    W: Fn(I) -> F,
    F: Future<Output = O>,
{
    loop {
        let next = lock(&queue.left).next();
        let Some((i, item)) = next else { return };
        let output = (queue.work)(item).await;
        lock(&queue.done)[i] = Some(output);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn all_are_done_in_order_and_not_too_many_at_a_time() {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let seen = Arc::clone(&most);
        let done = abreast(3, (0..10).collect(), move |item: u64| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(10 - item)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                item * 2
            }
        });
        assert_eq!(done.await, (0..10).map(|item| Some(item * 2)).collect::<Vec<_>>());
        assert_eq!(seen.load(Ordering::SeqCst), 3);
        assert_eq!(abreast(3, Vec::new(), |(): ()| async {}).await, []);
    }

    #[tokio::test]
    async fn one_that_panics_costs_only_itself() {
        let work = |item: u64| async move {
            assert!(!item.is_multiple_of(3), "on purpose");
            item
        };
        let seen = abreast(2, (0..7).collect(), work).await;
        assert_eq!(seen, [None, Some(1), Some(2), None, Some(4), Some(5), None]);
    }
}
