//! What can be broken, and the seeded choice of what is broken next. Pure.

use std::time::Duration;

use crate::dice::Dice;

/// Writes the enum and the table of names from one list.
macro_rules! faults {
    ($($(#[$doc:meta])+ $fault:ident = $name:literal, $needs:ident;)+) => {
        /// Something that is broken on purpose.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault {
            $($(#[$doc])+ $fault,)+
        }

        impl Fault {
            /// Every fault, in the order of the list.
            pub const ALL: &[Fault] = &[$(Fault::$fault,)+];

            /// Its name on the command line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Fault::$fault => $name,)+
                }
            }

            /// What it cannot be done without.
            pub const fn needs(self) -> Needs {
                match self {
                    $(Fault::$fault => Needs::$needs,)+
                }
            }
        }
    };
}

/// What a fault cannot be done without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Processes that can be signalled.
    Nothing,
    /// Network namespaces.
    Namespaces,
    /// The build of the node whose container fails on order.
    FaultDisk,
    /// A mounted file system of its own.
    SmallDisk,
}

faults! {
    /// SIGKILL of a node, which starts again after a while.
    KillNode = "kill-node", Nothing;
    /// SIGKILL of two nodes at once: all that a group of three survives.
    KillPair = "kill-pair", Nothing;
    /// SIGKILL of a node and, once it has healed, of another.
    KillTwo = "kill-two", Nothing;
    /// SIGKILL of the coordinator.
    KillCoordinator = "kill-coordinator", Nothing;
    /// SIGKILL of every process at once.
    KillAll = "kill-all", Nothing;
    /// SIGSTOP and SIGCONT of a node.
    StopNode = "stop-node", Nothing;
    /// SIGSTOP and SIGCONT of the coordinator.
    StopCoordinator = "stop-coordinator", Nothing;
    /// SIGKILL of the coordinator, which is stopped by a signal as soon as it runs again.
    RestartStopCoordinator = "restart-stop-coordinator", Nothing;
    /// A node hears and reaches nobody.
    CutNode = "cut-node", Namespaces;
    /// A node hears nobody.
    CutNodeIn = "cut-node-in", Namespaces;
    /// A node reaches nobody.
    CutNodeOut = "cut-node-out", Namespaces;
    /// Two nodes do not hear each other.
    CutPair = "cut-pair", Namespaces;
    /// One node does not hear another.
    CutPairOneWay = "cut-pair-one-way", Namespaces;
    /// A node and the clients do not hear each other.
    CutClient = "cut-client", Namespaces;
    /// Nobody hears the coordinator.
    CutCoordinator = "cut-coordinator", Namespaces;
    /// SIGKILL of a node that loses what it had not flushed, partly torn.
    PowerCutNode = "power-cut-node", FaultDisk;
    /// The same of every node at once.
    PowerCutAll = "power-cut-all", FaultDisk;
    /// Reads of one container fail now and then.
    ReadErrors = "read-errors", FaultDisk;
    /// Writes of one container fail now and then.
    WriteErrors = "write-errors", FaultDisk;
    /// Writes of one container stop in the middle now and then.
    ShortWrites = "short-writes", FaultDisk;
    /// One flush fails: the node must fence itself and be evicted.
    FlushError = "flush-error", FaultDisk;
    /// One container is twenty times slower.
    SlowDevice = "slow-device", FaultDisk;
    /// Every target is filled until writes are refused.
    FullTarget = "full-target", Nothing;
    /// The file system under a container has no byte left, also when the node starts again.
    FullDisk = "full-disk", SmallDisk;
    /// Bits of chunks are flipped under a running node.
    BitFlips = "bit-flips", Nothing;
}

/// One fault with everything the dice decided about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// What is broken.
    pub fault: Fault,
    /// The node it happens to.
    pub node: u32,
    /// The other node, where two are involved.
    pub other: u32,
    /// How long it stays broken.
    pub hold: Duration,
    /// Decides the rest.
    pub seed: u64,
}

impl Fault {
    /// The fault of that name.
    pub fn named(name: &str) -> Option<Fault> {
        Fault::ALL.iter().copied().find(|fault| fault.name() == name)
    }

    /// Shortest and longest time it stays, in milliseconds.
    ///
    /// Nothing may last as long as an operation's deadline of 30 s, or errors would be right.
    fn hold_ms(self) -> (u64, u64) {
        match self {
            Fault::StopNode | Fault::StopCoordinator | Fault::RestartStopCoordinator => {
                (500, 20_000)
            }
            Fault::KillAll | Fault::PowerCutAll => (200, 2_000),
            Fault::FullTarget => (500, 1_000),
            Fault::SlowDevice => (4_000, 10_000),
            _ => (500, 6_000),
        }
    }
}

/// Chooses the next fault among `allowed`, on one of `nodes` nodes; `special` is the node of
/// faults that only one node can have.
pub fn draw(dice: &mut Dice, allowed: &[Fault], nodes: u32, special: Special) -> Option<Order> {
    let fault = *dice.one_of(allowed)?;
    let number = |dice: &mut Dice, first: u32| {
        u32::try_from(dice.between(first.into(), u64::from(nodes) + 1)).unwrap_or(first)
    };
    let node = match fault.needs() {
        Needs::FaultDisk => number(dice, special.faulty_from),
        Needs::SmallDisk => special.small_disk,
        Needs::Nothing | Needs::Namespaces => number(dice, 1),
    };
    let step = u32::try_from(dice.between(1, u64::from(nodes).max(2))).unwrap_or(1);
    let other = (node - 1 + step) % nodes + 1;
    let (shortest, longest) = fault.hold_ms();
    let hold = Duration::from_millis(dice.between(shortest, longest));
    Some(Order { fault, node, other, hold, seed: dice.draw() })
}

/// Nodes that have what some faults need.
#[derive(Clone, Copy, Debug)]
pub struct Special {
    /// First node whose container fails on order.
    pub faulty_from: u32,
    /// Node on a small file system.
    pub small_disk: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECIAL: Special = Special { faulty_from: 2, small_disk: 4 };

    #[test]
    fn the_same_seed_draws_the_same_faults() {
        let orders = |seed| {
            let mut dice = Dice::new(seed);
            (0..50).map(|_| draw(&mut dice, Fault::ALL, 5, SPECIAL)).collect::<Vec<_>>()
        };
        assert_eq!(orders(1), orders(1));
        assert_ne!(orders(1), orders(2));
    }

    #[test]
    fn a_fault_happens_to_a_node_that_can_have_it() {
        let mut dice = Dice::new(3);
        for _ in 0..2_000 {
            let order = draw(&mut dice, Fault::ALL, 5, SPECIAL).unwrap();
            assert!((1..=5).contains(&order.node) && (1..=5).contains(&order.other));
            assert_ne!(order.node, order.other);
            match order.fault.needs() {
                Needs::FaultDisk => assert!(order.node >= 2),
                Needs::SmallDisk => assert_eq!(order.node, 4),
                Needs::Nothing | Needs::Namespaces => {}
            }
            assert!(order.hold < Duration::from_secs(30));
        }
    }

    #[test]
    fn the_document_names_every_fault() {
        let document = include_str!("../../../docs/fault-tests.md");
        for fault in Fault::ALL {
            assert!(document.contains(&format!("`{}`", fault.name())), "{}", fault.name());
        }
    }

    #[test]
    fn every_name_names_one_fault() {
        for &fault in Fault::ALL {
            assert_eq!(Fault::named(fault.name()), Some(fault));
        }
        assert_eq!(Fault::named("nonsense"), None);
    }
}
