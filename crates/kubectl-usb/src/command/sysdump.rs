//! `sysdump`. What cannot be fetched costs itself and nothing else.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, ListParams, LogParams};
use kube::core::DynamicObject;
use kube::{Api, Resource, ResourceExt};
use patchbay_api::installation::NAMESPACE;
use patchbay_api::{NodeUSBDevice, USBDevice, VirtualMachine, VirtualMachineOperation, claim, crds, keys};
use patchbay_core::DRIVER;
use serde_json::json;

use crate::archive::Archive;
use crate::connection::Cluster;
use crate::failure::Failure;
use crate::look::everything;
use crate::scrub::Containers;
use crate::style::aside;
use crate::{Answer, doctor, inspect, look, sysdump, tree};

/// The most lines of a log, from its end.
const LINES: i64 = 50_000;

/// Where Events about objects without a namespace are.
const CLUSTER_EVENTS: &str = "default";

/// An archive that is being filled.
struct Dump<'c> {
    cluster: &'c Cluster,
    archive: Archive,
    problems: Vec<String>,
    /// What Events are wanted about: kind, namespace and name.
    subjects: Vec<(String, Option<String>, String)>,
}

/// Makes the archive.
pub(super) async fn sysdump(cluster: &Cluster, output: Option<&Path>) -> Result<Answer, Failure> {
    let now = Timestamp::now();
    // Whoever does not even tell its version tells nothing else.
    let version = cluster.ask("ask for the version", cluster.client().apiserver_version()).await?;
    let name = sysdump::name(now);
    let path = output.map_or_else(|| PathBuf::from(format!("{name}.tar.gz")), Path::to_path_buf);
    let cannot = |error: std::io::Error| {
        let message = format!("cannot write {}: {error}", path.display());
        Failure::Unfit(message, "--output names another file.".to_owned())
    };
    let time = u64::try_from(now.as_second()).unwrap_or(0);
    let archive = Archive::create(&path, &name, time).map_err(cannot)?;
    let mut dump = Dump { cluster, archive, problems: Vec::new(), subjects: Vec::new() };
    dump.archive.add("README.txt", sysdump::README.as_bytes()).map_err(cannot)?;
    let versions =
        json!({"kubernetes": version, "kubectlUsb": env!("CARGO_PKG_VERSION"), "apiVersion": keys::API_VERSION});
    dump.archive.add("versions.yaml", sysdump::file(&[versions]).as_bytes()).map_err(cannot)?;
    dump.fill().await.map_err(cannot)?;
    let Dump { mut archive, problems, .. } = dump;
    archive.add("problems.txt", problems.concat().as_bytes()).map_err(cannot)?;
    let length = archive.close().map_err(cannot)?;
    let note = match problems.len() {
        0 => String::new(),
        count => format!("Not all could be fetched ({count}): problems.txt in it says what, and why.\n"),
    };
    let text = format!("{} ({} KiB)\n", path.display(), length.div_ceil(1024));
    Ok(Answer { text, note, code: 0 })
}

type Written = std::io::Result<()>;

impl Dump<'_> {
    async fn fill(&mut self) -> Written {
        self.reports().await?;
        self.cluster_wide().await?;
        self.installation().await?;
        let claims = self.ours::<ResourceClaim>().await?;
        self.ours::<ResourceClaimTemplate>().await?;
        self.ours::<PodDisruptionBudget>().await?;
        self.pods(&claims).await?;
        self.events().await
    }

    /// What people would look at first.
    async fn reports(&mut self) -> Written {
        let plain = |text: &str| anstream::adapter::strip_str(text).to_string();
        let seen = inspect::seen(self.cluster).await.map(|seen| patchbay_core::doctor::examine(&seen));
        if let Some(report) = self.got("doctor", seen) {
            self.archive.add("doctor.txt", plain(&doctor::report(&report)).as_bytes())?;
        }
        let world = look::for_tree(self.cluster).await;
        if let Some(world) = self.got("tree", world) {
            self.archive.add("tree.txt", plain(&tree::tree(&world, None)).as_bytes())?;
        }
        Ok(())
    }

    async fn cluster_wide(&mut self) -> Written {
        let all = everything();
        let keep = |_: &DynamicObject| true;
        self.keep::<Node>(None, &all, keep).await?;
        self.keep::<NodeUSBDevice>(None, &all, keep).await?;
        self.keep::<USBDevice>(None, &all, keep).await?;
        self.keep::<VirtualMachine>(None, &all, keep).await?;
        self.keep::<VirtualMachineOperation>(None, &all, keep).await?;
        self.keep::<ResourceSlice>(None, &all.clone().fields(&format!("spec.driver={DRIVER}")), keep).await?;
        self.ours::<DeviceClass>().await.map(drop)
    }

    async fn installation(&mut self) -> Written {
        let mut definitions = Vec::new();
        for name in crds::all().iter().map(ResourceExt::name_any) {
            let only = everything().fields(&format!("metadata.name={name}"));
            definitions.extend(self.list::<CustomResourceDefinition>(None, &only).await);
        }
        self.write::<CustomResourceDefinition>(&definitions, Containers::Ours)?;
        let named = |object: &DynamicObject| object.name_any().starts_with("patchbay-");
        self.keep::<ValidatingAdmissionPolicy>(None, &everything(), named).await?;
        self.keep::<ValidatingAdmissionPolicyBinding>(None, &everything(), named).await?;
        let (here, keep) = (Some(NAMESPACE), |_: &DynamicObject| true);
        self.keep::<Deployment>(here, &everything(), keep).await?;
        self.keep::<ReplicaSet>(here, &everything(), keep).await?;
        self.keep::<DaemonSet>(here, &everything(), keep).await?;
        self.keep::<Lease>(here, &everything(), keep).await.map(drop)
    }

    /// Pods of ours, of machines and attachments, and those that use claims of ours; and the logs of the first.
    async fn pods(&mut self, claims: &[DynamicObject]) -> Written {
        let programs = self.list::<Pod>(Some(NAMESPACE), &everything()).await;
        let mut pods = programs.clone();
        for label in [keys::ATTACHMENT, keys::VM_NAME] {
            pods.extend(self.list::<Pod>(None, &everything().labels(label)).await);
        }
        let mut items = sysdump::list(&pods, Containers::Ours);
        let known: BTreeSet<_> = pods.iter().map(|pod| (pod.namespace(), pod.name_any())).collect();
        let mut others = Vec::new();
        for key in consumers(claims).difference(&known) {
            let only = everything().fields(&format!("metadata.name={}", key.1));
            others.extend(self.list::<Pod>(key.0.as_deref(), &only).await);
        }
        items.extend(sysdump::list(&others, Containers::Theirs));
        self.about::<Pod>(&pods);
        self.about::<Pod>(&others);
        aside(&format!("pods: {}", items.len()));
        self.archive.add("objects/pods.yaml", sysdump::file(&items).as_bytes())?;
        for pod in &programs {
            self.logs(pod).await?;
        }
        Ok(())
    }

    async fn logs(&mut self, pod: &DynamicObject) -> Written {
        let name = pod.name_any();
        let api: Api<Pod> = Api::namespaced(self.cluster.client(), NAMESPACE);
        let containers = pod.data.pointer("/status/containerStatuses").and_then(|all| all.as_array());
        for container in containers.into_iter().flatten() {
            let Some(of) = container.get("name").and_then(|name| name.as_str()) else { continue };
            let restarted = container.get("restartCount").and_then(serde_json::Value::as_i64).unwrap_or(0) > 0;
            for (previous, ending) in [(false, "log"), (true, "previous.log")] {
                if previous && !restarted {
                    continue;
                }
                let params = LogParams {
                    container: Some(of.to_owned()),
                    previous,
                    tail_lines: Some(LINES),
                    timestamps: true,
                    ..LogParams::default()
                };
                let what = format!("read the {ending} of pod {name}");
                let log = self.cluster.ask(&what, api.logs(&name, &params)).await;
                if let Some(log) = self.got(&format!("logs of pod {name}"), log) {
                    aside(&format!("{ending} of pod {name}: {} lines", log.lines().count()));
                    self.archive.add(&format!("logs/{name}/{of}.{ending}"), log.as_bytes())?;
                }
            }
        }
        Ok(())
    }

    /// Events about all that is in the archive.
    async fn events(&mut self) -> Written {
        let places: BTreeSet<_> = self.subjects.iter().filter_map(|(_, namespace, _)| namespace.clone()).collect();
        let mut events = Vec::new();
        for namespace in places.iter().map(String::as_str).chain([CLUSTER_EVENTS]).collect::<BTreeSet<_>>() {
            let all = self.list::<Event>(Some(namespace), &everything()).await;
            events.extend(all.into_iter().filter(|event| sysdump::is_about(event, &self.subjects)));
        }
        aside(&format!("events: {}", events.len()));
        self.archive.add("events.yaml", sysdump::file(&sysdump::list(&events, Containers::Ours)).as_bytes())
    }

    /// The objects of a kind that is not ours, as far as they have to do with us.
    async fn ours<K: Resource<DynamicType = ()>>(&mut self) -> std::io::Result<Vec<DynamicObject>> {
        self.keep::<K>(None, &everything(), sysdump::is_ours).await
    }

    /// Puts objects of a kind into a file of their own.
    async fn keep<K: Resource<DynamicType = ()>>(
        &mut self,
        namespace: Option<&str>,
        params: &ListParams,
        keep: impl Fn(&DynamicObject) -> bool,
    ) -> std::io::Result<Vec<DynamicObject>> {
        let mut objects = self.list::<K>(namespace, params).await;
        objects.retain(keep);
        self.write::<K>(&objects, Containers::Ours)?;
        Ok(objects)
    }

    fn write<K: Resource<DynamicType = ()>>(&mut self, objects: &[DynamicObject], containers: Containers) -> Written {
        let kind = K::plural(&());
        aside(&format!("{kind}: {}", objects.len()));
        self.about::<K>(objects);
        let text = sysdump::file(&sysdump::list(objects, containers));
        self.archive.add(&format!("objects/{kind}.yaml"), text.as_bytes())
    }

    fn about<K: Resource<DynamicType = ()>>(&mut self, objects: &[DynamicObject]) {
        let subject = |object: &DynamicObject| (K::kind(&()).into_owned(), object.namespace(), object.name_any());
        self.subjects.extend(objects.iter().map(subject));
    }

    /// As they are, and not as our types have them.
    async fn list<K: Resource<DynamicType = ()>>(
        &mut self,
        namespace: Option<&str>,
        params: &ListParams,
    ) -> Vec<DynamicObject> {
        let kind = ApiResource::erase::<K>(&());
        let client = self.cluster.client();
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &kind),
            None => Api::all_with(client, &kind),
        };
        let what = format!("list {}", kind.plural);
        let answer = self.cluster.ask(&what, api.list(params)).await;
        let mut objects = self.got(&kind.plural, answer).map(|list| list.items).unwrap_or_default();
        // Items of a list do not say what they are.
        for object in &mut objects {
            object.types.get_or_insert_with(|| kube::core::TypeMeta {
                api_version: kind.api_version.clone(),
                kind: kind.kind.clone(),
            });
        }
        objects
    }

    /// What was fetched; what was not is said, and written down.
    fn got<T>(&mut self, what: &str, answer: Result<T, Failure>) -> Option<T> {
        answer
            .map_err(|failure| {
                let problem = format!("{what}: {failure}");
                aside(&problem);
                self.problems.push(problem + "\n");
            })
            .ok()
    }
}

/// The pods that claims are reserved for.
fn consumers(claims: &[DynamicObject]) -> BTreeSet<(Option<String>, String)> {
    let read = |object: &DynamicObject| object.clone().try_parse::<ResourceClaim>().ok();
    let pods = claims.iter().filter_map(read).flat_map(|claim| {
        let namespace = claim.namespace();
        claim::consumers(&claim).into_iter().map(move |(pod, _)| (namespace.clone(), pod.to_string()))
    });
    pods.collect()
}
