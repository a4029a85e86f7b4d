//! Kubeconfig files with everything embedded, so that one file is all a program (or a node) needs.

use serde_json::{Value, json};

use crate::pki::Identity;

/// The text of a kubeconfig (JSON, which is YAML) for one server and one identity.
pub fn render(server: &str, ca: &str, identity: &Identity) -> String {
    let user = json!({
        "client-certificate-data": base64(identity.certificate.as_bytes()),
        "client-key-data": base64(identity.key.as_bytes()),
    });
    of_user(server, ca, &user)
}

/// The same for the bearer of a token.
pub fn with_token(server: &str, ca: &str, token: &str) -> String {
    of_user(server, ca, &json!({"token": token}))
}

fn of_user(server: &str, ca: &str, user: &Value) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {"server": server, "certificate-authority-data": base64(ca.as_bytes())}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "users": [{"name": "lab", "user": user}],
    })
    .to_string()
}

/// Standard base64 with padding (RFC 4648, section 4).
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = usize::try_from(word >> (18 - 6 * place) & 63).ok().and_then(|index| DIGITS.get(index));
            text.push(match digit {
                Some(digit) if place <= chunk.len() => char::from(*digit),
                _ => '=',
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_agrees_with_the_examples_of_rfc_4648() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
