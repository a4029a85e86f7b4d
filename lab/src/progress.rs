//! What is going on, and for how long: one line per long step on standard error.
//!
//! On a terminal the last line shows the steps under way with their times and is redrawn each second; a finished
//! step leaves its line above. Elsewhere (a log of a build server) a step prints a line when it starts, each 30 s,
//! and when it ends. Any thread may have steps under way; other output goes through [`say`], so that it does not
//! land in the middle of the redrawn line.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How often a step reports where nobody can redraw a line.
const REPORT: Duration = Duration::from_secs(30);
/// Columns the redrawn line may take.
const WIDTH: usize = 100;

static BOARD: Mutex<Board> = Mutex::new(Board { steps: Vec::new(), next: 0, ticking: false });

struct Board {
    steps: Vec<Active>,
    next: u64,
    ticking: bool,
}

struct Active {
    id: u64,
    what: String,
    started: Instant,
    reported: Instant,
}

/// A step under way. Dropped without [`Step::done`] it counts as failed.
#[derive(Debug)]
#[must_use = "a step that is dropped at once is reported as failed"]
pub struct Step {
    id: u64,
    finished: bool,
}

impl Step {
    /// Starts a step; `what` reads like `building Kubernetes 1.34.4`.
    pub fn start(what: &str) -> Self {
        let mut board = board();
        let id = board.next;
        board.next += 1;
        let now = Instant::now();
        board.steps.push(Active { id, what: what.to_owned(), started: now, reported: now });
        if is_terminal() {
            board.draw();
        } else {
            eprintln!("  {what} ...");
        }
        if !board.ticking {
            board.ticking = true;
            thread::spawn(tick);
        }
        Self { id, finished: false }
    }

    /// The step has succeeded.
    pub fn done(mut self) {
        self.finish("");
    }

    fn finish(&mut self, verdict: &str) {
        self.finished = true;
        let mut board = board();
        let Some(at) = board.steps.iter().position(|step| step.id == self.id) else { return };
        let step = board.steps.remove(at);
        board.print(&format!("  {} ... {verdict}{}", step.what, seconds(step.started.elapsed())));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.finished {
            self.finish("failed after ");
        }
    }
}

/// Runs `work` as a step.
///
/// # Errors
/// The error of `work`.
pub fn step<T, E>(what: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let step = Step::start(what);
    let result = work();
    if result.is_ok() {
        step.done();
    }
    result
}

/// Prints a line above the steps under way.
pub fn say(line: &str) {
    board().print(line);
}

impl Board {
    fn print(&self, line: &str) {
        if is_terminal() {
            eprint!("\r\x1b[K");
        }
        eprintln!("{line}");
        self.draw();
    }

    fn draw(&self) {
        if is_terminal() && !self.steps.is_empty() {
            eprint!("\r\x1b[K{}", status_line(self.steps.iter().map(|s| (s.what.as_str(), s.started.elapsed()))));
            let _ = io::stderr().flush();
        }
    }

    fn report(&mut self) {
        if is_terminal() {
            self.draw();
            return;
        }
        for step in &mut self.steps {
            if step.reported.elapsed() >= REPORT {
                step.reported = Instant::now();
                eprintln!("  {} ... {} so far", step.what, seconds(step.started.elapsed()));
            }
        }
    }
}

/// Lives while a step is under way.
fn tick() {
    loop {
        thread::sleep(Duration::from_secs(1));
        let mut board = board();
        if board.steps.is_empty() {
            board.ticking = false;
            return;
        }
        board.report();
    }
}

fn board() -> MutexGuard<'static, Board> {
    // A thread that panicked while printing has left nothing half-done that matters.
    BOARD.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_terminal() -> bool {
    io::stderr().is_terminal()
}

fn status_line<'a>(steps: impl Iterator<Item = (&'a str, Duration)>) -> String {
    let mut line = String::new();
    for (what, time) in steps {
        let separator = if line.is_empty() { "  " } else { ", " };
        let _ = write!(line, "{separator}{what} ... {}", seconds(time));
    }
    line.chars().take(WIDTH).collect()
}

/// `0.4 s`, `12 s`, `3 min 20 s`.
fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        whole @ 10..120 => format!("{whole} s"),
        whole => format!("{} min {} s", whole / 60, whole % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_exact_as_a_person_wants_them() {
        assert_eq!(seconds(Duration::from_millis(430)), "0.4 s");
        assert_eq!(seconds(Duration::from_millis(12_600)), "12 s");
        assert_eq!(seconds(Duration::from_secs(200)), "3 min 20 s");
    }

    #[test]
    fn all_steps_under_way_are_on_the_status_line() {
        let steps = [("building the kernel", Duration::from_secs(61)), ("making images", Duration::from_secs(2))];
        assert_eq!(status_line(steps.into_iter()), "  building the kernel ... 61 s, making images ... 2.0 s");
    }

    #[test]
    fn a_step_is_on_the_board_until_it_ends() {
        let on_board = |id| board().steps.iter().any(|step| step.id == id);
        let first = Step::start("first step of a test");
        let id = first.id;
        assert!(on_board(id));
        first.done();
        assert!(!on_board(id));
        let failed: Result<(), &str> = step("second step of a test", || Err("reason"));
        assert_eq!(failed, Err("reason"));
        assert!(board().steps.iter().all(|step| step.what != "second step of a test"));
    }
}
