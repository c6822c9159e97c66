//! A failing run as a list of steps, and the shortest one that still fails.

use super::{driver::replay, invariants::Violation, profile::Profile};

/// Runs that shrinking makes, at most.
const MAX_REPLAYS: usize = 3000;

/// Removes steps, ever smaller chunks of them, as long as the same invariant fails.
///
/// Checks everything after each step, if the run fails in the same way and earlier then.
pub fn shrink(profile: &mut Profile, steps: &[u32], violation: &Violation) -> Vec<u32> {
    let mut steps = steps.to_vec();
    let mut replays = 0;
    let usual = std::mem::replace(&mut profile.full_check_steps, 1);
    let found = replay(profile, &steps, false);
    let is_same = found
        .violation
        .is_some_and(|found| found.name == violation.name);
    if is_same && found.steps.len() < steps.len() {
        steps = found.steps;
    } else {
        profile.full_check_steps = usual;
    }
    let mut size = steps.len().div_ceil(2);
    while size > 0 {
        let mut has_shrunk = false;
        let mut start = 0;
        while start < steps.len() {
            if replays >= MAX_REPLAYS {
                return steps;
            }
            replays += 1;
            let end = (start + size).min(steps.len());
            let shorter = [&steps[..start], &steps[end..]].concat();
            let found = replay(profile, &shorter, false);
            if found
                .violation
                .is_some_and(|found| found.name == violation.name)
            {
                // The run may have failed before its last step.
                steps = found.steps;
                has_shrunk = true;
            } else {
                start = end;
            }
        }
        if size == 1 && !has_shrunk {
            break;
        }
        size = if size == 1 { 1 } else { size.div_ceil(2) };
    }
    steps
}
