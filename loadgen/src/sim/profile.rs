//! What a run looks like, drawn from its seed: the cluster, the load and how much goes wrong.
//!
//! Every second seed is the standard run; the others make one thing scarce or strange, so that
//! edges which a large cluster never meets are met often.

use std::time::Duration;

use super::rng::SimRng;

/// Size of an ordinary container, in bytes.
const CONTAINER_LEN: u64 = 256 << 20;
/// Size of a tiny container: its journal and arena fill up within a run, in bytes.
const CONTAINER_LEN_TINY: u64 = 24 << 20;

/// Largest deviation of a clock rate that the protocol must bear, in parts per million.
const CLOCK_PPM_MAX: u64 = 1000;

/// What faults may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each cell keeps one good copy, so the run must end healed.
    Liveness,
    /// Anything may break anywhere; only what is wrong or silent counts.
    Unrestricted,
}

/// The cluster of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Data nodes, of one target each.
    pub nodes: u32,
    /// Replicas of every group.
    pub replicas: u8,
    /// Serving members a group must have to be written.
    pub min_write: u8,
    /// Groups each target is a member of.
    pub groups_per_target: u16,
    /// Size of each container, in bytes.
    pub container_len: u64,
    /// Largest deviation of a node's clock rate, in parts per million.
    pub clock_ppm_max: u64,
}

/// The clients of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// Client processes.
    pub clients: u64,
    /// Tasks of each that write.
    pub writers: u64,
    /// Tasks of each that read.
    pub readers: u64,
    /// Operations that all of them start in a second.
    pub operations_per_s: u64,
    /// Longest piece of a write, in bytes.
    pub piece_len_max: u64,
    /// Most pieces of a chunk.
    pub pieces_max: u64,
    /// Groups that are written to; all of them when it is 0.
    pub groups: usize,
    /// True when clients also overwrite each other's bytes.
    pub overwrites: bool,
    /// True when clients also grow, change and cut files that they share.
    pub files: bool,
}

/// What goes wrong most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Everything.
    Usual,
    /// Everything, and operators move data about.
    Moves,
    /// Everything, silent damage most of all.
    Damage,
    /// A node and a client hear each other, the coordinator hears neither.
    Leases,
}

/// Everything about a run but its seed and mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// For people.
    pub name: &'static str,
    /// The cluster.
    pub shape: Shape,
    /// The clients.
    pub load: Load,
    /// What goes wrong most.
    pub trouble: Trouble,
    /// How long things break.
    pub rage: Duration,
    /// Shortest and longest time between two faults, in milliseconds.
    pub fault_pause_ms: (u64, u64),
}

impl Mode {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Liveness => "liveness",
            Mode::Unrestricted => "unrestricted",
        }
    }
}

impl Shape {
    /// Three replicas of a few groups.
    pub fn small(nodes: u32) -> Shape {
        Shape {
            nodes,
            replicas: 3,
            min_write: 2,
            groups_per_target: 8,
            container_len: CONTAINER_LEN,
            clock_ppm_max: CLOCK_PPM_MAX,
        }
    }
}

impl Profile {
    /// Five nodes, 64 groups, 200 client operations and one fault per second.
    pub fn standard() -> Profile {
        Profile {
            name: "standard",
            shape: Shape { groups_per_target: 38, ..Shape::small(5) },
            load: Load {
                clients: 4,
                writers: 6,
                readers: 4,
                operations_per_s: 200,
                piece_len_max: 40_000,
                pieces_max: 10,
                groups: 0,
                overwrites: false,
                files: false,
            },
            trouble: Trouble::Usual,
            rage: Duration::from_secs(20),
            fault_pause_ms: (0, 2000),
        }
    }

    /// Nothing but overwrites, and nodes that miss the end of their lease when clocks run apart too
    /// far.
    pub fn leases(clock_ppm_max: u64) -> Profile {
        let standard = Profile::standard();
        let nobody = Load { clients: 3, writers: 0, readers: 0, ..standard.load };
        Profile {
            name: "leases",
            shape: Shape { clock_ppm_max, ..Shape::small(3) },
            load: Load { overwrites: true, ..nobody },
            trouble: Trouble::Leases,
            rage: Duration::from_secs(60),
            fault_pause_ms: (8000, 14_000),
        }
    }

    /// The profile of a seed.
    pub fn of(seed: u64) -> Profile {
        let mut profile = Profile::standard();
        // Not the sequence that the run itself draws from.
        let rng = SimRng::new(seed ^ 0x7072_6f66_696c_6531);
        if seed.is_multiple_of(2) {
            return profile;
        }
        let Profile { name, shape, load, trouble, fault_pause_ms, .. } = &mut profile;
        match rng.below(11) {
            0 => {
                *name = "three nodes";
                *shape = Shape::small(3);
            }
            1 => {
                *name = "four nodes";
                *shape = Shape::small(4);
            }
            2 => {
                *name = "two replicas";
                *shape = Shape { replicas: 2, ..Shape::small(2 + draw(&rng, 3)) };
            }
            3 => {
                *name = "tiny containers";
                *shape = Shape { container_len: CONTAINER_LEN_TINY, ..Shape::small(3) };
                load.piece_len_max = 60_000;
            }
            4 => {
                *name = "one group";
                load.groups = 1;
                load.piece_len_max = 5000;
                load.pieces_max = 40;
            }
            5 => {
                *name = "large pieces";
                load.piece_len_max = 400_000;
                load.operations_per_s = 60;
            }
            6 => {
                *name = "many faults";
                *shape = Shape::small(5);
                *fault_pause_ms = (0, 400);
            }
            7 => {
                *name = "overwrites";
                *load = Load { clients: 3, writers: 1, readers: 1, ..load.clone() };
                load.operations_per_s = 60;
                load.overwrites = true;
            }
            8 => {
                *name = "moves";
                *shape = Shape::small(4 + draw(&rng, 2));
                *trouble = Trouble::Moves;
                load.operations_per_s = 60;
            }
            9 => {
                *name = "damage";
                *shape = Shape::small(3 + draw(&rng, 2));
                *trouble = Trouble::Damage;
            }
            _ => {
                *name = "files";
                *shape = Shape::small(3 + draw(&rng, 2));
                *load = Load { clients: 3, writers: 1, readers: 1, ..load.clone() };
                load.operations_per_s = 60;
                load.files = true;
            }
        }
        profile
    }
}

fn draw(rng: &SimRng, bound: u64) -> u32 {
    u32::try_from(rng.below(bound)).unwrap_or(0)
}
