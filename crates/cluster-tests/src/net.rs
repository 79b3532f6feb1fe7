//! The network of a cluster: every node and the object store at an address of its own, in a network namespace of its
//! own where the machine allows it, so that who hears whom can be cut, in one direction too.
//!
//! The addresses are loopback ones even between namespaces (`route_localnet`), so that nodes without TLS serve there.
//! A cut is a wrong permanent neighbour entry at the sender: packets leave and arrive nowhere, as with a dead switch.
//! All namespaces are nameless and end with the processes in them.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// One end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Where the clients are: this process.
    Clients,
    /// A node, from 0.
    Node(usize),
    /// The object store.
    Store,
}

/// What this process could get for itself.
#[derive(Clone, Debug)]
pub enum Isolation {
    /// A network and mounts of its own.
    Own,
    /// Neither, and why.
    None(String),
}

/// Leaves the machine's network and mounts for ones of this process alone. To be called before any thread is started.
pub fn isolate() -> Isolation {
    // There is no way back from a network that cannot be set up.
    for program in ["ip", "mount"] {
        if !on_path(program) {
            return Isolation::None(format!("no namespaces: there is no program {program:?}"));
        }
    }
    // SAFETY: unshare takes flags only; no other thread runs yet.
    if unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) } != 0 {
        return Isolation::None(format!("no namespaces: {}", std::io::Error::last_os_error()));
    }
    let prepared = run(None, "mount", &["--make-rprivate", "/"]).and_then(|()| prepare()).and_then(|()| loopback(None));
    match prepared {
        Ok(()) => Isolation::Own,
        Err(error) => {
            eprintln!("netsy-cluster-tests: {error:#}");
            std::process::exit(1)
        }
    }
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Of the calling thread's namespace.
fn prepare() -> Result<()> {
    for of in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv4/conf/{of}/route_localnet");
        std::fs::write(&path, "1").with_context(|| format!("write {path}"))?;
    }
    Ok(())
}

/// Only 127.0.0.1 is this namespace's own: the other addresses are elsewhere.
fn loopback(namespace: Option<&File>) -> Result<()> {
    ip(namespace, "link set lo up")?;
    ip(namespace, "route del local 127.0.0.0/8 dev lo table local")
}

fn run(namespace: Option<&File>, program: &str, args: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    command.args(args);
    if let Some(namespace) = namespace {
        enter(&mut command, namespace);
    }
    let output = command.output().with_context(|| format!("run {program} {args:?}"))?;
    if !output.status.success() {
        bail!("{program} {} ended with {}: {}", args.join(" "), output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn ip(namespace: Option<&File>, args: &str) -> Result<()> {
    run(namespace, "ip", &args.split_ascii_whitespace().collect::<Vec<_>>())
}

fn enter(command: &mut Command, namespace: &File) {
    let file = namespace.as_raw_fd();
    // SAFETY: setns is async-signal-safe; the file stays open in `Net`, which outlives the start of the command.
    unsafe {
        command.pre_exec(move || match libc::setns(file, libc::CLONE_NEWNET) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

/// A namespace of nobody's yet.
fn namespace() -> Result<File> {
    let made = std::thread::spawn(|| {
        // SAFETY: unshare takes flags only, and concerns this thread alone, which ends here.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            bail!("a network namespace: {}", std::io::Error::last_os_error());
        }
        prepare()?;
        File::open("/proc/thread-self/ns/net").context("open the namespace")
    });
    made.join().map_err(|_| anyhow::anyhow!("the thread that makes a namespace panicked"))?
}

/// All places of a cluster.
pub struct Net {
    isolation: Isolation,
    /// By node; empty without isolation.
    namespaces: Vec<File>,
    /// Without isolation: what tells this run's addresses from others'.
    second: u8,
    cuts: Vec<(Place, Place)>,
    unplugged: Vec<usize>,
}

/// Second number of all addresses where nobody else has any.
const SECOND: u8 = 77;
/// Where packets go that are to get lost.
const NOBODY: &str = "02:00:00:00:00:01";

impl Net {
    /// Places for so many nodes.
    pub fn new(isolation: &Isolation, nodes: usize) -> Result<Self> {
        let mut net = Self {
            isolation: isolation.clone(),
            namespaces: Vec::new(),
            second: SECOND,
            cuts: Vec::new(),
            unplugged: Vec::new(),
        };
        if let Isolation::None(_) = isolation {
            net.second = 128 + (std::process::id() % 127) as u8;
            return Ok(net);
        }
        ip(None, "link add hub type bridge")?;
        for place in [Place::Clients, Place::Store] {
            ip(None, &format!("addr add {}/16 dev hub", net.address(place)))?;
        }
        ip(None, "link set hub up")?;
        for node in 0..nodes {
            let namespace = namespace()?;
            let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
            ip(None, &format!("link add n{node} type veth peer name e0 netns {path}"))?;
            ip(None, &format!("link set n{node} master hub up"))?;
            let inside = Some(&namespace);
            loopback(inside)?;
            ip(inside, &format!("addr add {}/16 dev e0", net.address(Place::Node(node))))?;
            ip(inside, "link set e0 up")?;
            net.namespaces.push(namespace);
        }
        Ok(net)
    }

    /// Why nothing can be cut; `None`: everything can.
    pub fn cannot_cut(&self) -> Option<&str> {
        match &self.isolation {
            Isolation::Own => None,
            Isolation::None(why) => Some(why),
        }
    }

    /// Where it is.
    pub fn address(&self, place: Place) -> Ipv4Addr {
        let last = match place {
            Place::Clients => 1,
            Place::Store => 2,
            Place::Node(node) => 10 + node as u8,
        };
        Ipv4Addr::new(127, self.second, 0, last)
    }

    /// Makes the command run where the node is.
    pub fn place(&self, command: &mut Command, node: usize) {
        if let Some(namespace) = self.namespaces.get(node) {
            enter(command, namespace);
        }
    }

    /// What `from` sends to `to` is lost from now on.
    pub fn cut(&mut self, from: Place, to: Place) -> Result<()> {
        if let Some(why) = self.cannot_cut() {
            bail!("nothing can be cut: {why}");
        }
        // The store is where the clients are; whom it cannot hear it does not answer, and that is enough.
        if from == Place::Store || from == to || self.cuts.contains(&(from, to)) {
            return Ok(());
        }
        let (namespace, device) = self.sender(from)?;
        ip(namespace, &format!("neigh replace {} lladdr {NOBODY} dev {device} nud permanent", self.address(to)))?;
        self.cuts.push((from, to));
        Ok(())
    }

    /// The node's cable is pulled: nobody hears it, nor it anybody.
    pub fn unplug(&mut self, node: usize) -> Result<()> {
        if let Some(why) = self.cannot_cut() {
            bail!("nothing can be cut: {why}");
        }
        self.unplugged.push(node);
        ip(None, &format!("link set n{node} down"))
    }

    fn sender(&self, from: Place) -> Result<(Option<&File>, &'static str)> {
        match from {
            Place::Node(node) => Ok((Some(self.namespaces.get(node).context("no such node")?), "e0")),
            Place::Clients | Place::Store => Ok((None, "hub")),
        }
    }

    /// Everybody hears everybody.
    pub fn heal(&mut self) -> Result<()> {
        for node in std::mem::take(&mut self.unplugged) {
            ip(None, &format!("link set n{node} up"))?;
        }
        for (from, to) in std::mem::take(&mut self.cuts) {
            let (namespace, device) = self.sender(from)?;
            let to = self.address(to);
            // Another cut of the same sender may have named it too.
            ip(namespace, &format!("neigh replace {to} lladdr {NOBODY} dev {device} nud stale"))?;
            ip(namespace, &format!("neigh del {to} dev {device}"))?;
        }
        Ok(())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if let Isolation::None(_) = self.isolation {
            return;
        }
        let nodes = (0..self.namespaces.len()).map(|node| format!("n{node}"));
        for device in nodes.chain(["hub".to_owned()]) {
            // Another cluster of this process would say so; without one nobody minds.
            let _ = ip(None, &format!("link del {device}"));
        }
    }
}
