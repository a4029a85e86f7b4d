//! Sizes of memory as Kubernetes writes them: `512Mi`, `2G`, `1073741824`.

/// Text that is no size of memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no size of memory such as 512Mi or 2Gi")]
pub struct QuantityError(String);

/// A whole number of bytes with an optional binary (`Ki`) or decimal (`k`) suffix. Fractions are not sizes.
pub fn bytes(text: &str) -> Result<u64, QuantityError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at(digits);
    let unit = match suffix {
        "" => Some(1),
        "k" => Some(1_000),
        "M" => Some(1_000_000),
        "G" => Some(1_000_000_000),
        "T" => Some(1_000_000_000_000),
        "Ki" => Some(1 << 10),
        "Mi" => Some(1 << 20),
        "Gi" => Some(1 << 30),
        "Ti" => Some(1 << 40),
        _ => None,
    };
    let value = number.parse::<u64>().ok().zip(unit).and_then(|(n, unit)| n.checked_mul(unit));
    value.ok_or_else(|| QuantityError(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_memory_are_whole_bytes() {
        assert_eq!(bytes("512Mi"), Ok(512 << 20));
        assert_eq!(bytes("2G"), Ok(2_000_000_000));
        assert_eq!(bytes("4096"), Ok(4096));
        for bad in ["", "Mi", "1.5Gi", "-1Mi", "1Pi", "99999999999Ti", "1 Gi", "１Gi"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
