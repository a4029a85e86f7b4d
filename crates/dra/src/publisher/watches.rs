//! The two watches of slices: of those with this node's label, and of those without any.
//!
//! The second is silent in ordinary times. After an update from a version that set no label it finds what that has left; and
//! what somebody has made without a label, or taken the label from, is found as soon as the rest.

use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::time::Instant;

use super::Patience;
use crate::backoff::Backoff;
use crate::label::Share;
use crate::slices::Publishing;

/// What a watch tells.
pub(super) type Told = (Share, watcher::Result<watcher::Event<ResourceSlice>>);

/// Opens both. They never end.
pub(super) fn open(
    slices: &Api<ResourceSlice>,
    publishing: &Publishing,
    patience: Patience,
) -> impl Stream<Item = Told> + use<> {
    let driver = format!("spec.driver={}", publishing.driver);
    let [labelled, unlabelled] = Share::ALL.map(|share| {
        let config = watcher::Config::default().fields(&driver).labels(&share.selector(publishing));
        let pauses = Pauses(Backoff::new(patience.first, patience.longest));
        watcher::watcher(slices.clone(), config).backoff(pauses).map(move |told| (share, told))
    });
    stream::select(labelled, unlabelled)
}

/// Pauses of a watch between failed attempts.
struct Pauses(Backoff);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.0.next(Instant::now()))
    }
}

impl kube::runtime::utils::Backoff for Pauses {
    fn reset(&mut self) {
        // Starts over by itself after a quiet time.
    }
}
