//! `tree` and `why`.

use kube::Api;
use patchbay_api::VirtualMachine;
use patchbay_core::controller::{World, why as chain};
use patchbay_core::names::{DeviceName, Namespace, VmName};

use crate::Answer;
use crate::connection::Cluster;
use crate::failure::Failure;
use crate::{HELD_UP, list, look, tree, why};

/// Draws the tree.
pub(super) async fn tree(cluster: &Cluster) -> Result<Answer, Failure> {
    let namespace = Namespace::new(&cluster.namespace);
    let only = Some(&namespace).filter(|_| cluster.chosen);
    let world = look::for_tree(cluster).await?;
    let text = tree::tree(&world, only);
    let note = if text.is_empty() { list::nothing(only.map(Namespace::as_str)) } else { String::new() };
    Ok(Answer { text, note, code: 0 })
}

/// What a name means.
enum Subject {
    Device,
    Machine,
    Either,
}

/// Says what holds a device up, or those of a machine.
pub(super) async fn why(cluster: &Cluster, subject: &str) -> Result<Answer, Failure> {
    let (subject, name) = match subject.split_once('/') {
        Some(("vm" | "virtualmachine", name)) => (Subject::Machine, name),
        Some(("usb" | "usbdevice" | "nusb" | "nodeusbdevice", name)) => (Subject::Device, name),
        _ => (Subject::Either, subject),
    };
    let namespace = Namespace::new(&cluster.namespace);
    let machine = match subject {
        Subject::Device => None,
        Subject::Machine | Subject::Either => {
            let api: Api<VirtualMachine> = Api::namespaced(cluster.client(), namespace.as_str());
            cluster.ask(&format!("get virtual machine {name}"), api.get_opt(name)).await?
        }
    };
    let mut names = vec![DeviceName::new(name)];
    names.extend(machine.iter().flat_map(|vm| &vm.spec.usb_devices).map(|d| DeviceName::new(&d.name)));
    let (world, partial, note) = match look::for_chain(cluster, &names, Some(&namespace)).await {
        Ok(world) => (world, false, String::new()),
        Err(failure) if failure.is_forbidden() => {
            let world = look::for_namespace(cluster, &namespace).await?;
            let note = format!("You may not see the whole cluster: this is what namespace {namespace} shows.\n");
            (world, true, note)
        }
        Err(failure) => return Err(failure),
    };
    let device = DeviceName::new(name);
    let is_device = is_known(&world, &device);
    let answer = match (subject, machine.is_some()) {
        (Subject::Machine, false) => {
            return Err(no_such(format!("there is no virtual machine {name} in namespace {namespace}"), &namespace));
        }
        (Subject::Either, false) if !is_device => {
            let message =
                format!("there is no USB device {name}, and no virtual machine {name} in namespace {namespace}");
            return Err(no_such(message, &namespace));
        }
        (Subject::Machine, true) => machine_of(&world, &namespace, name, partial),
        (Subject::Either, true) if !is_device => machine_of(&world, &namespace, name, partial),
        _ => {
            let asks = if cluster.chosen { chain::waiting(&world, &namespace, &device) } else { None };
            device_of(&world, &namespace, &device, asks.as_ref(), partial)
        }
    };
    Ok(Answer { note, ..answer })
}

fn no_such(message: String, namespace: &Namespace) -> Failure {
    let advice = format!("Those that there are:\n  kubectl usb list\n  kubectl get virtualmachines -n {namespace}");
    Failure::Unfit(message, advice)
}

/// Whether a name is a device's: it is there, or a machine asks for it.
fn is_known(world: &World, name: &DeviceName) -> bool {
    world.node_devices.contains_key(name)
        || world.devices.keys().any(|(_, n)| n == name)
        || world.pools.values().any(|pool| pool.devices.iter().any(|d| d.name == *name))
        || world.vms.values().any(|vm| vm.usb_devices.contains(name))
}

/// The exit code.
fn held_up(is: bool) -> u8 {
    if is { HELD_UP } else { 0 }
}

fn device_of(
    world: &World,
    namespace: &Namespace,
    name: &DeviceName,
    asks: Option<&(Namespace, VmName)>,
    partial: bool,
) -> Answer {
    let found = match partial {
        true => chain::told::device(world, namespace, name, None),
        false => chain::device(world, name, asks),
    };
    let status = world.node_devices.get(name).map(|d| &d.status);
    let status = status.or_else(|| world.devices.iter().find(|((_, n), _)| n == name).map(|(_, d)| &d.status));
    let product = status.and_then(|s| s.attributes.as_ref()).map(|k| {
        let maker = k.manufacturer.as_ref().map(|m| format!("{m} ")).unwrap_or_default();
        format!("{maker}{} ({}:{})", k.name, k.vendor_id, k.product_id)
    });
    let text = why::device(&why::Device { name, product, found: &found, partial });
    Answer { text, code: held_up(why::trouble(&found).is_some()), ..Answer::default() }
}

fn machine_of(world: &World, namespace: &Namespace, name: &str, partial: bool) -> Answer {
    let key = (namespace.clone(), VmName::new(name));
    let Some(vm) = world.vms.get(&key) else { return Answer::default() };
    let runs = match partial {
        true => chain::told::machine(namespace, &key.1, vm),
        false => chain::machine(world, namespace, &key.1, vm),
    };
    let found = |device: &DeviceName| match partial {
        true => chain::told::device(world, namespace, device, Some(&key.1)),
        false => chain::device(world, device, Some(&key)),
    };
    let devices: Vec<_> = vm.usb_devices.iter().map(|device| (device.clone(), found(device))).collect();
    let code = held_up(runs.is_err() || devices.iter().any(|(_, found)| why::trouble(found).is_some()));
    Answer { text: why::machine((namespace, &key.1), &runs, &devices), code, ..Answer::default() }
}
