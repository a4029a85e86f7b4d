//! `docs/api.md`: what people may write and read, made from the definitions, and from the catalogue of the core.

use std::fmt::Write as _;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use patchbay_core::conditions::ConditionType;
use patchbay_core::messages;

use crate::crds;

mod fields;

const HEAD: &str = "<!-- Made from the definitions in crates/api by a test: UPDATE=1 cargo test -p patchbay-api --test reference -->

# API

The kinds of `virtualization.deckhouse.io/v1alpha2`, and each of their fields. `kubectl explain` tells the same on a cluster:
`kubectl explain virtualmachine.spec.usbDevices`. People write `spec`; the controller writes `status`, and nobody else may
([who may do what](security.md#who-may-do-what)). What a definition does not allow is refused when it is written, with a
sentence that says what to do.

A field that is not said to be required may be left out. `[]` stands for each entry of a list.
";

/// Which conditions a kind has.
const CONDITIONS: [(&str, &[ConditionType]); 4] = [
    ("NodeUSBDevice", ConditionType::OF_DEVICE),
    ("USBDevice", &[ConditionType::Ready, ConditionType::Attached]),
    ("VirtualMachine", ConditionType::OF_VM),
    ("VirtualMachineOperation", ConditionType::OF_OPERATION),
];

/// The page, as Markdown.
pub fn page() -> String {
    let definitions = crds::all();
    let mut page = HEAD.to_owned();
    definitions.iter().for_each(|definition| kind(&mut page, definition));
    page.push_str(
        "\n## Conditions\n\nEach entry of `status.conditions`, of all kinds:\n\n| field | type | meaning | limits |\n|---|---|---|---|\n",
    );
    let schema = definitions.first().and_then(fields::schema);
    fields::of_conditions(schema).iter().for_each(|row| page.push_str(row));
    page.push_str("\nThe reason alone decides whether a condition is true.\n");
    for kind in ConditionType::ALL {
        condition(&mut page, *kind);
    }
    page
}

fn kind(page: &mut String, definition: &CustomResourceDefinition) {
    let names = &definition.spec.names;
    let schema = fields::schema(definition);
    let meaning = schema.and_then(|schema| schema.description.as_deref()).unwrap_or_default();
    let or_none = |list: &Option<Vec<String>>| list.clone().unwrap_or_default().join("`, `");
    // What is written to a String is written.
    let _ = write!(
        page,
        "\n## {}\n\n{meaning} {}. Resource `{}`, in short `{}`; category `{}`.\n",
        names.kind,
        if definition.spec.scope == "Namespaced" { "In a namespace" } else { "Cluster-wide" },
        names.plural,
        or_none(&names.short_names),
        or_none(&names.categories),
    );
    columns(page, definition);
    for rule in schema.map(fields::rules).unwrap_or_default() {
        let _ = write!(page, "\nOf the object: {rule}.\n");
    }
    page.push_str("\n| field | type | meaning | limits |\n|---|---|---|---|\n");
    schema.map(fields::rows).unwrap_or_default().iter().for_each(|row| page.push_str(row));
    let conditions = CONDITIONS.iter().find(|(kind, _)| *kind == names.kind).map(|(_, types)| *types);
    let list: Vec<_> =
        conditions.unwrap_or_default().iter().map(|c| format!("[`{}`](#{})", c.as_str(), anchor(*c))).collect();
    let _ = write!(page, "\nConditions: {}.\n", list.join(", "));
}

/// What `kubectl get` shows beside the name.
fn columns(page: &mut String, definition: &CustomResourceDefinition) {
    let all = || definition.spec.versions.iter().flat_map(|v| v.additional_printer_columns.iter().flatten());
    let of = |wide: bool| {
        let chosen = all().filter(move |column| (column.priority.unwrap_or(0) > 0) == wide);
        chosen.map(|column| format!("`{}`", column.name)).collect::<Vec<_>>().join(", ")
    };
    let _ = write!(page, "\nColumns: {}", of(false));
    let wide = of(true);
    page.push_str(&if wide.is_empty() { ".\n".to_owned() } else { format!("; with `-o wide` also {wide}.\n") });
}

fn condition(page: &mut String, kind: ConditionType) {
    let kinds: Vec<_> = CONDITIONS.iter().filter(|(_, types)| types.contains(&kind)).map(|(name, _)| *name).collect();
    let _ = write!(
        page,
        "\n### {}\n\nOf {}. What to do about each is in [messages](messages.md).\n\n| reason | status | meaning |\n|---|---|---|\n",
        kind.as_str(),
        kinds.join(" and ")
    );
    for entry in messages::of(kind) {
        let status = if entry.reason.is_true() { "True" } else { "False" };
        let _ = writeln!(page, "| `{}` | {status} | {} |", entry.reason.as_str(), entry.means);
    }
}

/// The heading of a type of condition, as links name it.
fn anchor(kind: ConditionType) -> String {
    kind.as_str().to_lowercase()
}
