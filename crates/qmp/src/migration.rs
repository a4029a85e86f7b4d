//! Moving a running guest from one QEMU to another through a connected socket.
//!
//! ```text
//!   source:  none --send()--> setup, active --> pre-switchover --proceed()--> device --> completed
//!   guest:   runs             runs              paused                        paused     paused for good
//!   target:  none --receive()--> active -----------------------------------------------> completed, paused
//!
//!   cancel(), or a failure of either side:  cancelled or failed; the guest runs on at the source
//! ```
//!
//! Four facts about QEMU 7.2 that callers have to know:
//! * On its way back from a failure or a cancel QEMU resumes the guest by itself. It does so only if it could not write the
//!   whole of the stream, and then the target has not loaded it, provided that nothing follows the guest's state in the
//!   stream: both machines have to be started with `suppress-vmdesc=on`.
//! * A target whose stream breaks ends with code 1. A target that was told `cont` too early starts the guest by itself.
//! * `device_del` is refused from `setup` on. A device that is switched off ([`crate::usb::switch_off`]) is not sent; but unless the
//!   guest has let go of it before the pause, the controller at the target forgets what it had under way for it, and a guest
//!   that goes on there may crash. So memory is sent at a [`Pace`]: fast while devices are in, next to nothing while the guest lets
//!   go of them, and fast again.
//!
//! A connection that the kernel encrypts must not be a blocking one. When it breaks while a blocking write of several TLS records
//! waits, Linux 7.3 (`tls_sw_sendmsg`) says that a part was written and forgets the error; each later write then *succeeds*, and
//! what is written piles up in the kernel, in the name of the container that has made the socket. So QEMU, which makes it
//! blocking at the beginning and leaves it so, is given one that is not ([`send`]); each write that has to wait ends at once then,
//! and the next one tells the error.

use std::io;
use std::os::fd::OwnedFd;

use serde_json::{Value, json};

use crate::QmpError;
use crate::monitor::Monitor;

/// Name of the socket inside QEMU.
const SOCKET: &str = "patchbay-migration";
/// Milliseconds that the guest may be paused for the rest of its memory.
const DOWNTIME: u64 = 300;
/// Longest message of QEMU that is passed on, in characters.
const MAX_WORDS: usize = 256;

/// How fast memory is sent.
///
/// Pages of zeros cost nine bytes each, so that even the slowest pace skips some 7 MiB of them in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pace {
    /// Next to nothing: 16 KiB per second.
    Crawl,
    /// 128 MiB per second, QEMU's own choice, and not to the end.
    Walk,
    /// 1 GiB per second, and to the end.
    Run,
}

impl Pace {
    /// Bytes per second.
    const fn bandwidth(self) -> u64 {
        match self {
            Self::Crawl => 16 << 10,
            Self::Walk => 128 << 20,
            Self::Run => 1 << 30,
        }
    }

    /// Milliseconds: what can be sent in these is sent in the pause.
    const fn downtime(self) -> u64 {
        match self {
            Self::Crawl | Self::Walk => 1,
            Self::Run => DOWNTIME,
        }
    }
}

/// How far a migration is, by QEMU's own word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// There was none in this QEMU.
    None,
    /// It is being set up.
    Setup,
    /// Memory is being sent while the guest runs.
    Active,
    /// All but the last is sent; the guest is paused until [`proceed`].
    PreSwitchover,
    /// The last memory and the devices are being sent.
    Device,
    /// All is sent, or loaded.
    Completed,
    /// It has failed.
    Failed,
    /// It is being cancelled.
    Cancelling,
    /// It was cancelled.
    Cancelled,
    /// One that is not known here.
    Unknown,
}

impl Phase {
    fn of(word: Option<&str>) -> Self {
        match word {
            None | Some("none") => Self::None,
            Some("setup" | "wait-unplug") => Self::Setup,
            Some("active") => Self::Active,
            Some("pre-switchover") => Self::PreSwitchover,
            Some("device") => Self::Device,
            Some("completed") => Self::Completed,
            Some("failed") => Self::Failed,
            Some("cancelling") => Self::Cancelling,
            Some("cancelled") => Self::Cancelled,
            Some(_) => Self::Unknown,
        }
    }

    /// Whether a migration is under way, so that QEMU refuses to add and to delete devices.
    #[must_use]
    pub fn is_under_way(self) -> bool {
        !matches!(self, Self::None | Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// What `query-migrate` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// How far it is.
    pub phase: Phase,
    /// How much of the guest has been sent, of 100; None when QEMU does not say. It may fall, since a guest that runs changes
    /// what was sent.
    pub percent: Option<u8>,
    /// Bytes of memory that are to be sent yet, as far as QEMU knows now; None when it does not say.
    pub left: Option<u64>,
    /// Why it has failed, if QEMU says.
    pub error: Option<String>,
}

impl Progress {
    /// Reads the answer of `query-migrate`. Total: what is not understood is left out.
    #[must_use]
    pub fn parse(answer: &Value) -> Self {
        let part = |name: &str, field: &str| answer.get(name)?.get(field)?.as_u64();
        let sum = |field: &str| {
            let parts = ["ram", "disk"].map(|name| part(name, field));
            parts.iter().any(Option::is_some).then(|| parts.into_iter().flatten().fold(0_u64, u64::saturating_add))
        };
        let sent = |total: u64, left: u64| {
            let done = u128::from(total.saturating_sub(left));
            done.saturating_mul(100).checked_div(u128::from(total)).and_then(|percent| u8::try_from(percent).ok())
        };
        let words = answer.get("error-desc").and_then(Value::as_str);
        Self {
            phase: Phase::of(answer.get("status").and_then(Value::as_str)),
            percent: sum("total").zip(sum("remaining")).and_then(|(total, left)| sent(total, left)),
            left: part("ram", "remaining"),
            error: words.map(|words| words.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect()),
        }
    }
}

/// Starts to send the guest through a connected socket, at [`Pace::Crawl`]. What the guest has written to disks that are thrown
/// away at the end (`snapshot=on`) goes along; what is below them has to be the same on both sides.
///
/// # Errors
/// What the monitor says; refused when a migration is under way. The socket is closed then, and when it cannot be made
/// non-blocking: QEMU may be sending then.
pub async fn send(monitor: &Monitor, socket: OwnedFd) -> Result<(), QmpError> {
    const COMMAND: &str = "migrate";
    let failed = |error: io::Error| QmpError::Nonsense { command: COMMAND, what: format!("the socket: {error}") };
    // Another descriptor of the same connection: whether it blocks is a property of that.
    let same = socket.try_clone().map_err(failed)?;
    set_capabilities(monitor, &["events", "pause-before-switchover", "auto-converge"]).await?;
    go(monitor, Pace::Crawl).await?;
    let disks: Vec<Value> = monitor.ask("query-block", json!({}), None).await?;
    let writable = |disk: &Value| disk.get("inserted").is_some_and(|medium| medium.get("ro") != Some(&json!(true)));
    let mut arguments = json!({"uri": format!("fd:{SOCKET}")});
    if disks.iter().any(writable)
        && let Some(fields) = arguments.as_object_mut()
    {
        fields.insert("inc".into(), true.into());
    }
    with_socket(monitor, socket, COMMAND, arguments).await?;
    rustix::io::ioctl_fionbio(&same, true).map_err(|error| failed(error.into()))
}

/// Changes the pace, also of a migration that is under way.
///
/// # Errors
/// What the monitor says.
pub async fn go(monitor: &Monitor, pace: Pace) -> Result<(), QmpError> {
    let parameters = json!({"max-bandwidth": pace.bandwidth(), "downtime-limit": pace.downtime()});
    monitor.execute("migrate-set-parameters", parameters, None).await.map(drop)
}

/// Starts to load a guest from a connected socket. QEMU has to be started with `-incoming defer -S`.
///
/// # Errors
/// What the monitor says; refused when the loading has begun before. The socket is closed then.
pub async fn receive(monitor: &Monitor, socket: OwnedFd) -> Result<(), QmpError> {
    set_capabilities(monitor, &["events"]).await?;
    with_socket(monitor, socket, "migrate-incoming", json!({"uri": format!("fd:{SOCKET}")})).await
}

/// Goes on from [`Phase::PreSwitchover`]: from here on the target may be able to run the guest.
///
/// # Errors
/// What the monitor says; refused in any other phase.
pub async fn proceed(monitor: &Monitor) -> Result<(), QmpError> {
    monitor.execute("migrate-continue", json!({"state": "pre-switchover"}), None).await.map(drop)
}

/// Gives up a migration that is under way, and resumes the guest if it ran before. Without one nothing happens.
///
/// # Errors
/// What the monitor says.
pub async fn cancel(monitor: &Monitor) -> Result<(), QmpError> {
    monitor.execute("migrate_cancel", json!({}), None).await.map(drop)
}

/// How far the migration is.
///
/// # Errors
/// What the monitor says.
pub async fn progress(monitor: &Monitor) -> Result<Progress, QmpError> {
    Ok(Progress::parse(&monitor.ask("query-migrate", json!({}), None).await?))
}

async fn set_capabilities(monitor: &Monitor, on: &[&str]) -> Result<(), QmpError> {
    let list: Vec<Value> = on.iter().map(|name| json!({"capability": name, "state": true})).collect();
    monitor.execute("migrate-set-capabilities", json!({ "capabilities": list }), None).await.map(drop)
}

/// Runs a command that takes the socket out of the monitor's hands; takes it back when the command is refused.
async fn with_socket(
    monitor: &Monitor,
    socket: OwnedFd,
    command: &'static str,
    arguments: Value,
) -> Result<(), QmpError> {
    monitor.execute("getfd", json!({ "fdname": SOCKET }), Some(socket)).await?;
    let Err(error) = monitor.execute(command, arguments, None).await else { return Ok(()) };
    // Refused, or used up by the command: the first error is the one worth telling.
    if let Err(second) = monitor.execute("closefd", json!({ "fdname": SOCKET }), None).await {
        tracing::debug!(error = %second, "socket not taken back from QEMU");
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn phases_and_shares_are_read() {
        let seen = |value: Value| Progress::parse(&value);
        let none = Progress { phase: Phase::None, percent: None, left: None, error: None };
        assert_eq!(seen(json!({})), none);
        for (word, phase) in [
            ("active", Phase::Active),
            ("pre-switchover", Phase::PreSwitchover),
            ("device", Phase::Device),
            ("completed", Phase::Completed),
            ("cancelling", Phase::Cancelling),
            ("cancelled", Phase::Cancelled),
            ("postcopy-active", Phase::Unknown),
        ] {
            assert_eq!(seen(json!({"status": word})), Progress { phase, ..none.clone() }, "{word}");
        }
        let half =
            json!({"status": "active", "ram": {"total": 150, "remaining": 100}, "disk": {"total": 50, "remaining": 0}});
        assert_eq!((seen(half.clone()).percent, seen(half).left), (Some(50), Some(100)));
        let failed = seen(json!({"status": "failed", "error-desc": "Unable to write\nto socket"}));
        assert_eq!((failed.phase, failed.error.as_deref()), (Phase::Failed, Some("Unable to writeto socket")));
        assert_eq!(seen(json!({"status": "active", "ram": {"total": 0, "remaining": 0}})).percent, None);
        let huge = json!({"ram": {"total": u64::MAX, "remaining": 1}, "disk": {"total": u64::MAX, "remaining": 1}});
        assert_eq!(seen(huge).percent, Some(99));
    }

    #[test]
    fn devices_cannot_come_or_go_while_a_migration_is_under_way() {
        use Phase::{Active, Cancelled, Cancelling, Completed, Device, Failed, None, PreSwitchover, Setup, Unknown};
        for phase in [Setup, Active, PreSwitchover, Device, Cancelling, Unknown] {
            assert!(phase.is_under_way(), "{phase:?}");
        }
        for phase in [None, Completed, Failed, Cancelled] {
            assert!(!phase.is_under_way(), "{phase:?}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_survived(
            status in "(active|failed|\\PC{0,9})", total in any::<i64>(), left in any::<u64>(), words in "\\PC{0,400}",
        ) {
            let answer = json!({"status": status, "ram": {"total": total, "remaining": left}, "disk": words, "error-desc": words});
            let seen = Progress::parse(&answer);
            prop_assert!(seen.percent.is_none_or(|percent| percent <= 100));
            prop_assert!(seen.error.unwrap().chars().count() <= MAX_WORDS);
        }
    }
}
