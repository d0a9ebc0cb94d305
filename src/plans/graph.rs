//! The graph of a plan's dependencies.

use std::collections::{BTreeMap, BTreeSet};

use super::{fault::Pointer, read::Faults, step::Step};
use crate::config::keys::nearest;

/// The ancestors of each step, by its index: the steps that it depends on, directly or through others. Reports unknown
/// dependencies and cycles.
pub(super) fn ancestors(steps: &[Step], faults: &mut Faults) -> Vec<BTreeSet<usize>> {
    let places: BTreeMap<&str, usize> = steps
        .iter()
        .enumerate()
        .map(|(n, step)| (step.id.as_str(), n))
        .collect();
    let mut parents: Vec<Vec<usize>> = Vec::with_capacity(steps.len());
    for (n, step) in steps.iter().enumerate() {
        let mut own = Vec::new();
        for (i, id) in step.depends_on.iter().enumerate() {
            if let Some(parent) = places.get(id.as_str()) {
                own.push(*parent);
                continue;
            }
            let at = Pointer::root().at("steps").at(n).at("depends_on").at(i);
            let fault = faults.add(&at, format!("there is no step `{id}`"));
            fault.step = Some(step.id.clone());
            fault.note =
                nearest(id, places.keys().copied()).map(|meant| format!("did you mean `{meant}`?"));
        }
        parents.push(own);
    }
    let (order, rest) = topological_order(&parents);
    if let Some(first) = rest.first() {
        let cycle = cycle(&parents, &rest, *first);
        let names: Vec<_> = cycle.iter().map(|n| steps[*n].id.as_str()).collect();
        let at = Pointer::root().at("steps").at(cycle[0]).at("depends_on");
        let fault = faults.add(
            &at,
            format!(
                "the steps depend on each other in a cycle: {}",
                names.join(" → ")
            ),
        );
        fault.step = Some(names[0].to_owned());
    }
    let mut ancestors = vec![BTreeSet::new(); steps.len()];
    for n in order {
        let mut all: BTreeSet<usize> = parents[n].iter().copied().collect();
        for parent in &parents[n] {
            all.extend(&ancestors[*parent]);
        }
        ancestors[n] = all;
    }
    ancestors
}

/// The steps in topological order, and the steps that cannot be ordered because they are in a cycle or depend on one.
fn topological_order(parents: &[Vec<usize>]) -> (Vec<usize>, BTreeSet<usize>) {
    let mut left: BTreeSet<usize> = (0..parents.len()).collect();
    let mut order = Vec::new();
    loop {
        let free = |n: &usize| parents[*n].iter().all(|parent| !left.contains(parent));
        let next: Vec<_> = left.iter().copied().filter(free).collect();
        if next.is_empty() {
            return (order, left);
        }
        for n in next {
            left.remove(&n);
            order.push(n);
        }
    }
}

/// A cycle reachable from `from`; its first step is repeated at the end. Each step in `rest` depends on another one in `rest`, so
/// there is one.
fn cycle(parents: &[Vec<usize>], rest: &BTreeSet<usize>, from: usize) -> Vec<usize> {
    let mut path = vec![from];
    loop {
        let last = path[path.len() - 1];
        let Some(next) = parents[last].iter().find(|n| rest.contains(n)) else {
            return path;
        };
        if let Some(start) = path.iter().position(|n| n == next) {
            path.push(*next);
            return path.split_off(start);
        }
        path.push(*next);
    }
}
