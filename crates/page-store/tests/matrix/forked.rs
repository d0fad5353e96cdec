//! Asking in a forked child.

use std::io::{Read, Write};

unsafe extern "C" {
    fn fork() -> i32;
    fn _exit(status: i32) -> !;
}

/// What `ask` answers in a child. It may call what needs no other thread: there is none there.
pub(super) fn forked(ask: impl FnOnce() -> String) -> String {
    let (mut from, mut to) = std::io::pipe().unwrap();
    // SAFETY: the child calls `ask`, which takes no lock that another thread may have held but the allocator's, which
    // glibc makes whole in a child; it writes to a pipe and ends without running anything of ours.
    let child = unsafe { fork() };
    assert!(child >= 0, "no child");
    if child == 0 {
        let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(ask));
        let _ = to.write_all(asked.unwrap_or_else(|_| "panic".to_owned()).as_bytes());
        // SAFETY: ends the child.
        unsafe { _exit(0) };
    }
    drop(to);
    let mut answer = String::new();
    from.read_to_string(&mut answer).unwrap();
    let _ = rustix::process::waitpid(
        rustix::process::Pid::from_raw(child),
        rustix::process::WaitOptions::empty(),
    );
    answer
}
