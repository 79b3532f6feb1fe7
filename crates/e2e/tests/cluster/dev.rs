//! `netsy dev --nodes 3`, as somebody at a terminal uses it.

use netsy_e2e::Client;
use netsy_e2e::server::{Kind, free_address};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Far longer than anything takes, on a busy machine too.
const WITHIN: Duration = Duration::from_secs(60);

struct Dev {
    child: Child,
    keyboard: ChildStdin,
    screen: Receiver<String>,
    seen: Vec<String>,
}

impl Dev {
    fn start(folder: &Path, first: &str) -> Self {
        let mut child = Command::new(Kind::Netsy.program())
            .args(["dev", "--nodes", "3", "--listen-client", first, "--data-dir"])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("start netsy dev");
        let keyboard = child.stdin.take().expect("a pipe");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (lines, screen) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, keyboard, screen, seen: vec![] }
    }

    fn types(&mut self, line: &str) {
        writeln!(self.keyboard, "{line}").expect("it reads");
    }

    /// Waits for a line with this in it.
    fn shows(&mut self, what: &str) -> String {
        loop {
            let line = self.screen.recv_timeout(WITHIN);
            let line = line.unwrap_or_else(|_| panic!("it does not show {what:?}, but\n{}", self.seen.join("\n")));
            self.seen.push(line.clone());
            if line.contains(what) {
                return line;
            }
        }
    }

    /// Ctrl-C.
    fn interrupt(&mut self) -> ExitStatus {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        // SAFETY: kill takes two numbers; the pid is of our own child, not yet waited for.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
        self.shows("stopped: the object store has everything");
        self.child.wait().expect("its end")
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Its nodes end with it. An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pid_in(line: &str) -> i32 {
    let (_, rest) = line.split_once("pid ").expect("a pid");
    rest.split_whitespace().next().expect("a pid").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_in_one_command_to_try_failover_by_hand() {
    if netsy_e2e::Kind::under_test() != netsy_e2e::Kind::Netsy {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let first = free_address();
    let port: u16 = first.rsplit(':').next().expect("a port").parse().expect("a port");
    let url = |number: u16| format!("http://127.0.0.1:{}", port + 2 * (number - 1));
    let mut dev = Dev::start(folder.path(), &first);
    let pids: Vec<i32> = (1..=3).map(|number| pid_in(&dev.shows(&format!("dev-{number}  127.0.0.1:")))).collect();
    let primary = dev.shows("Primary ");
    let primary: u16 = primary.rsplit("dev-").next().expect("a node").trim().parse().expect("a node's number");
    dev.shows("kill -9");
    dev.shows("Ctrl-C stops all");
    let other = primary % 3 + 1;
    Client::connect(&url(other)).await.put("k", "1").await;
    // By hand.
    // SAFETY: kill takes two numbers; the pid is that of a node that runs.
    assert_eq!(unsafe { libc::kill(pids[usize::from(primary) - 1], libc::SIGKILL) }, 0);
    dev.shows(&format!("dev-{primary} ended"));
    Client::connect(&url(other)).await.put("k", "2").await;
    // Without its database, too.
    dev.types(&format!("wipe {primary}"));
    dev.shows("has no database any more");
    dev.types(&format!("start {primary}"));
    dev.shows(&format!("dev-{primary} starts"));
    dev.types("kill 9");
    dev.shows("there is no node dev-9");
    let mut answered = None;
    for _ in 0..600 {
        if let Ok(client) = Client::try_connect(&url(primary)).await
            && let Ok(found) = client.try_get("k").await
        {
            answered = found.kvs.first().map(|kv| kv.value.clone());
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(answered.as_deref(), Some(&b"2"[..]), "{}", dev.seen.join("\n"));
    assert!(dev.interrupt().success());
    // The same command goes on, also without any database.
    std::fs::remove_dir_all(folder.path().join("node-2")).expect("its database");
    let mut dev = Dev::start(folder.path(), &first);
    dev.shows("Ctrl-C stops all");
    assert_eq!(Client::connect(&url(2)).await.get("k").await.expect("there").value, b"2"[..]);
    assert!(dev.interrupt().success());
}
