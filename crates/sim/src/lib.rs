//! A simulated cluster with faults, and an explorer that visits every world it can reach.
//!
//! The planners of `patchbay-core` are run against each other exactly as the shells run them: each looks at what it can
//! see, plans, and carries out its plan step by step while everybody else goes on. What the shells, Kubernetes, the kernel
//! and QEMU do is simulated here, as little as the planners can tell apart from the real thing.
//!
//! | module | plays |
//! |---|---|
//! | [`api`] | what the API server holds, and how it creates and deletes |
//! | [`controller`] | the controller's shell: plans, and carries its plan out action by action |
//! | [`importer`] | the agent's loop on the node where devices are used |
//! | [`exporter`] | the agent's loop on the node where devices are plugged in |
//! | [`custody`] | the same agent, about devices that are not lent |
//! | [`kernel`] | usbip-host, vhci ports, sessions, cables |
//! | [`qemu`] | what is in the guests |
//! | [`scheduler`], [`kubelet`], [`garbage`] | Kubernetes: allocation, preparation, owner references |
//! | [`pods`] | ordinary pods that use devices |
//! | [`user`], [`fault`] | people, and what goes wrong |
//! | [`clock`] | time, which passes only when everybody is at rest |
//! | [`fleet`] | clusters of any size, at rest: for measurements |
//!
//! A [`Cluster`] is a value: cheap to clone, hashable, and the same for all histories that lead to the same state (uids and
//! bus addresses are reused once nothing mentions them any more). [`explorer::explore`] visits all worlds breadth first and
//! checks [`laws`] in each.

pub mod api;
pub mod clock;
pub mod cluster;
pub mod controller;
pub mod custody;
pub mod explorer;
pub mod exporter;
pub mod fault;
pub mod fleet;
pub mod garbage;
pub mod importer;
pub mod kernel;
pub mod kubelet;
pub mod laws;
pub mod memo;
pub mod pods;
pub mod qemu;
pub mod scenario;
pub mod scheduler;
pub mod steps;
pub mod user;

pub use cluster::Cluster;
pub use scenario::Scenario;
