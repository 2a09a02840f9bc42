//! A session's way to the server: one connection after the other.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::ConnectionLike as _;
use redis::{Cmd, Pipeline, Value};
use tokio::sync::watch;
use tooz_core::{Error, ErrorKind, Moment, Outcome, Result};

use crate::config::{Config, Servers};
use crate::connection::{self, Connection, Opened, Pushes, ServerInfo};
use crate::errors::{Remedy, remedy, translate};
use crate::restart::Closed;
use crate::scripts;

#[derive(Debug)]
pub(crate) struct Link {
    config: Arc<Config>,
    state: watch::Sender<State>,
    /// The run of the server of which it was last said that it grants nothing yet.
    told: Mutex<String>,
}

#[derive(Clone, Default)]
enum State {
    Up(Up),
    #[default]
    Down,
    /// The session is over.
    Ended,
}

/// A connection that is in use.
#[derive(Clone)]
struct Up {
    connection: Connection,
    generation: Generation,
    closed: Option<Closed>,
}

type Reply<'a, T> = Pin<Box<dyn Future<Output = redis::RedisResult<T>> + Send + 'a>>;

/// Tells one connection from the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Generation(u64);

/// An answer, and whether the request may have been carried out once before.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    pub(crate) value: T,
    pub(crate) again: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Up(..) => "Up",
            Self::Down => "Down",
            Self::Ended => "Ended",
        })
    }
}

impl Link {
    /// Opens the first connection, on which a first request is made; when it was sent.
    pub(crate) async fn open(
        config: Arc<Config>,
        channels: &[Vec<u8>],
        first: &Cmd,
    ) -> Result<(Self, Pushes, ServerInfo, Moment)> {
        let opened = connection::open(&config, channels, Some(first)).await?;
        let Opened { connection, pushes, server, sent, closed } = opened;
        let up = Up { connection, generation: Generation::default(), closed };
        let link =
            Self { config, state: watch::Sender::new(State::Up(up)), told: Mutex::default() };
        Ok((link, pushes, server, sent))
    }

    /// Opens the next connection, which nobody uses before [`resume`](Self::resume).
    pub(crate) async fn reopen(&self, channels: &[Vec<u8>]) -> Result<Opened> {
        connection::open(&self.config, channels, None).await
    }

    pub(crate) fn resume(&self, connection: Connection, closed: Option<Closed>) {
        static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let generation = Generation(COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        self.state.send_if_modified(|state| {
            let going_on = !matches!(state, State::Ended);
            if going_on {
                *state = State::Up(Up { connection, generation, closed });
            }
            going_on
        });
    }

    /// The present connection is of no more use.
    pub(crate) fn suspend(&self) {
        self.state.send_if_modified(|state| {
            let up = matches!(state, State::Up(..));
            if up {
                *state = State::Down;
            }
            up
        });
    }

    fn suspend_if(&self, which: Generation) {
        self.state.send_if_modified(|state| {
            let same = matches!(state, State::Up(up) if up.generation == which);
            if same {
                *state = State::Down;
            }
            same
        });
    }

    /// No connection follows any more.
    pub(crate) fn end(&self) {
        self.state.send_replace(State::Ended);
    }

    /// Waits until the connection is of no more use.
    pub(crate) async fn down(&self) {
        // The sender lives in `self`: the wait cannot fail.
        let _ = self.state.subscribe().wait_for(|state| !matches!(state, State::Up(..))).await;
    }

    /// The connection to send a request on, once there is one.
    async fn connection(&self, until: Moment, again: bool) -> Result<Up> {
        let outcome = if again { Outcome::Unknown } else { Outcome::NotApplied };
        let mut state = self.state.subscribe();
        loop {
            match &*state.borrow_and_update() {
                State::Up(up) => return Ok(up.clone()),
                State::Down => {}
                State::Ended => {
                    return Err(Error::new(ErrorKind::SessionLost, "the session is over")
                        .outcome_is(outcome));
                }
            }
            tokio::select! {
                _ = state.changed() => {}
                () = until.wait() => {
                    return Err(Error::new(ErrorKind::Connection, "there is no connection")
                        .outcome_is(outcome));
                }
            }
        }
    }

    /// How long a request is repeated.
    fn limit(&self) -> Moment {
        Moment::now() + self.config.membership_timeout
    }

    /// One request, repeated over as many connections as it takes within the limit: it must do no
    /// more when it is carried out twice.
    pub(crate) async fn call(&self, command: &Cmd) -> Result<Answer<Value>> {
        self.repeat(|mut up| {
            Box::pin(async move { command.query_async::<Value>(&mut *up.connection).await })
        })
        .await
    }

    /// Several requests in one round trip, and when the answered ones were sent. The first error of
    /// a request is the error of all.
    pub(crate) async fn call_all(&self, commands: &[Cmd]) -> Result<(Vec<Value>, Moment)> {
        let mut pipeline = Pipeline::with_capacity(commands.len());
        for command in commands {
            pipeline.add_command(command.clone());
        }
        let pipeline = &pipeline;
        let answer = self.repeat(|mut up| {
            Box::pin(async move {
                let sent = Moment::now();
                let values = up.connection.req_packed_commands(pipeline, 0, commands.len()).await?;
                let values = values.into_iter().map(Value::extract_error);
                Ok((values.collect::<redis::RedisResult<_>>()?, sent))
            })
        });
        Ok(answer.await?.value)
    }

    async fn repeat<'a, T>(
        &self,
        request: impl Fn(Up) -> Reply<'a, T> + Send,
    ) -> Result<Answer<T>> {
        let until = self.limit();
        let mut again = false;
        loop {
            let up = self.connection(until, again).await?;
            let (mut connection, generation) = (up.connection.clone(), up.generation);
            let error = match request(up).await {
                Ok(value) => return Ok(Answer { value, again }),
                Err(error) => error,
            };
            match remedy(&error) {
                Remedy::Reconnect => {
                    again = true;
                    self.suspend_if(generation);
                }
                Remedy::FindMaster if !matches!(self.config.servers, Servers::Listed(_)) => {
                    self.suspend_if(generation);
                }
                Remedy::Load => {
                    if let Err(error) = scripts::load().exec_async(&mut *connection).await
                        && remedy(&error) == Remedy::None
                    {
                        return Err(translate(error));
                    }
                }
                Remedy::Wait => tokio::time::sleep(Duration::from_millis(50)).await,
                Remedy::FindMaster | Remedy::None => return Err(translate(error)),
            }
            if until.has_passed() {
                let outcome = if again { Outcome::Unknown } else { Outcome::NotApplied };
                return Err(translate(error).outcome_is(outcome));
            }
        }
    }

    /// Subscribes the present connection; the next ones are opened with all channels.
    pub(crate) async fn subscribe(&self, channel: &[u8]) -> Result<()> {
        let request = |mut up: Up| -> Reply<'_, ()> {
            Box::pin(async move { up.connection.subscribe(channel).await })
        };
        self.repeat(request).await?;
        Ok(())
    }

    pub(crate) async fn unsubscribe(&self, channel: &[u8]) -> Result<()> {
        let request = |mut up: Up| -> Reply<'_, ()> {
            Box::pin(async move { up.connection.unsubscribe(channel).await })
        };
        self.repeat(request).await?;
        Ok(())
    }

    /// A request that may acquire something, like [`call`](Self::call), unless the server may grant
    /// nothing yet; if its answer says that it wrote something that must be on replicas, whether it
    /// is; and when the answered request was sent.
    pub(crate) async fn call_replicated(
        &self,
        command: &Cmd,
        wrote: fn(&Value) -> bool,
    ) -> Result<std::result::Result<(Value, bool, Moment), Closed>> {
        let wanted = self.config.wait_replicas;
        let answer = self.repeat(|up| {
            Box::pin(async move {
                let Up { mut connection, closed, .. } = up;
                if let Some(closed) = closed.filter(|closed| !closed.until.has_passed()) {
                    return Ok(Err(closed));
                }
                let sent = Moment::now();
                let value = command.query_async::<Value>(&mut *connection).await?;
                if wanted == 0 || !wrote(&value) {
                    return Ok(Ok((value, true, sent)));
                }
                // It counts what this very connection wrote.
                let replicas: u32 = self.wait_command().query_async(&mut *connection).await?;
                Ok(Ok((value, replicas >= wanted, sent)))
            })
        });
        Ok(answer.await?.value)
    }

    /// Says once for each run of a server why nothing is granted.
    pub(crate) fn tell(&self, closed: &Closed) {
        // Nothing panics while it is locked, so it is whole even if poisoned.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != closed.run {
            told.clone_from(&closed.run);
            tracing::warn!(
                seconds = closed.until.remaining().as_secs_f64(),
                "no lock and no term is granted yet: the server started a moment ago and may have \
                 forgotten whose they are; see the option restart_grace"
            );
        }
    }

    pub(crate) fn wait_command(&self) -> Cmd {
        let mut wait = redis::cmd("WAIT");
        wait.arg(self.config.wait_replicas).arg(self.config.replica_timeout().as_millis() as u64);
        wait
    }
}
