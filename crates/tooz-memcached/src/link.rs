//! A session's way to the server: one connection after the other.

use std::sync::Arc;

use tokio::sync::watch;
use tooz_core::{Error, ErrorKind, Moment, Outcome, Result};

use crate::config::Config;
use crate::connection::Connection;
use crate::errors;
use crate::wire::{Reply, Request};

#[derive(Debug)]
pub(crate) struct Link {
    config: Arc<Config>,
    state: watch::Sender<State>,
}

#[derive(Clone, Debug)]
enum State {
    Up(Connection),
    Down,
    /// The session is over.
    Ended,
}

impl Link {
    pub(crate) fn new(config: Arc<Config>, connection: Connection) -> Self {
        Self { config, state: watch::Sender::new(State::Up(connection)) }
    }

    /// There is a connection again.
    pub(crate) fn resume(&self, connection: Connection) {
        self.state.send_if_modified(|state| {
            let going_on = !matches!(state, State::Ended);
            if going_on {
                *state = State::Up(connection);
            }
            going_on
        });
    }

    /// No connection follows any more.
    pub(crate) fn end(&self) {
        if let State::Up(connection) = self.state.send_replace(State::Ended) {
            connection.end();
        }
    }

    fn suspend(&self, which: &Connection) {
        which.end();
        self.state.send_if_modified(|state| {
            let same = matches!(state, State::Up(present) if present.is(which));
            if same {
                *state = State::Down;
            }
            same
        });
    }

    /// Waits until the connection is of no more use.
    pub(crate) async fn down(&self) {
        let State::Up(connection) = self.state.borrow().clone() else { return };
        connection.down().await;
        self.suspend(&connection);
    }

    /// The connection to send a request on, once there is one.
    async fn connection(&self, until: Moment) -> Result<Connection> {
        let mut state = self.state.subscribe();
        loop {
            match &*state.borrow_and_update() {
                State::Up(connection) => return Ok(connection.clone()),
                State::Down => {}
                State::Ended => {
                    return Err(Error::new(ErrorKind::SessionLost, "the session is over"));
                }
            }
            tokio::select! {
                // The sender lives in `self`: the wait cannot fail.
                _ = state.changed() => {}
                () = until.wait() => {
                    return Err(Error::new(ErrorKind::Connection, "there is no connection"));
                }
            }
        }
    }

    /// Several requests in one round trip, and when the answered ones were sent. What only reads is
    /// repeated on the next connection; of a change whose answer was lost, the outcome is unknown.
    pub(crate) async fn call(&self, requests: &[Request]) -> Result<(Vec<Reply>, Moment)> {
        let until = Moment::now() + self.config.membership_timeout;
        loop {
            let connection = self.connection(until).await?;
            let sent = Moment::now();
            let answer = connection.call(requests);
            let answer = tokio::time::timeout(self.config.response_timeout, answer).await;
            let error = match answer {
                Ok(Ok(replies)) => return Ok((replies, sent)),
                Ok(Err(error)) => error,
                Err(_) if requests.iter().all(Request::only_reads) => errors::no_answer(),
                Err(_) => errors::no_answer().outcome_is(Outcome::Unknown),
            };
            // Answers that come late would be taken for those of the next requests.
            self.suspend(&connection);
            if error.outcome() == Outcome::Unknown || until.has_passed() {
                return Err(error);
            }
        }
    }

    /// One request.
    pub(crate) async fn ask(&self, request: Request) -> Result<(Reply, Moment)> {
        let (mut replies, sent) = self.call(&[request]).await?;
        Ok((replies.pop().ok_or_else(errors::odd_answer)?, sent))
    }
}
