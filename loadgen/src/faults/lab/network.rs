//! Network namespaces without names: one for each process, joined by a bridge, cut by nftables.
//!
//! Owns the namespaces, their links and the drop rules. The namespaces exist only as open
//! descriptors of this process and as the homes of its children, so nothing is left when the
//! harness ends, however it ends. Invariant: the thread that makes the network ends up in the
//! client's namespace, and so do the threads and processes it starts afterwards.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::cluster::{StepError, run};

/// Who has a namespace of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The harness with its clients.
    Client,
    /// The coordinator.
    Coordinator,
    /// A node, numbered from 1.
    Node(u32),
}

impl Place {
    /// Its address on the bridge.
    pub fn address(self) -> Ipv4Addr {
        let last = match self {
            Place::Client => 1,
            Place::Coordinator => 2,
            Place::Node(number) => 10 + u8::try_from(number).unwrap_or(0),
        };
        Ipv4Addr::new(10, 88, 0, last)
    }

    /// Name of its port on the bridge.
    fn port(self) -> String {
        match self {
            Place::Client => "client".to_owned(),
            Place::Coordinator => "coordinator".to_owned(),
            Place::Node(number) => format!("node{number}"),
        }
    }
}

/// The namespace of one place.
#[derive(Clone, Debug)]
pub struct Space(Arc<OwnedFd>);

impl Space {
    /// Makes a command run inside of this namespace.
    pub fn enter(&self, command: &mut Command) {
        let space = Arc::clone(&self.0);
        // SAFETY: between fork and exec one async-signal-safe system call runs; the descriptor is
        // kept open by the closure, and nothing allocates or takes a lock.
        unsafe {
            command.pre_exec(move || {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(space.as_fd(), kind).map_err(io::Error::from)
            });
        }
    }

    /// A path under which another program opens this namespace.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// All namespaces of one harness.
#[derive(Debug)]
pub struct Network {
    bridge: Space,
    places: Vec<(Place, Space)>,
}

impl Network {
    /// Makes a bridge with a namespace for each place; the calling thread moves to the client's.
    ///
    /// # Errors
    /// [`StepError`] when this user may not, or `ip` or `nft` fails.
    pub fn make(nodes: u32) -> Result<Network, StepError> {
        let bridge = new_space()?;
        in_space(&bridge, &["ip", "link", "add", "bridge", "type", "bridge"])?;
        in_space(&bridge, &["ip", "link", "set", "bridge", "up"])?;
        let mut network = Network { bridge, places: Vec::new() };
        let nodes = (1..=nodes).map(Place::Node);
        // The client comes last: that is where this thread stays.
        for place in nodes.chain([Place::Coordinator, Place::Client]) {
            network.add(place)?;
        }
        network.rules("add table bridge lab; add chain bridge lab cuts { type filter hook forward priority 0; }")?;
        Ok(network)
    }

    /// The namespace of a place.
    pub fn space(&self, wanted: Place) -> Option<&Space> {
        self.places.iter().find(|(place, _)| *place == wanted).map(|(_, space)| space)
    }

    /// Drops everything that `from` sends to `to`.
    ///
    /// # Errors
    /// [`StepError`] when `nft` fails.
    pub fn cut(&self, from: Place, to: Place) -> Result<(), StepError> {
        let (from, to) = (from.port(), to.port());
        self.rules(&format!("add rule bridge lab cuts iifname \"{from}\" oifname \"{to}\" drop"))
    }

    /// Lets everything through again.
    ///
    /// # Errors
    /// [`StepError`] when `nft` fails.
    pub fn mend(&self) -> Result<(), StepError> {
        self.rules("flush chain bridge lab cuts")
    }

    /// Every place but one.
    pub fn others(&self, one: Place) -> Vec<Place> {
        self.places.iter().map(|(place, _)| *place).filter(|place| *place != one).collect()
    }

    fn add(&mut self, place: Place) -> Result<(), StepError> {
        let space = new_space()?;
        let (port, path) = (place.port(), space.path());
        let link = ["ip", "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns"];
        in_space(&self.bridge, &[&link[..], &[&path]].concat())?;
        in_space(&self.bridge, &["ip", "link", "set", &port, "master", "bridge", "up"])?;
        let address = format!("{}/24", place.address());
        in_space(&space, &["ip", "address", "add", &address, "dev", "eth0"])?;
        in_space(&space, &["ip", "link", "set", "eth0", "up"])?;
        in_space(&space, &["ip", "link", "set", "lo", "up"])?;
        self.places.push((place, space));
        Ok(())
    }

    fn rules(&self, text: &str) -> Result<(), StepError> {
        in_space(&self.bridge, &["nft", text])
    }
}

/// Moves this thread to a new namespace and keeps hold of it.
fn new_space() -> Result<Space, StepError> {
    // SAFETY: only the network namespace of the calling thread changes; no memory or descriptor
    // that other threads rely on is involved.
    let moved = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
    let refused = |source: io::Error| StepError::Start {
        program: "a network namespace (needs root)".to_owned(),
        source,
    };
    moved.map_err(|errno| refused(errno.into()))?;
    let space = File::open("/proc/thread-self/ns/net").map_err(refused)?;
    Ok(Space(Arc::new(space.into())))
}

fn in_space(space: &Space, words: &[&str]) -> Result<(), StepError> {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    space.enter(&mut command);
    run(&mut command).map(drop)
}
