//! Operations with power cuts, against a sorted map: synced writes survive, buffered ones survive from the first to some
//! last, and snapshots stay as they were.

use arbitrary::{Arbitrary, Unstructured};

use super::operations::{self, Operation};

/// Options to open a store with, and what is then done to it.
#[derive(Debug)]
pub struct Input {
    options: u8,
    operations: Vec<Operation>,
}

impl<'a> Arbitrary<'a> for Input {
    /// Operations as long as there are bytes; a derived list would end with every second element.
    fn arbitrary(bytes: &mut Unstructured<'a>) -> arbitrary::Result<Input> {
        let (options, mut operations) = (bytes.arbitrary()?, Vec::new());
        while !bytes.is_empty() {
            operations.push(bytes.arbitrary()?);
        }
        Ok(Input { options, operations })
    }
}

/// Runs the operations.
pub fn run(input: &Input) {
    operations::run(input.options, &input.operations);
}
