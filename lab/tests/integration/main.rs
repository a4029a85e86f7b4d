//! Controller, publisher and agent as the programs they are, against a real API server, scheduler and controller-manager.
//!
//! There is no kernel and no kubelet here: nodes are objects, and the tests write what kubelets and agents would write.
//! Every test has a control plane of its own, with the chart's objects in it; our programs have the rights of their
//! service accounts and no others. What needs a node is a scenario of the lab instead.
//!
//! | module | is |
//! |---|---|
//! | [`stage`] | the control plane, and what people do and read |
//! | [`node`], [`players`] | nodes, their agents and kubelets, played |
//! | [`workloads`] | their Deployment and DaemonSet, for whoever looks at these |
//! | [`program`] | our programs as processes |
//! | [`audit`] | who wrote what |
//! | [`wire`] | the way to the API server, which may go dead |
//! | [`browser`] | a browser, for the page of `kubectl usb ui` |
//! | [`reader`] | what whoever reads slices sees, at every moment |

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests end the test"
)]

mod audit;
mod browser;
mod node;
mod players;
mod program;
mod reader;
mod stage;
mod wire;
mod workloads;

mod admission;
mod agent;
mod attach;
mod changes;
mod cli;
mod events;
mod faults;
mod identity;
mod intruders;
mod leases;
mod machines;
mod metrics;
mod moves;
mod policies;
mod ports;
mod publisher;
mod renewal;
mod repairs;
mod restricted;
mod ui;
