//! Which requests of nodes have been answered, and how: so that a node may ask again, of another leader and after any
//! failure, and what it asked for happens once.
//!
//! Each life of a node is a session (Ongaro, *Consensus*, 2014, 6.3; RIFL, SOSP 2015). The node numbers its requests and
//! says with each how far it has answers; answers are kept from there on, so what is kept is what is under way. A request
//! of an earlier life is refused: whoever waited for it is gone. All of it follows from the entries, is the same on every
//! replica, and is in the manifest with the rest of the state.
//!
//! ```text
//! │ sessions: varint │ { node │ boot │ below │ answers: varint │ { number │ seq │ outcome: slice } … } … │   all varints
//! ```

use std::collections::BTreeMap;

use lumen_engine::coding::{Decoder, put_slice, put_varint};

use crate::entry::NodeRequest;
use crate::write::{Ack, Outcome};

/// Answers that are kept for one node at most: a node that has more under way than that is not one of ours.
pub(crate) const ANSWERS_MAX: usize = 1 << 16;

/// All sessions.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Sessions {
    by_node: BTreeMap<u64, Session>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Session {
    boot: u64,
    below: u64,
    answers: BTreeMap<u64, Ack>,
}

/// What is known of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It is new.
    New,
    /// It was answered so.
    Answered(Ack),
    /// Nobody waits for it any more.
    Past,
}

impl Sessions {
    /// Looks a request up, after noting what it says about those before it.
    pub(crate) fn look_up(&mut self, request: &NodeRequest) -> Known {
        let session = self.by_node.entry(request.node).or_default();
        if request.boot > session.boot {
            *session = Session { boot: request.boot, ..Session::default() };
        }
        if request.boot < session.boot {
            return Known::Past;
        }
        if request.below > session.below {
            session.below = request.below;
            session.answers = session.answers.split_off(&request.below);
        }
        match session.answers.get(&request.number) {
            Some(ack) => Known::Answered(ack.clone()),
            None if request.number < session.below => Known::Past,
            None => Known::New,
        }
    }

    /// Keeps the answer to a request that was new.
    pub(crate) fn answered(&mut self, request: &NodeRequest, ack: &Ack) {
        let session = self.by_node.entry(request.node).or_default();
        if session.answers.len() >= ANSWERS_MAX {
            if let Some((number, _)) = session.answers.pop_first() {
                session.below = number + 1; // what is forgotten must not look new
            }
        }
        session.answers.insert(request.number, ack.clone());
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, self.by_node.len() as u64);
        for (node, session) in &self.by_node {
            let count = session.answers.len() as u64;
            [*node, session.boot, session.below, count]
                .into_iter()
                .for_each(|part| put_varint(&mut out, part));
            for (number, ack) in &session.answers {
                put_varint(&mut out, *number);
                put_varint(&mut out, ack.seq);
                put_slice(&mut out, &ack.outcome.encode());
            }
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Sessions> {
        let mut decoder = Decoder::new(bytes);
        let mut sessions = Sessions::default();
        for _ in 0..decoder.varint()? {
            let (node, boot, below) = (decoder.varint()?, decoder.varint()?, decoder.varint()?);
            let mut answers = BTreeMap::new();
            for _ in 0..decoder.varint()? {
                let (number, seq) = (decoder.varint()?, decoder.varint()?);
                answers.insert(number, Ack { seq, outcome: Outcome::decode(decoder.slice()?)? });
            }
            sessions.by_node.insert(node, Session { boot, below, answers });
        }
        decoder.is_empty().then_some(sessions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(boot: u64, number: u64, below: u64) -> NodeRequest {
        NodeRequest { node: 7, boot, number, below }
    }

    #[test]
    fn a_request_that_comes_again_gets_the_answer_of_the_first_time() {
        let mut sessions = Sessions::default();
        let ack = Ack { seq: 40, outcome: Outcome::Created };
        assert_eq!(sessions.look_up(&request(1, 1, 1)), Known::New);
        sessions.answered(&request(1, 1, 1), &ack);
        assert_eq!(sessions.look_up(&request(1, 1, 1)), Known::Answered(ack.clone()));
        // One that overtook it is new, and the answer stays until the node has it.
        assert_eq!(sessions.look_up(&request(1, 3, 1)), Known::New);
        assert_eq!(sessions.look_up(&request(1, 4, 2)), Known::New);
        assert_eq!(sessions.look_up(&request(1, 1, 1)), Known::Past);
        // After a restart nothing of the former life takes effect any more.
        assert_eq!(sessions.look_up(&request(2, 1, 1)), Known::New);
        assert_eq!(sessions.look_up(&request(1, 9, 1)), Known::Past);
    }

    #[test]
    fn sessions_come_back_and_cut_ones_do_not() {
        let mut sessions = Sessions::default();
        for number in 1..5 {
            sessions.look_up(&request(3, number, 1));
            let outcome = Outcome::Deleted { existed: number % 2 == 0 };
            sessions.answered(&request(3, number, 1), &Ack { seq: number * 300, outcome });
        }
        let bytes = sessions.encode();
        assert_eq!(Sessions::decode(&bytes), Some(sessions));
        (0..bytes.len()).for_each(|len| assert_eq!(Sessions::decode(&bytes[..len]), None));
    }
}
