//! `kubectl usb`, run by kubectl as people run it. What it prints is what `docs/kubectl-usb.md` shows, to the letter.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::jiff::Timestamp;
use patchbay_api::{VirtualMachine, keys};
use patchbay_core::speed::Speed;
use patchbay_lab::install::repository;
use serde_json::json;

use crate::node::{Node, device};
use crate::program::Running;
use crate::stage::{Stage, create, delete, eventually, get, merge};
use crate::workloads;

/// What stands in the page for the part of a pod's name that nobody can know.
const SUFFIX: &str = "1a2b3c";

/// What is before the port of a guest.
const PORT: &str = "guest bus 0 port ";

/// A person with a kubeconfig, and all that was typed and read.
struct Person<'s> {
    stage: &'s Stage,
    kubeconfig: PathBuf,
    read: Vec<(String, String)>,
}

/// What a command has said.
struct Said {
    code: i32,
    /// On the standard output.
    text: String,
    /// On the standard error.
    note: String,
}

impl<'s> Person<'s> {
    fn administrator(stage: &'s Stage) -> Self {
        Self { stage, kubeconfig: stage.admin(), read: Vec::new() }
    }

    /// Runs `kubectl usb <line>`.
    fn run(&self, line: &str) -> Said {
        let output = plugin(self.stage, &self.kubeconfig, line).output().unwrap();
        let [text, note] = [output.stdout, output.stderr].map(|part| String::from_utf8(part).unwrap());
        Said { code: output.status.code().unwrap(), text, note }
    }

    /// The same, for the page.
    fn types(&mut self, line: &str, code: i32) {
        let said = self.run(line);
        assert_eq!(said.code, code, "kubectl usb {line}: {}{}", said.text, said.note);
        // What is said while somebody waits depends on who is faster.
        let note = if line.ends_with("--wait") { "" } else { &said.note };
        self.read.push((format!("kubectl usb {line}"), mask(&(said.text + note))));
    }
}

/// `kubectl usb`, as kubectl finds it.
pub(crate) fn plugin(stage: &Stage, kubeconfig: &Path, line: &str) -> Command {
    let parts = stage.parts();
    let mut command = Command::new(parts.bin.join("kubectl"));
    command.arg("usb").args(line.split_whitespace());
    command.env("KUBECONFIG", kubeconfig).env("PATH", parts.kubectl_usb.parent().unwrap()).env("HOME", stage.folder());
    command
}

/// What stands in the page for the time that has passed since something.
const AGE: &str = "5m";

/// Names of attachment pods end in a hash, and the players choose the guest's port by that.
fn mask(text: &str) -> String {
    let pod = |word: &str| match word.rsplit_once('-') {
        Some((head, hash)) if head.contains("usb-") && hash.len() == 6 => format!("{head}-{SUFFIX}"),
        _ => age(word),
    };
    let line = |line: &str| {
        let line = line.split(' ').map(pod).collect::<Vec<_>>().join(" ");
        match line.split_once(PORT) {
            Some((before, after)) => {
                format!("{before}{PORT}9{}\n", after.trim_start_matches(|c: char| c.is_ascii_digit()))
            }
            None => line + "\n",
        }
    };
    text.lines().map(line).collect()
}

fn age(word: &str) -> String {
    let bare = word.trim_end_matches([',', ';', ':']);
    let number = bare.strip_suffix(['s', 'm', 'h', 'd']).unwrap_or_default();
    let is_age = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    if is_age { word.replacen(bare, AGE, 1) } else { word.to_owned() }
}

/// What the page shows: each command, and what is below it.
fn page() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(repository().join("docs/kubectl-usb.md")).unwrap();
    let blocks = text.split("```console\n").skip(1).map(|block| block.split("```").next().unwrap());
    let commands = blocks.flat_map(|block| block.split("$ ").skip(1));
    commands.map(|c| c.split_once('\n').unwrap()).map(|(line, said)| (line.to_owned(), said.to_owned())).collect()
}

/// Without what a doctor hears from the nodes themselves, and what it comes to: here nothing runs in the agents' pods. That is a
/// scenario's (`a_home_node_out_of_reach_holds_up_only_its_own_devices`).
fn without_nodes_own(command: &str, said: &str) -> String {
    const OWN: [&str; 5] = ["kernel", "kubelet", "certificate", "reaches", "answers"];
    if command != "kubectl usb doctor" {
        return said.to_owned();
    }
    let mut own = false;
    let lines = said.lines().filter(|line| {
        if !line.starts_with("    ") {
            own = line.split_whitespace().nth(1).is_some_and(|check| OWN.contains(&check));
        }
        !own && !line.starts_with("Nothing is wrong")
    });
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn the_page_shows_a_devices_life_as_it_is() {
    let stage = Stage::open();
    let controller = Running::leader(&stage, "controller-1");
    let (home, importer) = (Node::join(&stage, "node-1"), Node::join(&stage, "node-2"));
    importer.ports(1);
    let mut it = Person::administrator(&stage);
    it.types("list", 0);
    home.plug(device("webcam", 1, Speed::High));
    stage.node_device_is("webcam", "Attached", "Available");
    it.types("list", 0);

    it.types("assign webcam blue", 0);
    it.types("why webcam", 3);
    stage.namespace("blue");
    stage.node_device_is("webcam", "Assigned", "Assigned");
    stage.machine("blue", "linux-vm", "node-2", &[]);
    stage.machine_is("blue", "linux-vm", "Running", "Running");
    it.types("attach webcam linux-vm -n blue --wait", 0);
    stage.is_attached("blue", "linux-vm", "webcam");
    it.types("list", 0);
    it.types("why webcam", 0);

    home.plug(device("token", 2, Speed::Full));
    stage.node_device_is("token", "Ready", "Ready");
    it.types("assign token blue", 0);
    stage.node_device_is("token", "Assigned", "Assigned");
    it.types("attach token linux-vm -n blue", 0);
    stage.device_is("blue", "token", "Attached", "NoFreeUSBIPPort");
    stage.entry("blue", "linux-vm", "token", |e| e.message.contains("ports"));
    it.types("list -n blue", 0);
    it.types("why token", 3);
    it.types("tree", 0);

    it.types("detach webcam linux-vm -n blue --wait", 0);
    stage.is_attached("blue", "linux-vm", "token");
    home.unplug("token");
    stage.device_is("blue", "token", "Ready", "NotFound");
    stage.entry("blue", "linux-vm", "token", |e| !e.attached);
    it.types("why vm/linux-vm -n blue", 3);
    stage.node_device_is("webcam", "Attached", "Available");
    it.types("unassign webcam", 0);

    workloads::install(&stage, 2);
    it.types("doctor", 2);
    let blocks = |read: &[(String, String)]| {
        read.iter().map(|(line, said)| format!("$ {line}\n{}", without_nodes_own(line, said))).collect::<String>()
    };
    let (read, shown) = (blocks(&it.read), blocks(&page()));
    assert!(read == shown, "docs/kubectl-usb.md has to show:\n{read}");
    stage.check(&controller);
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn the_owner_of_a_machine_needs_no_rights_beyond_the_namespace() {
    let stage = Stage::open();
    let controller = Running::leader(&stage, "controller-1");
    let (home, importer) = (Node::join(&stage, "node-1"), Node::join(&stage, "node-2"));
    importer.ports(1);
    home.plug(device("webcam", 1, Speed::High));
    stage.namespace("blue");
    stage.node_device_is("webcam", "Ready", "Ready");
    stage.assign("webcam", Some("blue"));
    stage.machine("blue", "linux-vm", "node-2", &[]);
    stage.device_is("blue", "webcam", "Attached", "Available");
    stage.machine_is("blue", "linux-vm", "Running", "Running");
    let owner = owner(&stage);

    let said = owner.run("list -n blue -o json");
    let list: serde_json::Value = serde_json::from_str(&said.text).unwrap();
    assert_eq!((said.code, &list["items"][0]["metadata"]["name"]), (0, &json!("webcam")));
    assert_eq!(list["items"][0]["metadata"]["managedFields"], json!(null));
    let said = owner.run("list -A");
    assert_eq!(said.code, 1);
    assert!(said.note.starts_with("error: cannot list nodeusbdevices: "), "{}", said.note);
    assert!(said.note.ends_with("kubectl auth can-i --list shows what you may do.\n"), "{}", said.note);
    let said = owner.run("assign webcam blue");
    assert_eq!(said.code, 1);
    assert!(said.note.starts_with("error: cannot get USB device webcam: "), "{}", said.note);

    let said = owner.run("why webcam -n blue");
    assert_eq!(said.code, 3, "{}", said.note);
    assert_eq!(said.note, "You may not see the whole cluster: this is what namespace blue shows.\n");
    let held = "✓ ready              Device is ready to use\n✗ listed             no virtual machine of namespace blue lists it\n";
    assert!(said.text.contains(held), "{}", said.text);
    let said = owner.run("attach webcam linux-vm -n blue --wait");
    assert_eq!(said.code, 0, "{}", said.note);
    stage.is_attached("blue", "linux-vm", "webcam");
    let said = owner.run("why vm/linux-vm -n blue");
    assert!(said.code == 0 && said.text.ends_with("all its USB devices are in the guest.\n"), "{}", said.text);
    stage.check(&controller);
}

/// Somebody who may work in the namespace blue, and nowhere else.
fn owner(stage: &Stage) -> Person<'_> {
    let account: ServiceAccount =
        serde_json::from_value(json!({"metadata": {"name": "owner", "namespace": "patchbay"}})).unwrap();
    create(&stage.within("patchbay"), &account);
    let role: Role = serde_json::from_value(json!({
        "metadata": {"name": "owner", "namespace": "blue"},
        "rules": [
            {"apiGroups": [keys::GROUP], "resources": ["usbdevices"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": [keys::GROUP], "resources": ["virtualmachines"], "verbs": ["get", "list", "watch", "patch"]},
        ],
    }))
    .unwrap();
    create(&stage.within("blue"), &role);
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "owner", "namespace": "blue"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "owner"},
        "subjects": [{"kind": "ServiceAccount", "name": "owner", "namespace": "patchbay"}],
    }))
    .unwrap();
    create(&stage.within("blue"), &binding);
    let owner = Person { stage, kubeconfig: stage.account("owner"), read: Vec::new() };
    eventually("the owner to have rights", || {
        let said = owner.run("list -n blue");
        if said.code == 0 { Ok(()) } else { Err(said.note) }
    });
    owner
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn people_who_attach_at_the_same_moment_do_not_undo_each_other_and_slips_are_explained() {
    let stage = Stage::open();
    stage.namespace("blue");
    stage.machine("blue", "linux-vm", "node-2", &["first"]);
    let it = Person::administrator(&stage);
    let all = ["a", "b", "c", "d"];
    let attach = |device: &str| plugin(&stage, &it.kubeconfig, &format!("attach {device} linux-vm -n blue"));
    let quiet = |mut command: Command| command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let running: Vec<_> = all.iter().map(|device| quiet(attach(device))).collect();
    assert!(running.into_iter().all(|mut child| child.wait().unwrap().success()));
    let machine: VirtualMachine = get(&stage.within("blue"), "linux-vm").unwrap();
    let mut listed: Vec<_> = machine.spec.usb_devices.iter().map(|d| d.name.as_str()).collect();
    listed.sort_unstable();
    assert_eq!(listed, ["a", "b", "c", "d", "first"]);

    let completed = |line: &str| {
        let mut command = Command::new(stage.parts().kubectl_usb.as_path());
        std::os::unix::process::CommandExt::arg0(&mut command, "kubectl_complete-usb");
        let output = command.args(line.split(' ')).env("KUBECONFIG", &it.kubeconfig).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(completed("-n blue attach webcam lin"), "linux-vm\t\n:4\n");
    assert_eq!(completed("list -n bl"), "blue\t\n:4\n");

    let said = it.run("detach z linux-vm -n blue");
    assert!(said.text.starts_with("z is not on the list of virtual machine linux-vm, which lists "), "{}", said.text);
    let said = it.run("attach a linux-vm -n blue");
    assert_eq!(said.text, "a is on the list of virtual machine linux-vm already\n");
    let note =
        "There is no USB device a in namespace blue yet: an administrator assigns it.\n  kubectl usb assign a blue\n";
    assert_eq!((said.code, said.note.as_str()), (0, note));
    let late = "a is not in virtual machine linux-vm after 1 s: waiting for the controller\n";
    let there = "Those that there are:\n";
    for (line, code, error) in [
        ("attach a linux-vm -n blue --wait --timeout 1s", 4, late.to_owned()),
        ("attach a nobody -n blue", 1, format!("there is no virtual machine nobody in namespace blue\n{there}")),
        ("assign nothing blue", 1, format!("there is no USB device nothing\n{there}  kubectl usb list -A\n")),
        (
            "why nothing -n blue",
            1,
            format!("there is no USB device nothing, and no virtual machine nothing in namespace blue\n{there}"),
        ),
        ("list --context nowhere", 1, "cannot tell how to reach the cluster: ".to_owned()),
        ("attach a", 2, "the following required arguments were not provided:\n  <VM>\n".to_owned()),
    ] {
        let said = it.run(line);
        assert_eq!((said.code, said.text.as_str()), (code, ""), "{line}: {}", said.note);
        assert!(said.note.contains(&format!("error: {error}")), "{line}: {}", said.note);
    }
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_doctor_finds_what_is_missing_and_says_what_it_could_not_ask() {
    let stage = Stage::open();
    let controller = Running::leader(&stage, "controller-1");
    let nodes = ["node-1", "node-2"].map(|name| Node::join(&stage, name));
    nodes.iter().for_each(|node| node.ports(1));
    let it = Person::administrator(&stage);
    let finds = |lines: &[&str]| {
        let said = it.run("doctor");
        assert_eq!(said.code, 1, "{}{}", said.text, said.note);
        for line in lines {
            assert!(said.text.contains(line), "{line} is not in:\n{}", said.text);
        }
    };
    finds(&[
        "✗ controller       there is no Deployment controller\n    Install it again, ",
        "--reset-then-reuse-values --force-conflicts\n✓ leader           controller-1\n",
        "✗ agents           there is no DaemonSet agent\n",
        "\n2 things are wrong.\n",
    ]);
    workloads::install(&stage, 2);
    let said = it.run("doctor");
    // There is no kubelet to run anything in the agents' pods.
    let end = "\nNothing is wrong with what could be seen; 2 checks could not be made.\n";
    assert!(said.code == 2 && said.text.ends_with(end), "{}{}", said.text, said.note);
    assert!(said.text.contains("· answers          cannot ask the agent: "), "{}", said.text);

    let agent = workloads::agent_on(&stage, "node-2");
    let killed =
        json!({"exitCode": 137, "reason": "OOMKilled", "finishedAt": Timestamp::now(), "startedAt": Timestamp::now()});
    let waits = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}});
    let container = json!({"restartCount": 3, "state": waits, "lastState": {"terminated": killed}});
    workloads::say(&stage, &agent, false, &container);
    let name = agent.metadata.name.unwrap();
    delete(&stage.all::<ValidatingAdmissionPolicyBinding>(), "patchbay-pods");
    finds(&[
        "✗ policies         patchbay-pods has no binding: it refuses nothing\n",
        "✗ agents           ready on 1 of 2 nodes; not on node-2\n",
        &format!(
            "✗ agent            pod {name} was killed, because it used more memory than it may (OOMKilled) (3 restarts)\n"
        ),
        "--reset-then-reuse-values --set agent.resources.limits.memory=256Mi\n",
    ]);

    stage.namespace("blue");
    let said = owner(&stage).run("doctor");
    assert_eq!(said.code, 2, "{}{}", said.text, said.note);
    assert!(said.text.contains("· agents           cannot get daemonsets agent: "), "{}", said.text);
    assert!(said.text.contains("\nNothing is wrong with what could be seen; "), "{}", said.text);
    let nowhere = Person { kubeconfig: stage.folder().join("nowhere.kubeconfig"), ..Person::administrator(&stage) };
    let text = std::fs::read_to_string(stage.admin()).unwrap();
    std::fs::write(&nowhere.kubeconfig, text.replace(&format!(":{}", stage.port()), ":1")).unwrap();
    let said = nowhere.run("doctor");
    assert!(said.code == 2 && said.note.starts_with("error: cannot ask for the version: "), "{}", said.note);
    stage.check(&controller);
}

/// Unpacks an archive: its files by their names without the folder that they are all in.
fn unpack(stage: &Stage, archive: &Path) -> BTreeMap<String, String> {
    let folder = stage.folder().join("unpacked");
    std::fs::create_dir_all(&folder).unwrap();
    let tar = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(&folder).status().unwrap();
    assert!(tar.success(), "{tar}");
    let listed = Command::new("tar").arg("-tzf").arg(archive).output().unwrap();
    let names = String::from_utf8(listed.stdout).unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    names.lines().map(|name| (name.split_once('/').unwrap().1.to_owned(), read(name))).collect()
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_dump_has_what_is_ours_and_no_secrets() {
    let stage = Stage::open();
    let controller = Running::leader(&stage, "controller-1");
    let (home, importer) = (Node::join(&stage, "node-1"), Node::join(&stage, "node-2"));
    importer.ports(1);
    home.plug(device("webcam", 1, Speed::High));
    stage.namespace("blue");
    stage.node_device_is("webcam", "Ready", "Ready");
    stage.assign("webcam", Some("blue"));
    stage.machine("blue", "linux-vm", "node-2", &["webcam"]);
    stage.is_attached("blue", "linux-vm", "webcam");
    workloads::install(&stage, 2);
    let secret: Secret = serde_json::from_value(json!({
        "metadata": {"name": "mine", "namespace": "patchbay"}, "stringData": {"password": "hunter2"},
    }))
    .unwrap();
    create(&stage.within("patchbay"), &secret);
    let noted = json!({"metadata": {"annotations": {"example.com/password": "hunter2"}}});
    merge(&stage.within::<VirtualMachine>("blue"), "linux-vm", noted);

    let it = Person::administrator(&stage);
    let path = stage.folder().join("dump.tar.gz");
    let said = it.run(&format!("sysdump --output {}", path.display()));
    assert_eq!(said.code, 0, "{}", said.note);
    assert!(said.text.starts_with(&format!("{} (", path.display())), "{}", said.text);
    assert!(said.note.contains("\nnodeusbdevices: 1\n"), "{}", said.note);
    let files = unpack(&stage, &path);
    for (file, words) in [
        ("README.txt", "problems.txt"),
        ("doctor.txt", "✓ API server       Kubernetes v1."),
        ("tree.txt", "webcam in vm blue/linux-vm"),
        ("versions.yaml", "gitVersion: v1."),
        ("objects/nodeusbdevices.yaml", "Webcam C920"),
        ("objects/usbdevices.yaml", "namespace: blue"),
        ("objects/virtualmachines.yaml", "name: linux-vm"),
        ("objects/resourceslices.yaml", "node-2-ports"),
        ("objects/resourceclaims.yaml", "usb-webcam"),
        ("objects/resourceclaimtemplates.yaml", "name: webcam"),
        ("objects/deviceclasses.yaml", "usbip-ports.virtualization.deckhouse.io"),
        ("objects/customresourcedefinitions.yaml", "nodeusbdevices.virtualization.deckhouse.io"),
        ("objects/validatingadmissionpolicies.yaml", "patchbay-pods"),
        ("objects/daemonsets.yaml", "name: agent"),
        ("objects/pods.yaml", "vm-linux-vm"),
        ("objects/leases.yaml", "controller-1"),
        ("events.yaml", "AttachedToVirtualMachine"),
    ] {
        let text = files.get(file).unwrap_or_else(|| panic!("{file} is missing: {:?}", files.keys()));
        assert!(text.contains(words), "{file} has no {words}:\n{text}");
    }
    assert!(files.values().all(|text| !text.contains("hunter2") && !text.contains("managedFields:")));
    // There is no kubelet that could tell what they have written.
    let problems = &files["problems.txt"];
    assert!(problems.lines().all(|line| line.starts_with("logs of pod ")), "{problems}");

    let said = it.run(&format!("sysdump --output {}", path.display()));
    assert_eq!(said.code, 1, "a file that is there is not written over: {}", said.text);
    let path = stage.folder().join("owner.tar.gz");
    let said = owner(&stage).run(&format!("sysdump --output {}", path.display()));
    assert_eq!(said.code, 0, "{}", said.note);
    let files = unpack(&stage, &path);
    assert!(
        files["problems.txt"].contains("nodes: cannot list nodes: nodes is forbidden: "),
        "{}",
        files["problems.txt"]
    );
    stage.check(&controller);
}

/// A program that ends with the test at the latest.
pub(crate) struct Watching(pub(crate) Child);

impl Watching {
    /// Somebody presses Ctrl-C.
    pub(crate) fn interrupt(&self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn who_watches_reads_a_line_for_each_change_until_it_is_ended() {
    let stage = Stage::open();
    let controller = Running::leader(&stage, "controller-1");
    let home = Node::join(&stage, "node-1");
    let it = Person::administrator(&stage);
    let [lines, words] = ["watch.out", "watch.err"].map(|name| stage.folder().join(name));
    let mut command = plugin(&stage, &it.kubeconfig, "watch webcam");
    command.stdout(File::create(&lines).unwrap()).stderr(File::create(&words).unwrap());
    let mut child = Watching(command.spawn().unwrap());
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    // Columns are as wide as they have to be by then.
    let says = |path: &Path, text: &str| {
        eventually(&format!("{text:?} to be told"), || {
            let found = read(path).split_whitespace().collect::<Vec<_>>().join(" ");
            if found.contains(text) { Ok(()) } else { Err(found) }
        });
    };
    says(&words, "There is no USB device webcam yet: waiting for it.");
    home.plug(device("webcam", 1, Speed::High));
    says(&lines, "Z webcam node-1 1-1 - - True False No namespace is assigned for the device: ");
    home.plug(device("token", 2, Speed::Full));
    stage.namespace("blue");
    stage.assign("webcam", Some("blue"));
    says(&lines, "Z webcam node-1 1-1 blue - True False Device is available for attachment");
    home.unplug("webcam");
    says(&lines, "Z webcam node-1 1-1 blue - NotFound False Device is absent on the host");
    child.interrupt();
    assert!(child.0.wait().unwrap().success());
    let text = read(&lines);
    assert!(text.starts_with("TIME ") && !text.contains("token") && !text.contains('\u{1b}'), "{text}");
    let told: Vec<_> = text.lines().map(|line| line.split_once("Z   ").map_or("", |(_, told)| told)).collect();
    assert!(told.windows(2).all(|two| two[0] != two[1]), "nothing is said twice: {text}");
    stage.check(&controller);
}
