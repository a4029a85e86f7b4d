//! The file of prepared claims, after a crash or a faulty disk, or from another version. The first byte says which boot it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchbay_dra::{Record, Records};
use patchbay_fuzz::same;
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    let Some((boot, content)) = bytes.split_first() else { return };
    let boot = [None, Some("this"), Some("another")][usize::from(boot % 3)];
    let Ok(read) = Records::parse(content, boot) else { return };
    assert_eq!(read.iter().count(), read.prepared().count() + read.unfinished().count());
    let parameters = |(_, record): (&str, &Record)| {
        let config = record.allocated.iter().flat_map(|device| &device.config).map(|config| config.parameters.clone());
        config.chain([record.data.clone()]).collect::<Vec<_>>()
    };
    if read.iter().flat_map(parameters).any(|value| has_fraction(&value)) {
        return;
    }
    let written = read.clone().content(boot.map(str::to_owned)).expect("what was read can be written");
    same(&read, &Records::parse(&written, boot).expect("a journal of ours"));
});

/// Fractions are read to the last bit or the one beside it. The driver keeps none.
fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(values) => values.iter().any(has_fraction),
        Value::Object(fields) => fields.values().any(has_fraction),
        _ => false,
    }
}
