//! Devices that are not lent: kept from the drivers of the node while they are assigned, and returned to them afterwards.

use std::sync::Arc;
use std::time::Duration;

use patchbay_core::custody::Step;
use patchbay_core::device::PortPath;
use patchbay_core::names::DeviceName;
use tokio::time::sleep;

use super::Exports;

/// The net under the events.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Looks at them for ever. A device that was plugged in is with the drivers of the node until it has been looked at.
pub(in crate::agent) async fn run(exports: Arc<Exports>) {
    let mut changed = exports.changed.subscribe();
    let mut used = exports.custody.used();
    exports.custody.ready().await;
    loop {
        changed.borrow_and_update();
        used.borrow_and_update();
        exports.look_at_idle().await;
        tokio::select! {
            _ = changed.changed() => {}
            _ = used.changed() => {}
            () = sleep(LOOK_AGAIN) => {}
        }
    }
}

impl Exports {
    async fn look_at_idle(&self) {
        let inventory = self.inventory.borrow().clone();
        if let Err(why) = self.custody.forget(&inventory).await {
            tracing::warn!(why, "what is withheld no more is not forgotten");
        }
        let look = self.custody.look();
        for (device, scanned) in &inventory.devices {
            // Whoever changes something looks again.
            if look.wants(device, scanned) != Step::Leave
                && let Err(why) = self.settle(device, &scanned.attributes.port_path).await
            {
                tracing::warn!(device = %device, why, "not handed over; trying again");
            }
        }
    }

    /// Nobody can lend the device meanwhile; what is lent, or about to be, is left alone.
    async fn settle(&self, device: &DeviceName, place: &PortPath) -> Result<(), String> {
        let Some(mut held) = self.hold(place) else { return Ok(()) };
        if self.records.facts().exports.contains_key(place) || self.status(place).await.is_some() {
            return Ok(());
        }
        held.acted = self.custody.settle(device, place).await?;
        Ok(())
    }
}
