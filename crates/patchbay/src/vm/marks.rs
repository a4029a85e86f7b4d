//! What the node's agent says to this process about moves of the machine to another node: empty files in the writable folder.
//! They outlive the container, which the kubelet starts again when QEMU has ended, and end with the pod.
//!
//! * `left`: the machine runs elsewhere, or may do so at any moment. It is written before QEMU sends the last of the machine,
//!   and taken back when it is decided that the machine stays. While it is there QEMU is not started: the machine would be
//!   there twice.
//! * `arrived`: the machine that this pod was made for has come, and was let run here. If QEMU ends after that, the machine
//!   starts anew like any other.

use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;

/// The machine is no longer, or soon not, this pod's.
pub(crate) const LEFT: &str = "left";
/// The machine has become this pod's.
pub(crate) const ARRIVED: &str = "arrived";
/// Between two looks while the machine is away: nearly always the pod is deleted next.
const LOOK: Duration = Duration::from_millis(200);

/// Whether the machine has left.
pub(super) fn has_left(run_dir: &Path) -> bool {
    is_there(run_dir, LEFT)
}

/// Whether the machine has arrived.
pub(super) fn has_arrived(run_dir: &Path) -> bool {
    is_there(run_dir, ARRIVED)
}

/// Completes when the machine may be started here again.
pub(super) async fn until_back(run_dir: &Path) {
    while has_left(run_dir) {
        sleep(LOOK).await;
    }
}

fn is_there(run_dir: &Path, name: &str) -> bool {
    run_dir.join(name).symlink_metadata().is_ok()
}
