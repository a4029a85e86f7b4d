//! Callers that are too many: who has to go, so that whoever floods a node holds up nobody but itself.

use std::collections::BTreeMap;

/// Calls of one node that may wait for an answer at a time. A node has no more devices and machines under way than it has
/// ports and pods with machines that move, which are far fewer.
pub const MAX_OF_ONE_NODE: usize = 64;

/// Which of the callers that have not said yet what they want makes room for the next one, when there is no room.
///
/// `callers` says where each of them calls from, those that have waited longest first. The one that goes is the first of those
/// from where most come (of equals, the one that has waited longest). So it takes a whole crowd that calls after a caller, in the
/// moment it needs, to drive that one out, and a crowd from one place drives out its own.
pub fn makes_room<A: Ord>(callers: &[A]) -> Option<usize> {
    let mut count: BTreeMap<&A, usize> = BTreeMap::new();
    for from in callers {
        *count.entry(from).or_default() += 1;
    }
    let most = count.values().copied().max()?;
    callers.iter().position(|from| count.get(from) == Some(&most))
}

/// Why a node that has `waiting` calls at this one already is refused another; None when it is not.
pub fn too_many(peer: &str, waiting: usize) -> Option<String> {
    (waiting >= MAX_OF_ONE_NODE).then(|| {
        format!("node {peer} has {waiting} calls waiting here, the most that one node may have: end some of them")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_those_from_where_most_come_makes_room() {
        let cases: [(&str, &[&str], Option<usize>); 6] = [
            ("nobody is there", &[], None),
            ("one alone", &["a"], Some(0)),
            ("all from elsewhere: who has waited longest", &["a", "b", "c"], Some(0)),
            ("a crowd that came first", &["a", "a", "a", "b"], Some(0)),
            ("a crowd that came later", &["b", "a", "a", "c", "a"], Some(1)),
            ("two crowds of one size", &["c", "b", "a", "a", "b"], Some(1)),
        ];
        for (what, callers, goes) in cases {
            assert_eq!(makes_room(callers), goes, "{what}");
        }
    }

    #[test]
    fn a_crowd_never_drives_out_a_caller_from_elsewhere() {
        let mut callers = vec!["importer"];
        callers.extend(vec!["crowd"; 63]);
        for _ in 0..1000 {
            callers.remove(makes_room(&callers).unwrap());
            callers.push("crowd");
        }
        assert_eq!(callers.first(), Some(&"importer"));
    }

    #[test]
    fn a_node_is_refused_the_call_over_its_limit_and_none_before() {
        assert_eq!(too_many("node-2", MAX_OF_ONE_NODE - 1), None);
        assert!(
            too_many("node-2", MAX_OF_ONE_NODE).is_some_and(|why| why.contains("node node-2 has 64 calls waiting"))
        );
    }
}
