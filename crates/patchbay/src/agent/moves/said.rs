//! What was said of a move, and when: the API server's watch lags behind our own writes, and nobody else writes that condition.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use patchbay_api::{keys, migration};
use patchbay_core::conditions::Seconds;
use patchbay_core::migration::Report;
use patchbay_core::names::{PodName, PodRef};
use tokio::time::{Instant, timeout};

use super::Moves;

/// One answer of the API server.
const API: Duration = Duration::from_secs(5);
/// Numbers that go up are not told more often.
const PACE: Duration = Duration::from_secs(5);

/// What was said last.
#[derive(Default)]
pub(super) struct Said(Option<(Report, Seconds, Instant)>);

impl Said {
    /// Our last word, or before it what the API server has.
    pub(super) fn or(&self, known: Option<&Report>) -> Option<Report> {
        self.0.as_ref().map(|(report, ..)| report).or(known).cloned()
    }

    /// How long a report has to wait, so that people and the API server are not flooded.
    pub(super) fn too_soon(&self, report: &Report) -> Option<Duration> {
        match (&self.0, report) {
            (Some((Report::Moving(Some(_)), _, at)), Report::Moving(_)) => {
                Some(PACE.saturating_sub(at.elapsed())).filter(|rest| !rest.is_zero())
            }
            _ => None,
        }
    }

    /// Says how far the move of the machine in `pod` to the pod `to` is.
    ///
    /// # Errors
    /// The API server does not answer, or does not take it; in words.
    pub(super) async fn say(
        &mut self,
        moves: &Moves,
        pod: &PodRef,
        to: &PodName,
        report: &Report,
    ) -> Result<(), String> {
        let same = self.0.as_ref().filter(|(last, ..)| last.reason() == report.reason());
        let since = same.map_or_else(|| jiff::Timestamp::now().as_second(), |(_, since, _)| *since);
        let patch = migration::patch(pod, to, report, since);
        let pods = Api::<Pod>::namespaced(moves.client.clone(), pod.namespace.as_str());
        let parameters = PatchParams::apply(keys::AGENT).force();
        let sent = timeout(API, pods.patch_status(pod.name.as_str(), &parameters, &Patch::Apply(patch))).await;
        match sent.map_err(|_| "the API server does not answer".to_owned())? {
            // The pod is gone, or another one has its name: nobody is left to be told.
            Ok(_) => {}
            Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => {}
            Err(error) => return Err(error.to_string()),
        }
        if !matches!(report, Report::Moving(Some(_))) {
            tracing::info!(%pod, %to, reason = report.reason(), message = report.message(), "move");
        }
        self.0 = Some((report.clone(), since, Instant::now()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_go_up_are_told_at_a_pace_and_all_else_at_once() {
        let said = |report| Said(Some((report, 0, Instant::now())));
        let counting = said(Report::Moving(Some(1)));
        assert!(counting.too_soon(&Report::Moving(Some(2))).is_some());
        assert_eq!(counting.too_soon(&Report::Paused), None);
        assert_eq!(counting.too_soon(&Report::Failed(String::new())), None);
        assert_eq!(said(Report::Moving(None)).too_soon(&Report::Moving(Some(2))), None);
    }

    #[test]
    fn what_was_said_last_counts_before_what_the_watch_shows() {
        let known = Report::Moving(None);
        assert_eq!(Said::default().or(Some(&known)), Some(known.clone()));
        assert_eq!(Said(Some((Report::Paused, 0, Instant::now()))).or(Some(&known)), Some(Report::Paused));
    }
}
