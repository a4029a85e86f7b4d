//! Visits every world that can be reached, breadth first, and checks the laws in each.
//!
//! That the system comes to rest is not tried out but shown: over all visited worlds, the steps the parties make by themselves
//! (no edits, no accidents) must form a graph without a cycle. Then every order of steps, however unfair, ends, and it
//! ends in a world in which nobody has anything to do; those are checked against [`laws::at_rest`].

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::laws;
use crate::scenario::Scenario;
use crate::steps::{Kind, Steps};

/// What an exploration has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Different worlds.
    pub worlds: usize,
    /// Steps between them.
    pub steps: usize,
    /// Worlds at rest.
    pub rests: usize,
    /// The longest way to rest, in steps.
    pub longest: usize,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { worlds, steps, rests, longest, took } = self;
        let seconds = took.as_secs_f32();
        write!(f, "{worlds} worlds, {steps} steps, {rests} at rest, at most {longest} steps to rest, {seconds:.1} s")
    }
}

/// A broken law, with the shortest way to it.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The law.
    pub law: String,
    /// What happened, step by step.
    pub story: Vec<String>,
    /// The world in which it is broken.
    pub world: Box<Cluster>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.law)?;
        for (number, step) in self.story.iter().enumerate() {
            writeln!(f, "{:3}. {step}", number + 1)?;
        }
        Ok(())
    }
}

/// How a world was reached first.
#[derive(Clone, Copy)]
struct Origin {
    parent: usize,
    step: usize,
}

struct Explorer<'s> {
    scenario: &'s Scenario,
    known: HashMap<u64, usize>,
    origins: Vec<Origin>,
    quiet: Vec<(usize, usize)>,
}

/// Visits every world that can be reached from the start of `scenario`.
///
/// # Errors
/// The first broken law; that there are more than `limit` worlds is one too.
pub fn explore(scenario: &Scenario, limit: usize) -> Result<Report, Violation> {
    let begin = Instant::now();
    let mut explorer = Explorer { scenario, known: HashMap::new(), origins: Vec::new(), quiet: Vec::new() };
    let (mut steps, mut rests) = (0, 0);
    let orderly = scenario.is_orderly();
    let mut frontier = VecDeque::from([(0, scenario.start.clone())]);
    explorer.known.insert(scenario.start.fingerprint(), 0);
    explorer.origins.push(Origin { parent: 0, step: 0 });
    while let Some((index, world)) = frontier.pop_front() {
        let fail = |law: String| explorer.violation(law, index);
        if let Some(law) = laws::always(&world) {
            return Err(fail(law));
        }
        let Ok(out) = catch_unwind(AssertUnwindSafe(|| world.steps(scenario, false))) else {
            return Err(fail("a planner panics".to_owned()));
        };
        if let Some(law) = out.broken {
            return Err(fail(law));
        }
        if out.rest {
            rests += 1;
            if let Some(law) = laws::at_rest(&world, scenario) {
                return Err(fail(law));
            }
        }
        for (number, step) in out.into_vec().into_iter().enumerate() {
            let fingerprint = step.next.fingerprint();
            let fresh = explorer.origins.len();
            let next = *explorer.known.entry(fingerprint).or_insert(fresh);
            if next == index && step.kind == Kind::Quiet {
                return Err(explorer.step("a party is busy with nothing".to_owned(), index, number));
            }
            if next == index {
                continue;
            }
            if step.kind == Kind::Quiet
                && let Some(law) = laws::between(&world, &step.next, orderly)
            {
                return Err(explorer.step(law, index, number));
            }
            steps += 1;
            if step.kind == Kind::Quiet {
                explorer.quiet.push((index, next));
            }
            if next == fresh {
                explorer.origins.push(Origin { parent: index, step: number });
                frontier.push_back((next, step.next));
            }
        }
        if explorer.origins.len() > limit {
            return Err(explorer.violation(format!("there are more than {limit} worlds"), index));
        }
    }
    let longest = explorer.longest_way_to_rest()?;
    Ok(Report { worlds: explorer.origins.len(), steps, rests, longest, took: begin.elapsed() })
}

impl Explorer<'_> {
    fn violation(&self, law: String, index: usize) -> Violation {
        let (story, world) = self.story(index);
        Violation { law, story, world: Box::new(world) }
    }

    /// A law that is broken by a step out of a world.
    fn step(&self, law: String, index: usize, number: usize) -> Violation {
        let mut violation = self.violation(law, index);
        let step = told(&violation.world, self.scenario).into_vec().into_iter().nth(number);
        violation.story.extend(step.map(|s| s.label));
        violation
    }

    /// Tells the shortest way to a world, by going it again.
    fn story(&self, index: usize) -> (Vec<String>, Cluster) {
        let mut numbers = VecDeque::new();
        let mut at = index;
        while at != 0 {
            let Some(origin) = self.origins.get(at) else { break };
            numbers.push_front(origin.step);
            at = origin.parent;
        }
        let mut world = self.scenario.start.clone();
        let mut story = Vec::new();
        for number in numbers {
            let Some(step) = told(&world, self.scenario).into_vec().into_iter().nth(number) else { break };
            story.push(step.label);
            world = step.next;
        }
        (story, world)
    }

    /// The length of the longest quiet path; an error if there is a cycle.
    fn longest_way_to_rest(&self) -> Result<usize, Violation> {
        let count = self.origins.len();
        let mut before = vec![Vec::new(); count];
        let mut open = vec![0_usize; count];
        for (from, to) in &self.quiet {
            if let (Some(list), Some(open)) = (before.get_mut(*to), open.get_mut(*from)) {
                list.push(*from);
                *open += 1;
            }
        }
        // From the worlds at rest backwards: a world is finished when all it leads to are.
        let mut length = vec![0_usize; count];
        let mut finished: Vec<usize> = open.iter().enumerate().filter(|(_, n)| **n == 0).map(|(i, _)| i).collect();
        let mut done = finished.len();
        while let Some(world) = finished.pop() {
            let steps = length.get(world).map_or(0, |l| l + 1);
            for from in before.get(world).into_iter().flatten() {
                if let (Some(length), Some(open)) = (length.get_mut(*from), open.get_mut(*from)) {
                    *length = steps.max(*length);
                    *open -= 1;
                    if *open == 0 {
                        finished.push(*from);
                        done += 1;
                    }
                }
            }
        }
        if done < count {
            return Err(self.cycle(&open));
        }
        Ok(length.into_iter().max().unwrap_or(0))
    }

    /// A world on a cycle, the shortest way there, and once around.
    fn cycle(&self, open: &[usize]) -> Violation {
        let endless = |world: &usize| open.get(*world).is_some_and(|n| *n > 0);
        let mut onward: HashMap<usize, usize> = HashMap::new();
        for (from, to) in self.quiet.iter().filter(|(from, to)| endless(from) && endless(to)) {
            onward.entry(*from).or_insert(*to);
        }
        // Every endless world leads to another one: whoever walks on long enough walks in circles.
        let mut at = (0..open.len()).find(endless).unwrap_or(0);
        for _ in 0..onward.len() {
            at = onward.get(&at).copied().unwrap_or(at);
        }
        let start = at;
        let (mut story, mut world) = self.story(start);
        story.push("--- and from here in circles:".to_owned());
        while let Some(next) = onward.get(&at).copied() {
            let step = told(&world, self.scenario)
                .into_vec()
                .into_iter()
                .find(|s| s.kind == Kind::Quiet && self.known.get(&s.next.fingerprint()) == Some(&next));
            let Some(step) = step else { break };
            story.push(step.label);
            world = step.next;
            at = next;
            if at == start {
                break;
            }
        }
        Violation { law: "the parties never come to rest".to_owned(), story, world: Box::new(world) }
    }
}

fn told(world: &Cluster, scenario: &Scenario) -> Steps {
    world.steps(scenario, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explorer<'s>(scenario: &'s Scenario, quiet: &[(usize, usize)]) -> Explorer<'s> {
        let origins = vec![Origin { parent: 0, step: 0 }; 4];
        Explorer { scenario, known: HashMap::new(), origins, quiet: quiet.to_vec() }
    }

    #[test]
    fn the_longest_way_to_rest_is_counted_in_steps() {
        let scenario = Scenario::new();
        let longest = explorer(&scenario, &[(0, 1), (0, 2), (1, 2), (2, 3)]).longest_way_to_rest();
        assert_eq!(longest.unwrap(), 3);
    }

    #[test]
    fn worlds_that_lead_back_to_each_other_are_found() {
        let scenario = Scenario::new();
        let circle = explorer(&scenario, &[(0, 1), (1, 2), (2, 1), (1, 3)]).longest_way_to_rest();
        assert!(circle.unwrap_err().law.contains("never come to rest"));
    }
}
