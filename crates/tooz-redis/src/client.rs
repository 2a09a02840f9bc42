//! Requests and their answers: each is repeated over as many connections as it takes.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::aio::ConnectionLike as _;
use redis::{Cmd, Pipeline, Value};
use tooz_core::kit::{Reconnecting, locked};
use tooz_core::{Moment, Outcome, Result};

use crate::config::{Config, Servers};
use crate::connection::Connection;
use crate::errors::{Remedy, remedy, translate};
use crate::scripts;
use crate::server::Closed;

/// The connection to the server that a session's requests take.
#[derive(Debug)]
pub(crate) struct Client {
    config: Arc<Config>,
    pub(crate) connections: Reconnecting<Connection>,
    /// The run of the server for which we last logged that it grants nothing yet.
    warned_of: Mutex<String>,
}

type Reply<'a, T> = Pin<Box<dyn Future<Output = redis::RedisResult<T>> + Send + 'a>>;

/// An answer, and whether the request may have been carried out once before.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    pub(crate) value: T,
    pub(crate) repeated: bool,
}

/// The outcome of a request that may acquire something.
pub(crate) enum Replicated {
    /// It was not sent: the server may grant nothing yet.
    Closed(Closed),
    Answered {
        value: Value,
        /// Whether what it wrote is on as many replicas as it must be.
        is_safe: bool,
        sent: Moment,
    },
}

impl Client {
    pub(crate) fn new(config: Arc<Config>, connection: Connection) -> Self {
        let connections = Reconnecting::new(connection);
        Self { config, connections, warned_of: Mutex::default() }
    }

    /// One request, repeated over as many connections as it takes within the limit: it must have no
    /// further effect when it is carried out twice.
    pub(crate) async fn call(&self, command: &Cmd) -> Result<Answer<Value>> {
        self.repeat(|mut connection| {
            Box::pin(async move { command.query_async::<Value>(&mut *connection).await })
        })
        .await
    }

    /// Several requests in one round trip, and when the answered ones were sent. The first error of
    /// one is the error of all.
    pub(crate) async fn call_all(&self, commands: &[Cmd]) -> Result<(Vec<Value>, Moment)> {
        let mut pipeline = Pipeline::with_capacity(commands.len());
        for command in commands {
            pipeline.add_command(command.clone());
        }
        let pipeline = &pipeline;
        let answer = self.repeat(|mut connection| {
            Box::pin(async move {
                let sent = Moment::now();
                let values = connection.req_packed_commands(pipeline, 0, commands.len()).await?;
                let values = values.into_iter().map(Value::extract_error);
                Ok((values.collect::<redis::RedisResult<_>>()?, sent))
            })
        });
        Ok(answer.await?.value)
    }

    /// A request that may acquire something, like [`call`](Self::call), unless the server may grant
    /// nothing yet. `wrote` tells by its answer whether it wrote something that must be on replicas.
    pub(crate) async fn call_replicated(
        &self,
        command: &Cmd,
        wrote: fn(&Value) -> bool,
    ) -> Result<Replicated> {
        let wanted = self.config.wait_replicas;
        let answer = self.repeat(|mut connection| {
            Box::pin(async move {
                let closed = connection.closed.clone();
                if let Some(closed) = closed.filter(|closed| !closed.until.has_passed()) {
                    return Ok(Replicated::Closed(closed));
                }
                let sent = Moment::now();
                let value = command.query_async::<Value>(&mut *connection).await?;
                if wanted == 0 || !wrote(&value) {
                    return Ok(Replicated::Answered { value, is_safe: true, sent });
                }
                // It counts what this very connection wrote.
                let replicas: u32 = self.wait_command().query_async(&mut *connection).await?;
                Ok(Replicated::Answered { value, is_safe: replicas >= wanted, sent })
            })
        });
        Ok(answer.await?.value)
    }

    /// Subscribes the present connection; the next ones are opened with all channels.
    pub(crate) async fn subscribe(&self, channel: &[u8]) -> Result<()> {
        let request = |mut connection: Connection| -> Reply<'_, ()> {
            Box::pin(async move { connection.subscribe(channel).await })
        };
        self.repeat(request).await.map(drop)
    }

    pub(crate) async fn unsubscribe(&self, channel: &[u8]) -> Result<()> {
        let request = |mut connection: Connection| -> Reply<'_, ()> {
            Box::pin(async move { connection.unsubscribe(channel).await })
        };
        self.repeat(request).await.map(drop)
    }

    async fn repeat<'a, T>(
        &self,
        request: impl Fn(Connection) -> Reply<'a, T> + Send,
    ) -> Result<Answer<T>> {
        let until = Moment::now() + self.config.membership_timeout;
        let mut repeated = false;
        let outcome = |repeated| if repeated { Outcome::Unknown } else { Outcome::NotApplied };
        loop {
            let current = self.connections.current(until).await;
            let current = current.map_err(|error| error.outcome_is(outcome(repeated)))?;
            let error = match request(current.connection.clone()).await {
                Ok(value) => return Ok(Answer { value, repeated }),
                Err(error) => error,
            };
            match remedy(&error) {
                Remedy::Reconnect => {
                    repeated = true;
                    self.connections.suspend(&current);
                }
                Remedy::FindMaster if !matches!(self.config.servers, Servers::Listed(_)) => {
                    self.connections.suspend(&current);
                }
                Remedy::Load => {
                    let mut connection = current.connection;
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
                return Err(translate(error).outcome_is(outcome(repeated)));
            }
        }
    }

    /// Logs once for each run of a server why nothing is granted.
    pub(crate) fn warn_of(&self, closed: &Closed) {
        let mut warned_of = locked(&self.warned_of);
        if *warned_of != closed.run {
            warned_of.clone_from(&closed.run);
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
