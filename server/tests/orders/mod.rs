//! What judges the answers of clients: our checker, which judges a simulated cluster as well, and a search through all orders
//! by another author, for comparison.

// The checker stands by itself.
#[allow(dead_code, reason = "each test binary uses its part of this")]
#[path = "../../../raft/src/simulation/history.rs"]
pub(crate) mod history;

use std::collections::BTreeMap;

use history::{Asked, If, Key, Operation, Told, Value};
use todc_utils::specifications::Specification;
use todc_utils::{Action, History, WGLChecker};

/// What happens to one key, for a checker that knows nothing of moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Write { value: Option<Value>, condition: Expected, told: Outcome },
    Read(Option<Value>),
    Search(Value, bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Anything,
    Nothing,
    Something,
    This(Value),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    Refused,
    Unknown,
}

/// A key that holds a value or nothing.
struct Register;

impl Specification for Register {
    type State = Option<Value>;
    type Operation = Step;

    fn init() -> Option<Value> {
        None
    }

    fn apply(step: &Step, state: &Option<Value>) -> (bool, Option<Value>) {
        match *step {
            Step::Read(found) => (found == *state, *state),
            Step::Search(value, found) => ((*state == Some(value)) == found, *state),
            Step::Write { value, condition, told } => {
                let holds = match condition {
                    Expected::Anything => true,
                    Expected::Nothing => state.is_none(),
                    Expected::Something => state.is_some(),
                    Expected::This(this) => *state == Some(this),
                };
                let after = if holds { value } else { *state };
                match told {
                    Outcome::Done => (holds, after),
                    Outcome::Refused => (!holds, *state),
                    Outcome::Unknown => (true, after),
                }
            }
        }
    }
}

/// What Wing & Gong's search says, as another author wrote it (`todc-utils`, held against Jepsen's histories of etcd): whether
/// each key by itself is linearizable. Reads of the past are left out.
pub(crate) fn is_linearizable_by_search(operations: &[Operation]) -> bool {
    let mut written: BTreeMap<(Key, u64), Value> = BTreeMap::new();
    for operation in operations {
        if let (Asked::Put(value, _), Told::Done(seq)) = (operation.asked, operation.told) {
            written.insert((operation.key, seq), value);
        }
        if let Told::Found(_, Some((version, value))) = operation.told {
            written.insert((operation.key, version), value);
        }
    }
    let step = |operation: &Operation| -> Option<Step> {
        let told = match operation.told {
            Told::Done(_) | Told::Nothing(_) => Outcome::Done,
            Told::Refused(_) => Outcome::Refused,
            Told::Unknown => Outcome::Unknown,
            Told::NotDone => return None,
            Told::Found(_, found) => {
                return match operation.asked {
                    Asked::Read => Some(Step::Read(found.map(|(_, value)| value))),
                    Asked::Search(value) => Some(Step::Search(value, found.is_some())),
                    _ => None,
                };
            }
        };
        let (value, condition) = match operation.asked {
            Asked::Put(value, condition) => (Some(value), condition),
            Asked::Delete(condition) => (None, condition),
            _ => return None,
        };
        let condition = match condition {
            If::Always => Expected::Anything,
            If::Absent => Expected::Nothing,
            If::Present => Expected::Something,
            If::Version(version) => match written.get(&(operation.key, version)) {
                Some(value) => Expected::This(*value),
                // Of a put of unknown outcome, which nobody has read.
                None if told == Outcome::Refused => return None,
                None => Expected::Something,
            },
        };
        Some(Step::Write { value, condition, told })
    };
    let mut actions: BTreeMap<Key, Vec<(u64, bool, usize, Step)>> = BTreeMap::new();
    for (number, operation) in operations.iter().enumerate() {
        let Some(step) = step(operation) else { continue };
        let of_key = actions.entry(operation.key).or_default();
        of_key.push((operation.began, false, number, step));
        // What nobody knows may be done at any time, and so also after everything else.
        let ended = if operation.told == Told::Unknown { u64::MAX } else { operation.ended };
        of_key.push((ended, true, number, step));
    }
    actions.into_values().all(|mut of_key| {
        of_key.sort_by_key(|(time, ends, ..)| (*time, *ends));
        let actions = of_key.into_iter().map(|(_, ends, number, step)| {
            (number, if ends { Action::Response(step) } else { Action::Call(step) })
        });
        WGLChecker::<Register>::is_linearizable(History::from_actions(actions.collect()))
    })
}
