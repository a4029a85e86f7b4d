//! `docs/messages.md`, made from the catalogue.

use super::{of, of_nodes, of_pods};
use crate::conditions::ConditionType;
use crate::controller::events::Deed;

const HEAD: &str = "\
<!-- Made from crates/core/src/messages by a test: UPDATE=1 cargo test -p patchbay-api --test messages -->

# Messages

Every reason that Patchbay gives in a condition or an Event, what it means, and what to do. Reasons are fixed words, for programs; the
message beside each says it of the very object, for people, and may change from version to version. `kubectl usb explain REASON` prints
an entry of this page, `kubectl usb why DEVICE|VM` finds what holds up one device or machine.

What is not here: what `kubectl usb doctor` finds says itself what to do; refusals of the API server do as well ([security.md](security.md));
what pods that use devices are told by the kubelet is in [driver.md](driver.md).

";

const EVENTS: &str = "\
## Events

An Event is told when a condition begins to say something new, with the reason and the message of the condition. It is a `Warning` where the
tables above say so, and `Normal` otherwise.

| about | reasons | where |
|---|---|---|
| `NodeUSBDevice` | of `Ready`, `Assigned`, `Attached` | namespace `default` |
| `USBDevice` | of `Ready`, `Attached` | its namespace |
| `VirtualMachine` | of `Running` and `USBDevicesAttached`; `AttachedToVirtualMachine` and `Available` for each device that comes or goes | its namespace |
| `Node` | of assigned devices that are plugged into it, and of machines that run on it: the next table | namespace `default`, shown by `kubectl describe node` |

| of a `Node` | meaning | what to do |
|---|---|---|
";

const LIMITS: &str = "
What is told again of an object within six minutes is counted in the series of the Event that tells it already. Of one object 30 Events are told
at once, and then one in 10 s until it has been calm for a while; what is not told then is in its conditions all the same. Which attempts
at telling were held back is in the metric `patchbay_controller_events_total` (docs/metrics.md).

";

const PODS: &str = "\
## Conditions of pods

What agents say on the pods of attachments (`usb.virtualization.deckhouse.io/Plugged`) and of machines that move
(`vm.virtualization.deckhouse.io/Migrated`). The controller reads them; people need them only where something does not go on.

| condition | reason | meaning |
|---|---|---|
";

/// The page, in Markdown.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    for (title, kinds) in [
        ("Devices: `NodeUSBDevice` and `USBDevice`", ConditionType::OF_DEVICE),
        ("Machines: `VirtualMachine`", ConditionType::OF_VM),
        ("Operations: `VirtualMachineOperation`", ConditionType::OF_OPERATION),
    ] {
        push(&mut page, format_args!("## {title}\n\n"));
        for kind in kinds {
            push(&mut page, format_args!("### `{}`\n\n", kind.as_str()));
            page.push_str("| reason | the condition is | meaning | what to do |\n|---|---|---|---|\n");
            for entry in of(*kind) {
                let truth = if entry.reason.is_true() { "True" } else { "False" };
                let warning = if entry.reason.is_warning() { ", warned of" } else { "" };
                let name = entry.reason.as_str();
                push(&mut page, format_args!("| `{name}` | {truth}{warning} | {} | {} |\n", entry.means, entry.cure));
            }
            page.push('\n');
        }
    }
    page.push_str(EVENTS);
    for entry in of_nodes() {
        push(&mut page, format_args!("| `{}` | {} | {} |\n", entry.reason, entry.means, entry.cure));
    }
    let deeds: Vec<_> = Deed::ALL.iter().map(|deed| format!("`{}`", deed.as_str())).collect();
    push(&mut page, format_args!("\nThe field `action` says at what: {}.\n", deeds.join(", ")));
    page.push_str(LIMITS);
    page.push_str(PODS);
    for entry in of_pods() {
        push(&mut page, format_args!("| `{}` | `{}` | {} |\n", entry.condition, entry.reason, entry.means));
    }
    page
}

fn push(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.push_str(&text.to_string());
}
