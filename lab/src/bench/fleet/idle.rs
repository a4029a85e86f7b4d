//! Nothing happens.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::books::Asked;
use super::scene::Scene;
use super::spectator::Spectator;
use crate::bench::usage::Watched;
use crate::progress::step;

/// For how many seconds it is watched.
pub(super) const WATCHED: u32 = 60;

/// What that takes.
pub(super) struct Idle {
    /// Of one processor, by the controller.
    pub(super) cpu_percent: f64,
    pub(super) asked: Asked,
    /// Bytes that an agent has received.
    pub(super) received: u64,
}

/// Watches the controller do nothing.
///
/// # Errors
/// When it ends.
pub(super) fn watch(scene: &mut Scene, agent: &Spectator) -> Result<Idle> {
    step(&format!("watching the controller do nothing for {WATCHED} s"), || {
        scene.books.settle()?;
        let (mut watched, begin, received) =
            (Watched::begin(scene.controller()?.pid())?, Instant::now(), agent.received());
        for second in 1..=WATCHED {
            sleep((Duration::from_secs(1) * second).saturating_sub(begin.elapsed()));
            watched.look()?;
        }
        Ok(Idle {
            cpu_percent: watched.look()?.cpu.as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0,
            asked: scene.books.close()?,
            received: agent.received() - received,
        })
    })
}
