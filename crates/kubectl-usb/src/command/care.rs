//! `doctor`.

use patchbay_core::doctor::{self as core_doctor, Verdict};

use crate::connection::Cluster;
use crate::failure::Failure;
use crate::{Answer, UNASKED, doctor, inspect};

/// `doctor`: something is wrong.
const WRONG: u8 = 1;

/// Examines the installation.
pub(super) async fn doctor(cluster: &Cluster) -> Result<Answer, Failure> {
    let report = core_doctor::examine(&inspect::seen(cluster).await?);
    let code = match report.verdict() {
        Verdict::Well => 0,
        Verdict::Wrong => WRONG,
        Verdict::Unsure => UNASKED,
    };
    Ok(Answer { text: doctor::report(&report), code, ..Answer::default() })
}
