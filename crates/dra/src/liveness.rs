//! The probe over HTTP, for the kubelet's liveness probes: `GET /healthz` is
//! answered with 200 and `ok`, or with 503 and what is wrong in words.

use std::fmt::Display;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::http::{self, Answer};
use crate::probe::Probe;

/// The path that is answered.
pub const PATH: &str = "/healthz";

/// For one look at the plugin. Kubelets wait 1 s unless the manifest says
/// otherwise: let it say more than this (`timeoutSeconds`).
pub const PROBE_DEADLINE: Duration = Duration::from_secs(5);

/// What whoever asks gives it: time for that look, and a second.
const ANSWER_DEADLINE: Duration = Duration::from_secs(6);

/// Answers for the plugin until it is dropped. Never ends by itself.
pub async fn serve(listener: TcpListener, probe: Probe) {
    http::serve(listener, PATH, || async {
        match probe.check(PROBE_DEADLINE).await {
            Ok(()) => Answer::Well("text/plain; charset=utf-8", "ok".to_owned()),
            Err(problem) => {
                tracing::error!(%problem, "the liveness probe fails");
                Answer::Unwell(problem.to_string())
            }
        }
    })
    .await;
}

/// Asks a plugin of this machine, as the kubelet's probe does.
///
/// # Errors
/// What it says is wrong, or why it says nothing; in words.
pub async fn ask(port: u16) -> Result<(), String> {
    let silent = |why: &dyn Display| format!("the agent does not answer on its health port {port}: {why}");
    match timeout(ANSWER_DEADLINE, http::get(port, PATH)).await {
        Ok(Ok((true, _))) => Ok(()),
        Ok(Ok((false, words))) => Err(words),
        Ok(Err(error)) => Err(silent(&error)),
        Err(_) => Err(silent(&format!("nothing within {} s", ANSWER_DEADLINE.as_secs()))),
    }
}
