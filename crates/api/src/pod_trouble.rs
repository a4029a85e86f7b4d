//! What keeps a pod from running, in one line, from the words of the scheduler, the kubelet and the container.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, Pod, PodCondition};
use patchbay_core::controller::world::PodTrouble;

use crate::attachment::condition;

/// The longest that is taken over from others, in bytes.
const LONGEST: usize = 400;

/// How our own last words begin (`main` of the program).
const OURS: &str = "patchbay: ";

/// What the kubelet calls an image that it cannot get (`pkg/kubelet/images/types.go`).
const NO_IMAGE: &[&str] = &[
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
];

/// Reads a pod of one container.
pub(crate) fn read(pod: &Pod) -> Option<PodTrouble> {
    let unschedulable = |c: &&PodCondition| c.status == "False" && c.reason.as_deref() == Some("Unschedulable");
    if let Some(scheduled) = condition(pod, "PodScheduled").filter(unschedulable) {
        let message = scheduled.message.as_deref().unwrap_or_default();
        // What preemption could have done helps nobody.
        let message = message.split(" preemption: ").next().unwrap_or_default();
        return Some(PodTrouble::Unschedulable(clean(message)));
    }
    let container = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    let state = container.state.as_ref()?;
    if let Some(ended) = &state.terminated {
        return Some(ended_with(ended));
    }
    let waiting = state.waiting.as_ref()?;
    let message = waiting.message.as_deref().unwrap_or_default();
    match waiting.reason.as_deref().unwrap_or_default() {
        "ContainerCreating" | "PodInitializing" | "" => None,
        "CrashLoopBackOff" => container.last_state.as_ref().and_then(before),
        reason if NO_IMAGE.contains(&reason) => Some(PodTrouble::NoImage(clean(pull_error(reason, message)))),
        reason => Some(PodTrouble::NotStarted(clean(if message.is_empty() { reason } else { message }))),
    }
}

fn before(state: &ContainerState) -> Option<PodTrouble> {
    state.terminated.as_ref().map(ended_with)
}

/// The kubelet tells the same error in two ways in turn: while it tries, and while it waits before it tries again.
fn pull_error<'m>(reason: &'m str, message: &'m str) -> &'m str {
    let cause = message.split_once("ErrImagePull: ").map_or(message, |(_, cause)| cause);
    if cause.is_empty() { reason } else { cause }
}

fn ended_with(ended: &ContainerStateTerminated) -> PodTrouble {
    PodTrouble::Ended { code: ended.exit_code, words: last_words(ended) }
}

/// Why a container has ended.
pub(crate) fn last_words(ended: &ContainerStateTerminated) -> String {
    let reason = ended.reason.as_deref().unwrap_or("no reason is known");
    let message = ended.message.as_deref().unwrap_or_default();
    // The guest's console is in the same log: only the engine's own line is about the machine.
    let ours = message.lines().rev().find_map(|line| line.trim().strip_prefix(OURS));
    let words = match reason {
        "OOMKilled" => "it needs more memory than its pod may use",
        "StartError" | "ContainerCannotRun" => message,
        _ => ours.unwrap_or(reason),
    };
    clean(words)
}

/// One line without control characters, not too long.
pub(crate) fn clean(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.get(..line.floor_char_boundary(LONGEST)) {
        Some(cut) if cut.len() < line.len() => format!("{cut}..."),
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(container: Value) -> Pod {
        let scheduled = json!({"type": "PodScheduled", "status": "True"});
        serde_json::from_value(json!({"status": {"conditions": [scheduled], "containerStatuses": [container]}}))
            .unwrap()
    }

    fn waiting(reason: &str, message: &str) -> Option<PodTrouble> {
        read(&pod(json!({"state": {"waiting": {"reason": reason, "message": message}}})))
    }

    fn ended(code: i32, reason: &str, message: &str) -> Value {
        json!({"terminated": {"exitCode": code, "reason": reason, "message": message}})
    }

    #[test]
    fn a_pod_that_runs_or_is_on_its_way_has_no_trouble() {
        assert_eq!(read(&Pod::default()), None);
        assert_eq!(read(&pod(json!({"state": {"running": {}}, "lastState": ended(1, "Error", "")}))), None);
        assert_eq!(waiting("ContainerCreating", ""), None);
    }

    #[test]
    fn the_scheduler_is_quoted_without_what_it_says_of_preemption() {
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/2 nodes are available: 2 Insufficient memory. preemption: 0/2 nodes are available: none."});
        let pod = serde_json::from_value(json!({"status": {"conditions": [condition]}})).unwrap();
        let words = "0/2 nodes are available: 2 Insufficient memory.".to_owned();
        assert_eq!(read(&pod), Some(PodTrouble::Unschedulable(words)));
    }

    #[test]
    fn an_image_that_is_not_there_is_told_alike_while_it_is_pulled_and_in_between() {
        let error = "failed to pull and unpack image \"example/guest:9\": not found";
        let expected = Some(PodTrouble::NoImage(error.to_owned()));
        assert_eq!(waiting("ErrImagePull", error), expected);
        let again = format!("Back-off pulling image \"example/guest:9\": ErrImagePull: {error}");
        assert_eq!(waiting("ImagePullBackOff", &again), expected);
        assert_eq!(waiting("ErrImageNeverPull", ""), Some(PodTrouble::NoImage("ErrImageNeverPull".to_owned())));
    }

    #[test]
    fn of_a_container_that_has_ended_the_last_words_of_the_engine_are_kept() {
        let log = "[    1.2] guest panic\npatchbay: QEMU was ended by signal 11\n\u{1b}[0mconsole";
        let words = |code, words: &str| Some(PodTrouble::Ended { code, words: words.to_owned() });
        let looping = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting"}});
        let pod_of = |state: Value, last: Value| read(&pod(json!({"state": state, "lastState": last})));
        assert_eq!(pod_of(looping.clone(), ended(1, "Error", log)), words(1, "QEMU was ended by signal 11"));
        assert_eq!(pod_of(ended(0, "Completed", ""), json!({})), words(0, "Completed"));
        assert_eq!(
            pod_of(looping, ended(137, "OOMKilled", log)),
            words(137, "it needs more memory than its pod may use")
        );
        assert_eq!(pod_of(ended(139, "Error", "console"), json!({})), words(139, "Error"));
        assert_eq!(waiting("RunContainerError", "a\n\tb"), Some(PodTrouble::NotStarted("a b".to_owned())));
    }

    #[test]
    fn what_others_say_at_length_is_cut() {
        let text = clean(&"ü".repeat(300));
        assert!(text.len() <= LONGEST + 3 && text.ends_with("ü..."), "{text}");
    }
}
