//! What is to be sent to the host when the turn is over. Parts of the agent put messages here instead of holding
//! the channel. Must never be kept over a turn: it is emptied at the end of each.

use crate::failure::Failure;
use proteus_protocol::guest::v1::{Event, Reply};

/// A message to the host.
#[derive(Debug)]
pub enum Outgoing {
    /// An answer.
    Reply(u64, Reply),
    /// Something unasked.
    Event(Event),
}

/// Messages of one turn.
#[derive(Debug, Default)]
pub struct Outbox(Vec<Outgoing>);

impl Outbox {
    /// An answer.
    pub fn reply(&mut self, id: u64, reply: Reply) {
        self.0.push(Outgoing::Reply(id, reply));
    }

    /// An answer, or why there is none.
    pub fn answer(&mut self, id: u64, result: Result<Reply, Failure>) {
        self.reply(id, result.unwrap_or_else(Failure::into_reply));
    }

    /// Something unasked.
    pub fn event(&mut self, event: Event) {
        self.0.push(Outgoing::Event(event));
    }

    /// Takes all out.
    pub fn drain(&mut self) -> impl Iterator<Item = Outgoing> + '_ {
        self.0.drain(..)
    }
}
