//! What a caller holds of an operation, and what whoever does it holds.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use futures_channel::oneshot;

/// What a [`Transfer`] answers with.
pub trait Answer: Send + 'static {
    /// The answer when the operation was lost: every one of its `len` parts is `Abandoned`, and no memory comes back.
    fn abandoned(len: usize) -> Self;
}

/// The caller's end of a batch: a receiver and nothing else. Dropping it detaches; it cancels and frees nothing.
///
/// It works on any executor, and [`Transfer::wait`] works without one.
#[must_use = "a dropped transfer goes on by itself, and its answer is lost"]
pub struct Transfer<A> {
    state: State<A>,
    len: usize,
}

enum State<A> {
    Ready(A),
    Waiting(oneshot::Receiver<A>),
    Answered,
}

/// The other end: answers once. Dropped unanswered (its worker panicked), the transfer answers
/// [`Answer::abandoned`].
pub struct Completion<A>(oneshot::Sender<A>);

impl<A: Answer> Transfer<A> {
    /// Both ends of a batch of `len` parts. One allocation.
    pub fn channel(len: usize) -> (Completion<A>, Self) {
        let (sender, receiver) = oneshot::channel();
        (Completion(sender), Self { state: State::Waiting(receiver), len })
    }

    /// A transfer that is complete from the start.
    pub fn ready(answer: A) -> Self {
        Self { state: State::Ready(answer), len: 0 }
    }

    /// Blocks this thread until the answer is there. Not for executor threads.
    pub fn wait(mut self) -> A {
        struct Unpark(Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            match Pin::new(&mut self).poll(&mut context) {
                Poll::Ready(answer) => return answer,
                Poll::Pending => std::thread::park(),
            }
        }
    }
}

impl<A> Completion<A> {
    /// Answers. Gives the answer back if nobody waits for it any more, so that the caller of this can let go of the
    /// memory in it where that is right.
    pub fn answer(self, answer: A) -> Result<(), A> {
        self.0.send(answer)
    }
}

// Nothing in it is pinned.
impl<A> Unpin for Transfer<A> {}

impl<A: Answer> Future for Transfer<A> {
    type Output = A;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<A> {
        if let State::Waiting(receiver) = &mut self.state {
            let received = std::task::ready!(Pin::new(receiver).poll(context));
            let answer = received.unwrap_or_else(|_| A::abandoned(self.len));
            self.state = State::Answered;
            return Poll::Ready(answer);
        }
        match std::mem::replace(&mut self.state, State::Answered) {
            State::Ready(answer) => Poll::Ready(answer),
            // Polling a finished future again is the caller's defect; staying pending is the harmless answer.
            State::Waiting(_) | State::Answered => Poll::Pending,
        }
    }
}

impl<A> fmt::Debug for Transfer<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfer").field("len", &self.len).finish_non_exhaustive()
    }
}

impl<A> fmt::Debug for Completion<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Parts(Vec<bool>);

    impl Answer for Parts {
        fn abandoned(len: usize) -> Self {
            Self(vec![false; len])
        }
    }

    #[test]
    fn an_answer_from_another_thread_wakes_the_waiter() {
        let (completion, transfer) = Transfer::channel(1);
        let worker = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(10));
            completion.answer(Parts(vec![true])).unwrap();
        });
        assert_eq!(transfer.wait(), Parts(vec![true]));
        worker.join().unwrap();
    }

    #[test]
    fn a_lost_completion_abandons_every_part() {
        let (completion, transfer) = Transfer::<Parts>::channel(3);
        drop(completion);
        assert_eq!(transfer.wait(), Parts(vec![false; 3]));
    }

    #[test]
    fn an_answer_that_nobody_waits_for_comes_back() {
        let (completion, transfer) = Transfer::channel(1);
        drop(transfer);
        assert_eq!(completion.answer(Parts(vec![true])), Err(Parts(vec![true])));
    }

    /// A channel that keeps to a runtime's budget would park for ever here: its wake-up goes to the task.
    #[tokio::test]
    async fn waiting_often_inside_a_task_ends() {
        for _ in 0..500 {
            let (completion, transfer) = Transfer::channel(1);
            completion.answer(Parts(vec![true])).unwrap();
            assert_eq!(transfer.wait(), Parts(vec![true]));
        }
    }

    #[tokio::test]
    async fn it_is_a_future() {
        assert_eq!(Transfer::ready(Parts(vec![])).await, Parts(vec![]));
        let (completion, transfer) = Transfer::channel(1);
        tokio::spawn(async move { completion.answer(Parts(vec![true])) });
        assert_eq!(transfer.await, Parts(vec![true]));
    }
}
