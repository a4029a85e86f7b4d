//! The command lines of the control plane's programs, and the policy of its audit log.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::Plane;
use crate::product::ACCOUNTS;

/// The controllers the lab has use for: those that make pods, claims, accounts and certificates, and those that clean up.
const CONTROLLERS: &[&str] = &[
    "certificatesigningrequest-approving-controller",
    "certificatesigningrequest-cleaner-controller",
    "certificatesigningrequest-signing-controller",
    "clusterrole-aggregation-controller",
    "daemonset-controller",
    "deployment-controller",
    "device-taint-eviction-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "node-lifecycle-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "resourceclaim-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "statefulset-controller",
    "taint-eviction-controller",
    "ttl-after-finished-controller",
    "ttl-controller",
    "validatingadmissionpolicy-status-controller",
];

impl Plane {
    /// For kube-apiserver: authorization, admission and audit as on any cluster.
    pub(super) fn server_flags(&self) -> Vec<String> {
        let pki = |name| self.pki.path(name);
        let mut flags = vec![
            flag("audit-log-path", self.audit_log()),
            // In megabytes. What is begun anew in the midst of a measurement would be read as silence.
            "--audit-log-maxsize=100000".to_owned(),
            flag("audit-policy-file", self.file("audit.json")),
            flag("client-ca-file", pki("ca.crt")),
            flag("kubelet-client-certificate", pki("kubelet-client.crt")),
            flag("kubelet-client-key", pki("kubelet-client.key")),
            flag("service-account-key-file", pki("sa.pub")),
            flag("service-account-signing-key-file", pki("sa.key")),
            flag("tls-cert-file", pki("apiserver.crt")),
            flag("tls-private-key-file", pki("apiserver.key")),
            format!("--etcd-servers={}", self.etcd),
            format!("--bind-address={}", self.options.listen),
            format!("--advertise-address={}", self.options.address),
            format!("--secure-port={}", self.options.port),
        ];
        flags.extend(
            [
                "--allow-privileged=true",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                // As in the kubelet's configuration.
                "--feature-gates=ResourceHealthStatus=true",
                "--kubelet-preferred-address-types=InternalIP",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--service-cluster-ip-range=10.96.0.0/24",
                // The `kubernetes` service needs no endpoints: its address is one of the namespace's own.
                "--endpoint-reconciler-type=none",
                // What follows saves start time and idle work.
                "--enable-priority-and-fairness=false",
                "--etcd-compaction-interval=0",
                "--etcd-count-metric-poll-period=0",
                "--etcd-db-metric-poll-interval=0",
                "--lease-reuse-duration-seconds=3600",
                "--profiling=false",
                "--shutdown-delay-duration=0s",
            ]
            .map(str::to_owned),
        );
        flags
    }

    /// For kube-controller-manager.
    pub(super) fn manager_flags(&self) -> Vec<String> {
        let mut flags = vec![
            flag("kubeconfig", self.file("manager.kubeconfig")),
            flag("root-ca-file", self.pki.path("ca.crt")),
            flag("service-account-private-key-file", self.pki.path("sa.key")),
            flag("cluster-signing-cert-file", self.pki.path("ca.crt")),
            flag("cluster-signing-key-file", self.pki.path("ca.key")),
            format!("--controllers={}", CONTROLLERS.join(",")),
            "--kube-api-qps=500".into(),
            "--kube-api-burst=1000".into(),
            "--leader-elect=false".into(),
            "--profiling=false".into(),
            "--secure-port=0".into(),
            "--use-service-account-credentials=false".into(),
        ];
        flags.extend(self.options.grace.map(|grace| format!("--node-monitor-grace-period={}s", grace.as_secs())));
        flags
    }
}

/// A flag whose value is a file.
pub(super) fn flag(name: &str, path: PathBuf) -> String {
    format!("--{name}={}", path.display())
}

/// For etcd: in memory as far as possible, and not meant to survive.
pub(super) fn etcd(state: &Path, client: &str, peer: u16) -> Vec<String> {
    let peer = format!("http://127.0.0.1:{peer}");
    vec![
        flag("data-dir", state.join("etcd")),
        "--name=lab".into(),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=lab={peer}"),
        "--unsafe-no-fsync".into(),
        "--log-level=warn".into(),
        "--max-txn-ops=10000".into(),
        "--heartbeat-interval=100".into(),
        "--election-timeout=500".into(),
    ]
}

/// The policy of the audit log: writes are logged once each, reads only when our accounts do them.
pub(super) fn audit_policy() -> String {
    let ours = ["controller", "agent"].map(|name| format!("{ACCOUNTS}{name}"));
    json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
        "rules": [
            // Watches last: they are logged when they begin, and once more when they end.
            {"level": "Metadata", "users": ours},
            {"level": "None", "verbs": ["get", "list", "watch"]},
            {"level": "Metadata", "omitStages": ["ResponseStarted"]},
        ],
    })
    .to_string()
}
