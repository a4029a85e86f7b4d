//! What the Container Device Interface allows as names (CDI specification, "kind"
//! and "devices"; checked by `pkg/parser` of its library).
//!
//! A runtime refuses the whole file for one bad name, and with it every device of
//! the claim.

/// Whether a text is a vendor or a class: letters, digits, `_`, `-` and `.`; a
/// letter first, a letter or digit last.
pub(super) fn is_kind_part(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && is_name(text, "_-.")
}

/// Whether a text is a device's name: letters, digits, `_`, `-`, `.` and `:`; a
/// letter or digit first and last.
pub(super) fn is_device(text: &str) -> bool {
    is_name(text, "_-.:")
}

/// Whether a text can be a claim's uid in a file's name: letters, digits and `-`.
/// Nothing else, so that the end of the kind (`_`) is found again and no other
/// file is ever meant.
pub(super) fn is_uid(text: &str) -> bool {
    is_name(text, "-")
}

fn is_name(text: &str, others: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_specification_allows() {
        for good in ["a", "A1", "dra.example.com", "a_b-c.d", "device"] {
            assert!(is_kind_part(good), "{good}");
        }
        for bad in ["", "3com.example.com", "a/b", "a:b", "-a", "a-", "a.", "ä", "a b"] {
            assert!(!is_kind_part(bad), "{bad}");
        }
        for good in ["0", "a", "1d6b:0002", "u1-port_3.1", "3com"] {
            assert!(is_device(good), "{good}");
        }
        for bad in ["", "-a", "a-", ":", "a/b", "a=b", "a b", "ä", "aä", "a\n", "../a"] {
            assert!(!is_device(bad), "{bad}");
        }
        for good in ["u1", "2f0c1b3a-8f0e-4c62-9b57-3d1f5c0f1a77"] {
            assert!(is_uid(good), "{good}");
        }
        for bad in ["", "a_b", "..", "a.b", "a/b", "a:b", "-", "u1-"] {
            assert!(!is_uid(bad), "{bad}");
        }
    }
}
