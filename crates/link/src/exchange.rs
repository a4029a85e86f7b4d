//! What is said in a call: one request, any number of `wait`, one `granted`, `accepted` or `denied`.
//!
//! Each is a frame: the length as four bytes, big endian, at most [`MAX_FRAME`], then that much JSON. Fields that are not
//! known are ignored, so a version number changes only when the meaning does. The home agent answers a request of another
//! version with `denied`, in words, whatever else is in it.
//!
//! What is read here may have been written by anybody who has a certificate, so names are of the characters that names in
//! Kubernetes have, and words are on one line and show what they are.

use std::io;

use patchbay_core::device::is_invisible;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The version of the exchange that is spoken here.
pub(crate) const VERSION: u32 = 1;
/// Longest JSON of a frame, in bytes.
pub(crate) const MAX_FRAME: usize = 4096;
/// Longest reason, in characters, so that it fits into a frame however it is escaped.
const MAX_REASON: usize = 900;
/// Longest name in a request, in bytes: Kubernetes has none that is longer.
const MAX_NAME: usize = 253;

/// The ResourceClaim that an import is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// What an importer asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// The claim that entitles it.
    pub claim: Claim,
    /// The pool of the device: the home node's.
    pub pool: String,
    /// The device's name in that pool.
    pub device: String,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// A virtual machine that is to be moved from the caller's node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migrate {
    /// The namespace of both pods.
    pub namespace: String,
    /// The pod it runs in.
    pub source: Pod,
    /// The pod it is to run in.
    pub target: Pod,
}

/// What a caller asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "camelCase")]
pub enum Request {
    /// A device; the answer is [`Granted`].
    Import(Import),
    /// That a virtual machine be taken; the answer says no more than yes.
    Migrate(Migrate),
    /// Nothing but an answer, which is yes: whoever looks for what is wrong wants to know whether one comes.
    Greet,
}

/// What the home agent gives: all that `vhci_hcd` wants to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Granted {
    /// `bus << 16 | device number` on the home node.
    pub devid: u32,
    /// The kernel's `enum usb_device_speed`: 1 low, 2 full, 3 high, 4 wireless, 5 super, 6 super plus.
    pub speed: u32,
    /// The bus id on the home node, like `2-1.4`.
    pub bus_id: String,
}

/// A request as it goes over the wire.
#[derive(Debug, Serialize)]
struct Sent<'r> {
    version: u32,
    #[serde(flatten)]
    request: &'r Request,
}

/// The part of a request that every version has.
#[derive(Deserialize)]
struct AnyRequest {
    version: u32,
}

/// An answer as it goes over the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "camelCase")]
pub enum Answer {
    /// Not yet.
    Wait {
        /// Why, on one line.
        reason: String,
    },
    /// Yes, to an [`Import`].
    Granted(Granted),
    /// Yes, to a [`Migrate`] or a [`Request::Greet`].
    Accepted,
    /// No.
    Denied {
        /// Why, on one line.
        reason: String,
    },
}

/// A frame that cannot be read, or not be written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed or ended.
    #[error(transparent)]
    Stream(#[from] io::Error),
    /// The frame is against the rules.
    #[error("{0}")]
    Malformed(String),
    /// A request of a version that is not spoken here.
    #[error(
        "it speaks version {0} of the exchange, this node speaks version {VERSION}; bring both agents to one release"
    )]
    Version(u32),
}

impl Request {
    /// The request's frame.
    ///
    /// # Errors
    /// It is too long.
    pub fn frame(&self) -> Result<Vec<u8>, FrameError> {
        frame(&Sent { version: VERSION, request: self })
    }

    /// Reads a request and checks its version first.
    ///
    /// # Errors
    /// The stream fails or ends, what comes is no request of this version, or it names what Kubernetes could not have.
    pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Self, FrameError> {
        let frame = read_frame(stream).await?;
        let AnyRequest { version } = parse(&frame)?;
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let request: Self = parse(&frame)?;
        match request.names().into_iter().find(|name| !is_name(name)) {
            None => Ok(request),
            Some(name) => Err(FrameError::Malformed(tidy(&format!("a request about {name:?}, which is no name")))),
        }
    }

    /// All names in it.
    fn names(&self) -> Vec<&str> {
        match self {
            Self::Import(Import { claim, pool, device }) => {
                vec![&claim.namespace, &claim.name, &claim.uid, pool, device]
            }
            Self::Migrate(Migrate { namespace, source, target }) => {
                vec![namespace, &source.name, &source.uid, &target.name, &target.uid]
            }
            Self::Greet => Vec::new(),
        }
    }
}

impl Answer {
    pub(crate) fn wait(reason: &str) -> Self {
        Self::Wait { reason: tidy(reason) }
    }

    pub(crate) fn denied(reason: &str) -> Self {
        Self::Denied { reason: tidy(reason) }
    }

    /// The answer's frame.
    ///
    /// # Errors
    /// It is too long: those that are made or read here never are.
    pub fn frame(&self) -> Result<Vec<u8>, FrameError> {
        frame(self)
    }

    /// Reads an answer; what it says is safe to show and to hand to the kernel.
    ///
    /// # Errors
    /// The stream fails or ends, or what comes is no answer.
    pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Self, FrameError> {
        Ok(match parse(&read_frame(stream).await?)? {
            Self::Wait { reason } => Self::wait(&reason),
            Self::Denied { reason } => Self::denied(&reason),
            Self::Accepted => Self::Accepted,
            Self::Granted(granted) if granted.is_sane() => Self::Granted(granted),
            Self::Granted(granted) => {
                return Err(FrameError::Malformed(format!("a grant that makes no sense: {granted:?}")));
            }
        })
    }
}

impl Granted {
    /// Whether a kernel could have said this.
    fn is_sane(&self) -> bool {
        let bus_id = self.bus_id.as_str();
        self.devid >> 16 != 0
            && self.devid & 0xffff != 0
            && (1..=6).contains(&self.speed)
            && (1..32).contains(&bus_id.len())
            && bus_id.chars().all(|c| c.is_ascii_digit() || matches!(c, '-' | '.'))
    }
}

/// One line that fits a frame, of characters that can be seen.
fn tidy(reason: &str) -> String {
    reason.chars().map(|c| if c.is_control() || is_invisible(c) { ' ' } else { c }).take(MAX_REASON).collect()
}

/// Whether Kubernetes might have such a name, uid or pool.
fn is_name(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '/');
    (1..=MAX_NAME).contains(&text.len()) && text.chars().all(inner) && !text.contains("..")
}

/// The bytes of a frame.
///
/// # Errors
/// [`FrameError::Malformed`] when it would be too long.
fn frame(message: &impl Serialize) -> Result<Vec<u8>, FrameError> {
    let json = serde_json::to_vec(message).map_err(|error| FrameError::Malformed(error.to_string()))?;
    match u32::try_from(json.len()) {
        Ok(length) if json.len() <= MAX_FRAME => Ok([length.to_be_bytes().as_slice(), &json].concat()),
        _ => Err(FrameError::Malformed(format!("a frame of {} bytes, the limit is {MAX_FRAME}", json.len()))),
    }
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, FrameError> {
    let length = stream.read_u32().await?;
    match usize::try_from(length) {
        Ok(length) if (1..=MAX_FRAME).contains(&length) => {
            let mut frame = vec![0; length];
            stream.read_exact(&mut frame).await?;
            Ok(frame)
        }
        _ => Err(FrameError::Malformed(format!("a frame of {length} bytes, the limit is {MAX_FRAME}"))),
    }
}

fn parse<T: DeserializeOwned>(frame: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(frame)
        // The error repeats words of the frame.
        .map_err(|error| FrameError::Malformed(tidy(&format!("a frame that cannot be understood: {error}"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn framed(value: &serde_json::Value) -> Vec<u8> {
        frame(value).unwrap()
    }

    fn import() -> Import {
        let claim = Claim { namespace: "ns".into(), name: "usb-a".into(), uid: "u".into() };
        Import { claim, pool: "node-1".into(), device: "a".into() }
    }

    fn migrate() -> Migrate {
        let pod = |name: &str, uid: &str| Pod { name: name.into(), uid: uid.into() };
        Migrate { namespace: "ns".into(), source: pod("vm-a", "1"), target: pod("vm-a-x", "2") }
    }

    #[tokio::test]
    async fn requests_are_read_back_and_look_as_documented() {
        let claim = json!({"namespace": "ns", "name": "usb-a", "uid": "u"});
        let (source, target) = (json!({"name": "vm-a", "uid": "1"}), json!({"name": "vm-a-x", "uid": "2"}));
        for (request, text) in [
            (
                Request::Import(import()),
                json!({"request": "import", "version": 1, "claim": claim, "pool": "node-1", "device": "a"}),
            ),
            (
                Request::Migrate(migrate()),
                json!({"request": "migrate", "version": 1, "namespace": "ns", "source": source, "target": target}),
            ),
        ] {
            let sent = request.frame().unwrap();
            assert_eq!(serde_json::from_slice::<serde_json::Value>(&sent[4..]).unwrap(), text);
            assert_eq!(Request::read(&mut sent.as_slice()).await.unwrap(), request);
        }
    }

    #[tokio::test]
    async fn a_request_with_the_parts_of_another_is_refused() {
        let text = json!({"request": "migrate", "version": 1, "claim": {}, "pool": "node-1", "device": "a"});
        let mixed = framed(&text);
        assert!(matches!(Request::read(&mut mixed.as_slice()).await, Err(FrameError::Malformed(_))));
    }

    #[tokio::test]
    async fn a_request_of_another_version_is_told_apart_from_garbage() {
        let later = framed(&json!({"version": 2, "request": "teleport"}));
        assert!(matches!(Request::read(&mut later.as_slice()).await, Err(FrameError::Version(2))));
        let unknown = framed(&json!({"version": 1, "request": "teleport"}));
        assert!(matches!(Request::read(&mut unknown.as_slice()).await, Err(FrameError::Malformed(_))));
    }

    /// serde repeats the word it does not know.
    #[tokio::test]
    async fn an_error_is_one_line_of_characters_that_can_be_seen() {
        let word = "\u{1b}[31m\u{202e}a\r\nb";
        for text in [json!({"version": 1, "request": word}), json!({"answer": word})] {
            let request = Request::read(&mut framed(&text).as_slice()).await.unwrap_err().to_string();
            let answer = Answer::read(&mut framed(&text).as_slice()).await.unwrap_err().to_string();
            assert!(!(request + &answer).contains(|c: char| c.is_control() || is_invisible(c)), "{text}");
        }
    }

    #[tokio::test]
    async fn a_request_about_what_kubernetes_could_not_have_is_refused() {
        for odd in ["", "../../etc", "a\n", "a b", "\u{202e}a", &"a".repeat(254)] {
            let import = Request::Import(Import { device: odd.to_owned(), ..import() });
            let target = Pod { name: "vm-a".into(), uid: odd.to_owned() };
            for request in [import, Request::Migrate(Migrate { target, ..migrate() })] {
                let read = Request::read(&mut request.frame().unwrap().as_slice()).await;
                assert!(matches!(read, Err(FrameError::Malformed(_))), "{odd:?}");
            }
        }
    }

    #[tokio::test]
    async fn unknown_fields_are_ignored() {
        let answer = framed(&json!({"answer": "granted", "devid": 65537, "speed": 5, "busId": "1-1", "colour": "red"}));
        let granted = Granted { devid: 65537, speed: 5, bus_id: "1-1".into() };
        assert_eq!(Answer::read(&mut answer.as_slice()).await.unwrap(), Answer::Granted(granted));
    }

    #[tokio::test]
    async fn grants_that_no_kernel_could_give_are_refused() {
        for (devid, speed, bus) in [
            (0, 5, "1-1"),
            (65536, 5, "1-1"),
            (1, 5, "1-1"),
            (65537, 0, "1-1"),
            (65537, 7, "1-1"),
            (65537, 5, ""),
            (65537, 5, "../1"),
        ] {
            let answer = framed(&json!({"answer": "granted", "devid": devid, "speed": speed, "busId": bus}));
            assert!(
                matches!(Answer::read(&mut answer.as_slice()).await, Err(FrameError::Malformed(_))),
                "{devid} {speed} {bus}"
            );
        }
    }

    #[tokio::test]
    async fn lengths_outside_the_limit_are_refused_before_anything_is_read() {
        for length in [0_u32, 4097, u32::MAX] {
            let refused = read_frame(&mut length.to_be_bytes().as_slice()).await;
            assert!(matches!(refused, Err(FrameError::Malformed(_))), "{length}");
        }
    }

    #[test]
    fn a_request_that_is_too_long_is_not_sent() {
        let long = Import { device: "x".repeat(MAX_FRAME), ..import() };
        assert!(Request::Import(long).frame().is_err());
    }

    proptest! {
        #[test]
        fn every_reason_fits_a_frame_and_comes_out_on_one_line(reason in "(\\PC|\"|\\\\|\n|\u{1}|\u{7f}|😀){0,1200}") {
            let bytes = frame(&Answer::denied(&reason)).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let Answer::Denied { reason: read } = runtime.block_on(Answer::read(&mut bytes.as_slice())).unwrap() else { panic!() };
            prop_assert!(!read.contains(char::is_control));
            prop_assert_eq!(read.chars().count(), reason.chars().count().min(MAX_REASON));
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            drop(runtime.block_on(Request::read(&mut bytes.as_slice())));
            drop(runtime.block_on(Answer::read(&mut bytes.as_slice())));
        }
    }
}
