//! Who is let in.
//!
//! | who | is kept out by |
//! |---|---|
//! | other computers | the address: 127.0.0.1 |
//! | a site whose name somebody has pointed at 127.0.0.1 | the `Host` header, which has that name |
//! | any other page in the same browser | `Origin`, which browsers put on what such a page sends, and `Sec-Fetch-Site` |
//! | the same, and other users of this computer | the key, which the page alone has: no cookie carries it |
//! | whoever reads the address off a list of processes | the token in it works once; it is after the `#`, so no log of requests has it |
//!
//! The page gives the token and gets the key, and keeps that for as long as its tab is open (`sessionStorage`, which belongs to
//! one origin with its port).

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};
use hyper::{Method, StatusCode};
use ring::rand::{SecureRandom, SystemRandom};

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// 256 random bits, in hex.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// A new one.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub(crate) fn new() -> std::io::Result<Self> {
        let mut bytes = [0; 32];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| std::io::Error::other("the system gives no random numbers"))?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is this text. How long that takes does not tell how much of it is right.
    fn is(&self, text: &str) -> bool {
        let differ = self.0.bytes().zip(text.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b));
        self.0.len() == text.len() && differ == 0
    }
}

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The address has another name.
    Host,
    /// Another page asks.
    Origin,
    /// The key is missing, or wrong.
    Key,
    /// The token is wrong, or was used.
    Token,
}

impl Refusal {
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Origin => StatusCode::FORBIDDEN,
            Self::Key | Self::Token => StatusCode::UNAUTHORIZED,
        }
    }

    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Host => "this is not the address that 'kubectl usb ui' has printed",
            Self::Origin => "another page may not ask here",
            Self::Key => "this page has no key",
            Self::Token => "this address works once, and was used",
        }
    }
}

/// The gate.
#[derive(Debug)]
pub(crate) struct Gate {
    port: u16,
    token: Option<Secret>,
    key: Secret,
}

impl Gate {
    /// A gate at a port, for whoever comes first with this token.
    pub(crate) fn new(port: u16, token: Secret, key: Secret) -> Self {
        Self { port, token: Some(token), key }
    }

    fn is_ours(&self, host: &str) -> bool {
        let name = host.strip_suffix(&format!(":{}", self.port));
        matches!(name, Some("127.0.0.1" | "localhost"))
    }

    /// Whether a request comes from this page, or from no page.
    pub(super) fn admits(&self, method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
        let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
        if headers.get_all(HOST).iter().count() != 1 || !text(HOST).is_some_and(|host| self.is_ours(host)) {
            return Err(Refusal::Host);
        }
        let ours = |origin: &str| origin.strip_prefix("http://").is_some_and(|host| Some(host) == text(HOST));
        match text(ORIGIN) {
            Some(origin) if !ours(origin) => return Err(Refusal::Origin),
            // Browsers always say who posts.
            None if *method != Method::GET => return Err(Refusal::Origin),
            _ => {}
        }
        match text(FETCH_SITE) {
            None | Some("same-origin" | "none") => Ok(()),
            Some(_) => Err(Refusal::Origin),
        }
    }

    /// Whether a request has the key.
    pub(super) fn knows(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        if given.is_some_and(|given| self.key.is(given)) { Ok(()) } else { Err(Refusal::Key) }
    }

    /// The key, for the token; once.
    pub(super) fn exchange(&mut self, token: &str) -> Result<&str, Refusal> {
        match self.token.take_if(|wanted| wanted.is(token)) {
            Some(_) => Ok(self.key.as_str()),
            None => Err(Refusal::Token),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn nobody_comes_in_by_another_name_or_from_another_page() {
        let gate = Gate::new(8080, Secret("t".into()), Secret("k".into()));
        let (get, post) = (Method::GET, Method::POST);
        for (method, list, expected) in [
            (&get, &[("host", "127.0.0.1:8080")][..], Ok(())),
            (&get, &[("host", "localhost:8080"), ("sec-fetch-site", "none")], Ok(())),
            (&get, &[], Err(Refusal::Host)),
            (&get, &[("host", "127.0.0.1")], Err(Refusal::Host)),
            (&get, &[("host", "127.0.0.1:80801")], Err(Refusal::Host)),
            (&get, &[("host", "rebound.example:8080")], Err(Refusal::Host)),
            (&get, &[("host", "127.0.0.1.example:8080")], Err(Refusal::Host)),
            (&get, &[("host", "127.0.0.1:8080"), ("origin", "http://127.0.0.1:9090")], Err(Refusal::Origin)),
            (&get, &[("host", "127.0.0.1:8080"), ("sec-fetch-site", "same-site")], Err(Refusal::Origin)),
            (&get, &[("host", "127.0.0.1:8080"), ("sec-fetch-site", "cross-site")], Err(Refusal::Origin)),
            (&post, &[("host", "127.0.0.1:8080"), ("origin", "http://127.0.0.1:8080")], Ok(())),
            (&post, &[("host", "127.0.0.1:8080")], Err(Refusal::Origin)),
            (&post, &[("host", "127.0.0.1:8080"), ("origin", "null")], Err(Refusal::Origin)),
            (&post, &[("host", "127.0.0.1:8080"), ("origin", "https://example.com")], Err(Refusal::Origin)),
            (&post, &[("host", "127.0.0.1:8080"), ("origin", "http://localhost:8080")], Err(Refusal::Origin)),
        ] {
            assert_eq!(gate.admits(method, &headers(list)), expected, "{method} {list:?}");
        }
    }

    #[test]
    fn a_token_works_once_and_a_wrong_one_spoils_nothing() {
        let mut gate = Gate::new(1, Secret("token".into()), Secret("key".into()));
        assert_eq!(gate.exchange("tokeX"), Err(Refusal::Token));
        assert_eq!(gate.exchange(""), Err(Refusal::Token));
        assert_eq!(gate.exchange("token"), Ok("key"));
        assert_eq!(gate.exchange("token"), Err(Refusal::Token));
    }

    #[test]
    fn the_key_is_asked_for() {
        let gate = Gate::new(1, Secret("token".into()), Secret("key".into()));
        for (list, expected) in [
            (&[][..], Err(Refusal::Key)),
            (&[("authorization", "Bearer ")], Err(Refusal::Key)),
            (&[("authorization", "Bearer token")], Err(Refusal::Key)),
            (&[("authorization", "Bearer keys")], Err(Refusal::Key)),
            (&[("authorization", "key")], Err(Refusal::Key)),
            (&[("authorization", "Bearer key")], Ok(())),
        ] {
            assert_eq!(gate.knows(&headers(list)), expected, "{list:?}");
        }
    }

    #[test]
    fn secrets_are_long_and_never_the_same() {
        let (a, b) = (Secret::new().unwrap(), Secret::new().unwrap());
        assert!(a != b && a.as_str().len() == 64 && format!("{a:?}") == "Secret");
    }
}
