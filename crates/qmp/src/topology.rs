//! Where a guest sees its USB devices: QEMU's `info usb`, which exists only as text.
//!
//! One device per line (QEMU `hw/usb/bus.c`):
//!
//! ```text
//!   Device 0.1, Port 1, Speed 5000 Mb/s, Product x, ID: usb-y
//! ```
//!
//! The product's text comes from the device, so it may hold anything, line ends and `, ID: ` included. A device that lies
//! can only spoil its own entry: ids are taken from the end of an entry, and an entry goes on until the next one begins.

/// One USB device as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestUsb {
    /// QEMU's number of the guest's USB bus.
    pub bus: u32,
    /// The port's path on that bus, for example `3` or `1.2` behind a hub.
    pub port: String,
    /// QEMU's id of the device; `None` for one that was created without.
    pub id: Option<String>,
    /// Speed in Mbit/s as QEMU writes it: `1.5`, `12`, `480`, `5000`.
    pub speed: String,
    /// The product's name, cleaned of control characters.
    pub product: String,
}

/// How an entry begins.
const HEAD: &str = "  Device ";
/// What stands between the product and the id.
const ID: &str = ", ID: ";

/// Reads the text of `info usb`. Total: what is not understood is left out.
#[must_use]
pub fn parse(text: &str) -> Vec<GuestUsb> {
    let mut entries: Vec<String> = Vec::new();
    for line in text.split('\n') {
        let line = line.strip_suffix('\r').unwrap_or(line);
        match (line.strip_prefix(HEAD), entries.last_mut()) {
            (Some(entry), _) => entries.push(entry.to_owned()),
            (None, Some(entry)) if !line.is_empty() => entry.push_str(line),
            _ => {}
        }
    }
    entries.iter().filter_map(|entry| device(entry)).collect()
}

/// One entry without its head.
fn device(entry: &str) -> Option<GuestUsb> {
    let (address, rest) = entry.split_once(", Port ")?;
    let (port, rest) = rest.split_once(", Speed ")?;
    let (speed, rest) = rest.split_once(" Mb/s, Product ")?;
    let (product, id) = match rest.rsplit_once(ID) {
        Some((product, id)) if is_id(id) => (product, Some(id.to_owned())),
        _ => (rest, None),
    };
    let (bus, _) = address.split_once('.')?;
    let digits =
        |text: &str| !text.is_empty() && text.len() < 32 && text.chars().all(|c| c.is_ascii_digit() || c == '.');
    (digits(port) && digits(speed)).then_some(())?;
    Some(GuestUsb {
        bus: bus.parse().ok()?,
        port: port.to_owned(),
        id,
        speed: speed.to_owned(),
        product: product.chars().filter(|c| !c.is_control()).collect(),
    })
}

/// Whether QEMU would accept this as an id (`util/id.c`).
fn is_id(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_speeds_and_ports_behind_hubs_are_read() {
        let text = "  Device 0.2, Port 1, Speed 12 Mb/s, Product QEMU USB Hub\r\n  Device 1.3, Port 1.2, Speed 1.5 Mb/s, Product Kbd, ID: usb-kbd\r\n";
        let hub = GuestUsb { bus: 0, port: "1".into(), id: None, speed: "12".into(), product: "QEMU USB Hub".into() };
        let keyboard = GuestUsb {
            bus: 1,
            port: "1.2".into(),
            id: Some("usb-kbd".into()),
            speed: "1.5".into(),
            product: "Kbd".into(),
        };
        assert_eq!(parse(text), [hub, keyboard]);
    }

    #[test]
    fn a_product_that_pretends_to_have_an_id_does_not_get_it() {
        let text = "  Device 0.1, Port 1, Speed 480 Mb/s, Product x, ID: usb-other, ID: usb-own\n";
        assert_eq!(parse(text)[0].id.as_deref(), Some("usb-own"));
    }

    #[test]
    fn a_line_end_inside_a_product_hides_neither_its_own_id_nor_the_next_device() {
        let text = "  Device 0.1, Port 1, Speed 480 Mb/s, Product a\nb\n\nc, ID: usb-a\n  Device 0.2, Port 2, Speed 480 Mb/s, Product d, ID: usb-d\n";
        let ids: Vec<_> = parse(text).into_iter().map(|usb| (usb.id.unwrap(), usb.product)).collect();
        assert_eq!(ids, [("usb-a".to_owned(), "abc".to_owned()), ("usb-d".to_owned(), "d".to_owned())]);
    }

    #[test]
    fn machines_without_usb_have_no_devices() {
        assert_eq!(parse("USB support not enabled\r\n"), []);
        assert_eq!(parse(""), []);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "(  Device |[0-9.]{1,3}|, Port |, Speed | Mb/s, Product |, ID: |\\PC|\n){0,40}") {
            drop(parse(&text));
        }

        #[test]
        fn what_qemu_prints_is_read_back(
            devices in proptest::collection::vec((0_u32..4, 0_u32..128, "[1-9](\\.[1-9]){0,3}", "[^\\p{C}]{0,31}", "[a-z][a-z0-9-]{0,20}"), 0..6)
        ) {
            let text: String = devices
                .iter()
                .map(|(bus, address, port, product, id)| {
                    format!("  Device {bus}.{address}, Port {port}, Speed 480 Mb/s, Product {product}, ID: {id}\r\n")
                })
                .collect();
            let expected: Vec<GuestUsb> = devices
                .into_iter()
                .map(|(bus, _, port, product, id)| GuestUsb { bus, port, id: Some(id), speed: "480".into(), product })
                .collect();
            prop_assert_eq!(parse(&text), expected);
        }
    }
}
