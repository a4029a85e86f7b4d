//! One real agent, on a node without devices: what it receives from the API server, whatever happens elsewhere in the fleet.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;
use patchbay_usb::fixture::Fixture;

use super::scene::Scene;
use crate::bench::made_up;
use crate::bench::stage::Agent;
use crate::progress::step;
use crate::wait::wait_for;
use crate::wire::Wire;

/// Its node. None of the fleet is called so.
const NAME: &str = "spectator";
/// It has come to rest when it has received nothing for so long.
const QUIET: Duration = Duration::from_secs(3);
/// It has to by then.
const CALM: Duration = Duration::from_secs(120);

/// The agent, and the wire to it.
pub(super) struct Spectator {
    agent: Agent,
    wire: Wire,
    /// What it has received until it had a certificate and was at rest.
    pub(super) joining: u64,
    _node: Fixture,
}

impl Spectator {
    /// Starts it.
    ///
    /// # Errors
    /// When it gets no certificate, or does not come to rest.
    pub(super) fn join(scene: &Scene) -> Result<Self> {
        step("starting a real agent", || {
            let stage = &scene.stage;
            let (heart, node) = (stage.node(NAME)?, made_up::node(stage.folder(), 0));
            let (wire, path) = (Wire::to(stage.port())?, stage.kubeconfig(NAME));
            fs::write(&path, wire.through(&fs::read_to_string(&path)?))?;
            let mut agent = stage.agent(NAME, heart, &node)?;
            agent.has_certificate()?;
            let (mut known, mut since) = (wire.received(), Instant::now());
            wait_for("the agent to receive no more", CALM, || {
                let now = wire.received();
                if now != known {
                    (known, since) = (now, Instant::now());
                }
                if since.elapsed() >= QUIET { Ok(()) } else { Err(format!("{now} bytes")) }
            })?;
            Ok(Self { agent, joining: wire.received(), wire, _node: node })
        })
    }

    /// Bytes that it has received so far.
    pub(super) fn received(&self) -> u64 {
        self.wire.received()
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it complains.
    pub(super) fn leave(self) -> Result<()> {
        self.agent.stop()
    }
}
