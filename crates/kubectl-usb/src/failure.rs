//! What can go wrong, in words that say what to do.

use std::time::Duration;

use kube::core::Status;

/// `--wait` took too long.
const LATE: u8 = 4;

/// Why a command has failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// There is no way to a cluster.
    #[error("cannot tell how to reach the cluster: {0}")]
    Config(String),
    /// The API server has answered, and not as hoped.
    #[error("cannot {what}: {}", .status.message)]
    Refused {
        /// What was tried.
        what: String,
        /// The answer.
        status: Box<Status>,
    },
    /// There was no answer in time.
    #[error("cannot {what}: the API server has not answered within {} s", .after.as_secs_f32())]
    Silent {
        /// What was tried.
        what: String,
        /// How long.
        after: Duration,
    },
    /// There was no answer.
    #[error("cannot {what}: {why}")]
    Unreachable {
        /// What was tried.
        what: String,
        /// The innermost reason.
        why: String,
    },
    /// It cannot be done as things are; the second part says what to do.
    #[error("{0}")]
    Unfit(String, String),
    /// Somebody else writes the same object all the time.
    #[error("{0} was changed by others again and again in the meantime")]
    Contended(String),
    /// It was not so in time.
    #[error("{what} after {} s: {last}", .after.as_secs_f32())]
    Late {
        /// What was waited for, as a sentence that says that it is not so.
        what: String,
        /// How long.
        after: Duration,
        /// What was said last.
        last: String,
        /// What to do.
        advice: String,
    },
    /// The answer cannot be printed.
    #[error("cannot write: {0}")]
    Output(std::io::Error),
}

impl Failure {
    /// What the client says of a request.
    pub(crate) fn new(what: &str, error: kube::Error) -> Self {
        let what = what.to_owned();
        match error {
            kube::Error::Api(status) => Self::Refused { what, status },
            other => Self::Unreachable { what, why: innermost(&other) },
        }
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        if matches!(self, Self::Late { .. }) { LATE } else { 1 }
    }

    /// Whether the API server says that this person may not do it.
    pub(crate) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if status.code == 403)
    }

    /// Whether the API server knows no such kind.
    pub(crate) fn is_unknown_kind(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if status.code == 404 && status.details.is_none())
    }

    /// What to do.
    pub(crate) fn advice(&self) -> Option<String> {
        let text = match self {
            Self::Config(_) => {
                "Give --kubeconfig and --context, or set KUBECONFIG: kubectl config get-contexts shows what there is."
            }
            Self::Refused { status, .. } if status.code == 403 => {
                "Ask an administrator of the cluster for the right to do it; kubectl auth can-i --list shows what you may do."
            }
            Self::Refused { status, .. } if status.code == 401 => {
                "Log in again: the credentials of the kubeconfig are not accepted."
            }
            Self::Refused { .. } if self.is_unknown_kind() => {
                "Is Patchbay installed in this cluster? kubectl get crd nodeusbdevices.virtualization.deckhouse.io tells."
            }
            Self::Refused { .. } | Self::Output(_) => return None,
            Self::Silent { .. } | Self::Unreachable { .. } => {
                "Check that the cluster can be reached (kubectl cluster-info), and --context; --request-timeout gives it more time."
            }
            Self::Contended(_) => "Try again.",
            Self::Unfit(_, advice) | Self::Late { advice, .. } => advice,
        };
        Some(text.to_owned()).filter(|text| !text.is_empty())
    }
}

/// The innermost reason of an error: what is around it repeats it.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_api_server_and_with_what_to_do() {
        let status = Status::failure("nodeusbdevices is forbidden", "Forbidden").with_code(403);
        let failure = Failure::new("list USB devices", kube::Error::Api(status.boxed()));
        assert_eq!(failure.to_string(), "cannot list USB devices: nodeusbdevices is forbidden");
        assert!(failure.is_forbidden() && failure.code() == 1 && failure.advice().unwrap().starts_with("Ask"));
    }

    #[test]
    fn what_took_too_long_has_a_code_of_its_own() {
        let (what, last) = ("webcam is not in linux-vm".to_owned(), "no port".to_owned());
        let late = Failure::Late { what, after: Duration::from_secs(2), last, advice: String::new() };
        assert_eq!(late.to_string(), "webcam is not in linux-vm after 2 s: no port");
        assert_eq!((late.code(), late.advice()), (4, None));
    }
}
