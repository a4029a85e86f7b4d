//! What nodes owe each other: they let go of what is not theirs any more, and know each other by certificates that change.

use anyhow::{Context, Result, ensure};
use patchbay_core::home::TO_LET_GO;

use crate::case::{BOOT, Case, SOON, VM};
use crate::cluster::Lab;
use crate::stick::Stick;

use super::limits::SMALL;
use super::reading;

/// The node's key and certificate.
const IDENTITY: &str = "sha256sum /var/lib/patchbay/identity.pem";

/// A guest reads a disk, and the agent of its node is stopped in its tracks. The assignment is withdrawn: nobody else wants the
/// disk, and the guest loses it all the same. When the agent goes on, all is as after any other detach.
pub(super) fn importer_does_nothing(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "withdrawn")?;
    let stick = Stick::new("withdrawn").size(SMALL);
    let (device, mut guest) = case.reading(&stick, "node-1", "node-2")?;
    let importer = lab.node("node-2")?;
    importer.signal("STOP", "agent")?;
    reading::goes_on(&mut guest)?;
    guest.forget();
    case.reassign(&device, None)?;
    guest.loses_disk(TO_LET_GO + SOON).context("the assignment is withdrawn")?;
    let states = importer.states("agent")?;
    ensure!(states.starts_with('T'), "the agent of the importer has had a hand in it: {states}");

    importer.signal("CONT", "agent")?;
    case.wait_node_condition(&device, "Assigned", "Available")?;
    case.end()
}

/// The authority is taken away while a guest reads: both agents get certificates of another one, and the guest does not notice.
/// What is attached afterwards is attached with them.
pub(super) fn all_certificates_change(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "certificates")?;
    let stick = Stick::new("certificates").size(SMALL);
    let (device, mut guest) = case.reading(&stick, "node-1", "node-2")?;
    let identities = || -> Result<Vec<String>> { lab.nodes().iter().map(|node| node.run(IDENTITY)).collect() };
    let before = identities()?;
    guest.forget();
    lab.kubectl(&["delete", "secret", "-n", "patchbay", "patchbay-ca"])?;
    lab.wait_for("every node to have another certificate", SOON, || {
        let now = identities().map_err(|error| format!("{error:#}"))?;
        let same = now.iter().zip(&before).filter(|(now, before)| now == before).count();
        if same == 0 { Ok(()) } else { Err(format!("{same} have the one they had")) }
    })?;
    reading::has_gone_on(&guest, SOON).context("while certificates changed")?;

    let second = Stick::new("afterwards").size(SMALL);
    let (other, _) = case.plug("node-1", &second)?;
    case.assign(&other, &case.namespace)?;
    case.set_devices(VM, &[&device, &other])?;
    guest.reads(&second, BOOT).context("attached with the certificates of the other authority")?;
    reading::goes_on(&mut guest)?;
    case.end()
}
