//! What a walk has to do with: three nodes, two namespaces, three machines, four sticks, and our processes.

use std::fmt;

use crate::stick::{Speed, Stick};

/// Content of a stick: small, for each is read from beginning to end each time it comes into a guest.
const SIZE: usize = 256 << 10;

/// A node. The controller runs on the first, which is never switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Node {
    /// `node-1`.
    One,
    /// `node-2`.
    Two,
    /// `node-3`.
    Three,
}

impl Node {
    /// All.
    pub(super) const ALL: [Self; 3] = [Self::One, Self::Two, Self::Three];

    /// Its name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::One => "node-1",
            Self::Two => "node-2",
            Self::Three => "node-3",
        }
    }
}

/// A namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Space {
    /// `walk-a`, which has two machines.
    A,
    /// `walk-b`, which has one.
    B,
}

impl Space {
    /// All.
    pub(super) const ALL: [Self; 2] = [Self::A, Self::B];

    /// Its name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::A => "walk-a",
            Self::B => "walk-b",
        }
    }
}

/// A virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Machine {
    /// `first` of namespace `walk-a`.
    First,
    /// `second` of the same.
    Second,
    /// `third`, of `walk-b`.
    Third,
}

impl Machine {
    /// All.
    pub(super) const ALL: [Self; 3] = [Self::First, Self::Second, Self::Third];

    /// Its name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Second => "second",
            Self::Third => "third",
        }
    }

    /// Its namespace.
    pub(super) const fn space(self) -> Space {
        match self {
            Self::First | Self::Second => Space::A,
            Self::Third => Space::B,
        }
    }
}

/// A stick, whether it is plugged in or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Device {
    /// `red`, of USB 3.0.
    Red,
    /// `green`, of USB 2.0.
    Green,
    /// `blue`, of USB 3.0.
    Blue,
    /// `white`, of USB 2.0.
    White,
}

impl Device {
    /// All.
    pub(super) const ALL: [Self; 4] = [Self::Red, Self::Green, Self::Blue, Self::White];

    /// Its name in the lab.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Green => "green",
            Self::Blue => "blue",
            Self::White => "white",
        }
    }

    /// The stick.
    pub(super) fn stick(self) -> Stick {
        let speed = match self {
            Self::Red | Self::Blue => Speed::Super,
            Self::Green | Self::White => Speed::High,
        };
        Stick::new(&format!("walk-{}", self.name())).speed(speed).size(SIZE)
    }
}

/// A process of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Process {
    /// The controller.
    Controller,
    /// The agent of a node.
    Agent(Node),
    /// The QEMU of a machine.
    Qemu(Machine),
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controller => f.write_str("the controller"),
            Self::Agent(node) => write!(f, "the agent of {node}"),
            Self::Qemu(machine) => write!(f, "the QEMU of {machine}"),
        }
    }
}

/// Things are called by their names.
macro_rules! by_name {
    ($($kind:ty),*) => {
        $(impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        })*
    };
}

by_name!(Node, Space, Machine, Device);
