//! Calls of other agents that want a machine taken.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use patchbay_api::migration as api;
use patchbay_core::home::Verdict;
use patchbay_core::migration::{Guest, Phase, Pod as Machine, Request, authorise};
use patchbay_core::names::{Namespace, NodeName, PodName, PodRef, Uid};
use patchbay_link::{Incoming, LinkError, Migrate};
use patchbay_qmp::{Monitor, migration};
use tokio::time::{Instant, sleep, timeout};

use super::Moves;
use super::qemu;
use crate::agent::steps::{blocking, chain};

/// One answer of the API server.
const API: Duration = Duration::from_secs(5);
/// How long the caller waits for a QEMU that is not ready to load.
const READY: Duration = Duration::from_secs(30);
/// How often it is asked meanwhile.
const ASK_AGAIN: Duration = Duration::from_millis(500);

impl Moves {
    /// Leads one call to its end.
    ///
    /// # Errors
    /// The caller is gone.
    pub(in crate::agent) async fn answer(&self, mut incoming: Incoming, asked: Migrate) -> Result<(), LinkError> {
        let named = |pod: &patchbay_link::Pod| PodRef {
            namespace: Namespace::new(&asked.namespace),
            name: PodName::new(&pod.name),
            uid: Uid::new(&pod.uid),
        };
        let peer = NodeName::new(incoming.peer_node());
        let request = Request { peer, source: named(&asked.source), target: named(&asked.target) };
        let deadline = Instant::now() + READY;
        let mut changed = self.changed.subscribe();
        let mut said = String::new();
        let (monitor, number) = loop {
            changed.borrow_and_update();
            let why = match self.judge(&request).await {
                Ok(Verdict::Deny(reason)) => {
                    tracing::warn!(peer = %request.peer, source = %request.source, target = %request.target, reason, "move denied");
                    return incoming.deny(&reason).await;
                }
                Ok(Verdict::Grant) => match self.ready(&request.target).await {
                    Ok(found) => break found,
                    Err(why) => why,
                },
                Ok(Verdict::Wait(why) | Verdict::Withdrawn(why)) | Err(why) => why,
            };
            if Instant::now() >= deadline {
                return incoming.deny(&why).await;
            }
            if why != said {
                incoming.wait(&why).await?;
                said = why;
            }
            tokio::select! {
                gone = incoming.hung_up() => return Err(gone),
                _ = changed.changed() => {}
                () = sleep(ASK_AGAIN) => {}
            }
        };
        // Of two callers that are both in the right, which there cannot be, one gets it.
        if self.load(&request.target.uid, |load| load.begun.replace(number)).is_some() {
            return incoming.deny(&format!("pod {} is loading already", request.target)).await;
        }
        let taken = self.take(incoming, &monitor, &request).await;
        if let Err(why) = &taken {
            tracing::warn!(pod = %request.target, why, "the virtual machine is not loaded");
            self.load(&request.target.uid, |load| load.failed = Some(why.clone()));
        }
        self.wake();
        Ok(())
    }

    /// Accepts, and gives the connection to QEMU.
    async fn take(&self, incoming: Incoming, monitor: &Monitor, request: &Request) -> Result<(), String> {
        let session = incoming.accept().await.map_err(|error| chain(&error))?;
        let socket = blocking(move || session.into_kernel().map_err(|error| chain(&error))).await?;
        migration::receive(monitor, socket).await.map_err(|error| format!("QEMU does not load: {}", chain(&error)))?;
        tracing::info!(pod = %request.target, source = %request.source, peer = %request.peer, "loading the virtual machine");
        Ok(())
    }

    /// The QEMU of a pod, if it waits for a machine.
    async fn ready(&self, pod: &PodRef) -> Result<(Monitor, u64), String> {
        let monitor = self.load(&pod.uid, |load| load.monitor.clone());
        let (monitor, number) = monitor.ok_or_else(|| format!("QEMU in pod {pod} does not answer"))?;
        match timeout(API, qemu::look(&monitor)).await {
            Ok(Ok(qemu)) if qemu.phase == Phase::None && qemu.guest == Guest::Awaited => Ok((monitor, number)),
            Ok(Ok(_)) => Err(format!("QEMU in pod {pod} does not wait for a virtual machine")),
            Ok(Err(error)) => Err(format!("QEMU in pod {pod} does not answer: {}", chain(&error))),
            Err(_) => Err(format!("QEMU in pod {pod} does not answer")),
        }
    }

    async fn judge(&self, request: &Request) -> Result<Verdict, String> {
        let (source, target) = tokio::try_join!(self.ask(&request.source), self.ask(&request.target))?;
        Ok(authorise(&self.node, request, source.as_ref(), target.as_ref()))
    }

    /// A pod as the API server has it now.
    async fn ask(&self, pod: &PodRef) -> Result<Option<Machine>, String> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), pod.namespace.as_str());
        match timeout(API, pods.get_opt(pod.name.as_str())).await {
            Ok(Ok(found)) => Ok(found.and_then(|pod| api::read(&pod).ok())),
            Ok(Err(error)) => Err(format!("the API server cannot be asked: {error}")),
            Err(_) => Err("the API server does not answer".to_owned()),
        }
    }
}
