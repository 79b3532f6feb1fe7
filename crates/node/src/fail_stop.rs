//! A panic in what keeps a node's state ends the process.
//!
//! Whatever panicked half-way may have left the engine, the state machine or the local log between two states; and a node
//! whose log thread is gone answers nothing, yet looks alive to the others. Ended, it is replaced within a second, and what
//! it had promised is on its disk. A panic in a handler of one request, outside of all this, ends that request only.

use crate::node::Inner;
use std::future::Future;
use std::sync::Arc;

/// Held while state is changed: dropped by a panic, it aborts.
pub(crate) struct FailStop(pub(crate) &'static str);

impl Drop for FailStop {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(part = self.0, "a bug in this node: the process ends, so that another node can take over");
            std::process::abort();
        }
    }
}

impl Inner {
    /// Runs a part of this node beside the others.
    pub(crate) fn spawn(self: &Arc<Self>, part: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(async move {
            let _fail_stop = FailStop(part);
            work.await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    /// Runs itself again, as nobody sees the end of their own process.
    #[test]
    fn a_panic_ends_the_process() {
        const WHICH: &str = "NETSY_TEST_FAIL_STOP";
        match std::env::var(WHICH).as_deref() {
            Ok("held") => {
                let thread = std::thread::spawn(|| {
                    let _fail_stop = FailStop("test");
                    panic!("on purpose");
                });
                let _ = thread.join();
            }
            Ok(_) => drop(FailStop("test")),
            Err(_) => {
                let run = |which| {
                    let mut again = Command::new(std::env::current_exe().expect("this program"));
                    again.args(["--exact", "fail_stop::tests::a_panic_ends_the_process"]).env(WHICH, which);
                    again.output().expect("runs").status
                };
                assert_eq!(run("held").signal(), Some(6), "SIGABRT");
                assert!(run("let go").success());
            }
        }
    }
}
