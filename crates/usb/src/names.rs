//! What to call a device that does not say.
//!
//! Most devices carry strings for manufacturer and product; for the others there is the public list of USB ids.
//!
//! A name is made from the device descriptor alone (vendor, product, device class, strings), which stays the same whatever
//! driver has the device. Interfaces are not asked: they vanish while the device is bound to `usbip-host`, and the name
//! people and claims know a device by would vanish with them.

use patchbay_core::device::HexId;
use usb_ids::FromId;

/// The words for a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The manufacturer, from the device or from the list.
    pub manufacturer: Option<String>,
    /// The product, from the device or from the list.
    pub product: Option<String>,
    /// What to call it in a sentence. Never empty.
    pub name: String,
}

/// Device classes that say nothing about what a device is: one class for each interface, miscellaneous, vendor specific.
const SILENT_CLASSES: [u8; 3] = [0x00, 0xef, 0xff];

/// Completes what the device itself says.
pub fn complete(
    vendor: HexId,
    product: HexId,
    class: u8,
    manufacturer_string: Option<String>,
    product_string: Option<String>,
) -> Names {
    let listed_product = || usb_ids::Device::from_vid_pid(vendor.0, product.0).map(|d| d.name().to_owned());
    let listed_vendor = || usb_ids::Vendor::from_id(vendor.0).map(|v| v.name().to_owned());
    let manufacturer = manufacturer_string.or_else(listed_vendor);
    let product_name = product_string.or_else(listed_product).filter(|n| !n.trim().is_empty());
    let name =
        product_name.clone().or_else(|| by_class(class)).unwrap_or_else(|| format!("USB device {vendor}:{product}"));
    Names { manufacturer, product: product_name, name }
}

fn by_class(class: u8) -> Option<String> {
    if SILENT_CLASSES.contains(&class) {
        return None;
    }
    let name = usb_ids::Class::from_id(class)?.name();
    let says_device = name.to_ascii_lowercase().ends_with("device");
    Some(if says_device { name.to_owned() } else { format!("{name} device") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(vendor: u16, product: u16, class: u8) -> Names {
        complete(HexId(vendor), HexId(product), class, None, None)
    }

    #[test]
    fn the_device_s_own_strings_win() {
        let own = complete(HexId(0x046d), HexId(0x082d), 0, Some("Me".to_owned()), Some("Mine".to_owned()));
        assert_eq!(
            own,
            Names { manufacturer: Some("Me".to_owned()), product: Some("Mine".to_owned()), name: "Mine".to_owned() }
        );
    }

    #[test]
    fn a_device_without_strings_is_looked_up_in_the_list_of_ids() {
        let listed = name(0x046d, 0xc016, 0);
        assert_eq!(listed.manufacturer.as_deref(), Some("Logitech, Inc."));
        assert_eq!(listed.product.as_deref(), Some("Optical Wheel Mouse"));
        assert_eq!(listed.name, "Optical Wheel Mouse");
    }

    #[test]
    fn an_unlisted_device_is_called_by_its_class_or_its_numbers() {
        assert_eq!(name(0xfffe, 0xfffe, 0x08).name, "Mass Storage device");
        assert_eq!(name(0xfffe, 0xfffe, 0x03).name, "Human Interface Device");
        for silent in [0x00, 0xef, 0xff, 0x77] {
            assert_eq!(name(0xfffe, 0x0104, silent).name, "USB device fffe:0104", "{silent:02x}");
        }
    }

    #[test]
    fn every_class_gives_a_name() {
        for class in 0..=u8::MAX {
            assert!(!name(0xfffe, 0xfffe, class).name.trim().is_empty());
        }
    }
}
