use std::fmt;

use tokio::sync::watch;

use crate::{Error, ErrorKind, Moment, Result};

/// A session's connection to its server, which is replaced when it breaks: at most one is in use.
///
/// The session's own loop opens them; requests use the [current](Self::current) one,
/// and [suspend](Self::suspend) it when it turns out to be broken.
pub struct Reconnecting<C>(watch::Sender<State<C>>);

enum State<C> {
    Up(Current<C>),
    Down { next: u64 },
    Ended,
}

/// A connection that is in use, distinguishable from those before and after it.
#[derive(Clone, Debug)]
pub struct Current<C> {
    /// The connection.
    pub connection: C,
    number: u64,
}

impl<C: Clone> Reconnecting<C> {
    /// Starts with a connection.
    pub fn new(connection: C) -> Self {
        Self(watch::Sender::new(State::Up(Current { connection, number: 0 })))
    }

    /// The connection in use, once there is one.
    ///
    /// # Errors
    ///
    /// [`Connection`](ErrorKind::Connection) if there was none until `until`, and
    /// [`SessionLost`](ErrorKind::SessionLost) if none will follow. Nothing was sent to the server
    /// then.
    pub async fn current(&self, until: Moment) -> Result<Current<C>> {
        let mut state = self.0.subscribe();
        loop {
            match &*state.borrow_and_update() {
                State::Up(current) => return Ok(current.clone()),
                State::Down { .. } => {}
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

    /// The connection in use now, if there is one.
    pub fn present(&self) -> Option<Current<C>> {
        match &*self.0.borrow() {
            State::Up(current) => Some(current.clone()),
            State::Down { .. } | State::Ended => None,
        }
    }

    /// Notes that this connection is broken. Returns whether it was in use until now.
    pub fn suspend(&self, which: &Current<C>) -> bool {
        self.0.send_if_modified(|state| match state {
            State::Up(current) if current.number == which.number => {
                *state = State::Down { next: which.number + 1 };
                true
            }
            _ => false,
        })
    }

    /// Notes that there is a connection again. Ignored after the end.
    pub fn resume(&self, connection: C) {
        self.0.send_if_modified(|state| {
            let number = match state {
                State::Up(current) => current.number + 1,
                State::Down { next } => *next,
                State::Ended => return false,
            };
            *state = State::Up(Current { connection, number });
            true
        });
    }

    /// Notes that no connection follows. Returns the one that was in use, if there was one.
    pub fn end(&self) -> Option<C> {
        match self.0.send_replace(State::Ended) {
            State::Up(current) => Some(current.connection),
            State::Down { .. } | State::Ended => None,
        }
    }

    /// Waits until no connection is in use.
    pub async fn down(&self) {
        // The sender lives in `self`: the wait cannot fail.
        let _ = self.0.subscribe().wait_for(|state| !matches!(state, State::Up(_))).await;
    }
}

impl<C> fmt::Debug for Reconnecting<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &*self.0.borrow() {
            State::Up(_) => "Up",
            State::Down { .. } => "Down",
            State::Ended => "Ended",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Moment {
        Moment::now() + Duration::from_secs(60)
    }

    #[tokio::test]
    async fn whoever_asks_waits_for_the_next_connection() {
        let server = std::sync::Arc::new(Reconnecting::new('a'));
        let first = server.current(soon()).await.unwrap();
        assert!(server.suspend(&first));
        server.down().await;
        assert!(server.present().is_none());
        let asking = tokio::spawn({
            let server = server.clone();
            async move { server.current(soon()).await }
        });
        server.resume('b');
        assert_eq!(asking.await.unwrap().unwrap().connection, 'b');
    }

    #[tokio::test]
    async fn a_failure_of_an_earlier_connection_does_not_end_the_next() {
        let server = Reconnecting::new('a');
        let first = server.current(soon()).await.unwrap();
        server.suspend(&first);
        server.resume('b');
        assert!(!server.suspend(&first));
        server.resume('c');
        assert_eq!(server.current(soon()).await.unwrap().connection, 'c');
    }

    #[tokio::test]
    async fn nothing_follows_the_end() {
        let server = Reconnecting::new('a');
        let first = server.current(soon()).await.unwrap();
        server.suspend(&first);
        let error = server.current(Moment::now()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connection);
        server.resume('b');
        assert_eq!(server.end(), Some('b'));
        server.resume('c');
        assert_eq!(server.current(soon()).await.unwrap_err().kind(), ErrorKind::SessionLost);
        assert_eq!(server.end(), None);
    }
}
