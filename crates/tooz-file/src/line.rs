//! A place in the line before a file: who waits longest is first.
//!
//! It keeps turns in order, and a release from waking more than one. What excludes is the lock of
//! the file itself, so whatever fails here costs no more than the order.

use tooz_core::{Mode, OperationId, Result};
use tracing::debug;

use crate::queue::{Queue, Ticket};

/// One that may come to wait. It leaves the line when it is dropped. The directory of the queue
/// stays until the next sweep: to make and remove it costs more than all the rest of a turn.
#[derive(Debug)]
pub(crate) struct Line(Option<Place>);

#[derive(Debug)]
struct Place {
    queue: Queue,
    operation: OperationId,
    mode: Mode,
    ticket: Option<Ticket>,
}

impl Line {
    /// For what is held too shortly to stand in line.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// The line of that queue, not joined yet.
    pub(crate) fn of(queue: Queue, operation: OperationId, mode: Mode) -> Self {
        Self(Some(Place { queue, operation, mode, ticket: None }))
    }

    /// Whether anybody waits in it; not asked any more of who has joined.
    pub(crate) fn is_joined_by_others(&self) -> bool {
        let Some(Place { queue, ticket: None, .. }) = &self.0 else { return false };
        in_order(queue.has_living()).unwrap_or(false)
    }

    /// Joins the line at its end, unless it has done so, and waits to be first; `false` if `over`
    /// came before. Dropping the future leaves its place.
    pub(crate) async fn turn(&mut self, over: impl Future<Output = ()>) -> bool {
        let Some(place) = &mut self.0 else { return true };
        if place.ticket.is_none() {
            place.ticket = in_order(place.queue.draw(place.operation, place.mode));
        }
        let Some(ticket) = &place.ticket else { return true };
        in_order(place.queue.turn(ticket, over).await).unwrap_or(true)
    }

    /// Sends away who has not taken its turn.
    pub(crate) fn pass_over(&self) {
        if let Some(Place { queue, ticket: Some(ticket), .. }) = &self.0 {
            in_order(queue.pass_over(ticket));
        }
    }
}

fn in_order<T>(result: Result<T>) -> Option<T> {
    result.inspect_err(|error| debug!(%error, "turns may be out of order")).ok()
}
