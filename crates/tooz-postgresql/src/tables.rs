//! Statements that need a table, which somebody may have locked: `VACUUM FULL` or `ALTER TABLE`
//! behind a dump lasts as long as the dump.
//!
//! They go over the main connection as long as the tables are free. When one had to wait for a
//! table, they go beside it, on a connection that holds nothing, until none has waited for a while:
//! what the main connection holds is renewed, taken and released as ever.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_postgres::Row;
use tooz_core::{Moment, Outcome, Result};
use tracing::{debug, warn};

use crate::connection::{Connection, Parameter, Purpose};
use crate::errors::{is_locked_out, odd_answer, timed_out};
use crate::session::Life;
use crate::settle::has_broken;

/// The way to the tables.
#[derive(Debug, Default)]
pub(crate) struct Tables(Mutex<Option<Detour>>);

#[derive(Clone, Debug)]
struct Detour {
    connection: Arc<Connection>,
    /// When a statement last waited in vain.
    locked: Moment,
}

impl Tables {
    fn detour(&self) -> MutexGuard<'_, Option<Detour>> {
        // Nothing panics while it is locked, so it is whole even if poisoned.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes what is open, at the end of the session.
    pub(crate) fn close(&self) {
        self.detour().take();
    }
}

/// A statement, within the time limit. When that is over, it may still be carried out.
pub(crate) async fn ask(life: &Life, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>> {
    let Some(detour) = life.tables.detour().clone() else {
        let answer = life.main.ask(sql, parameters).await;
        if answer.as_ref().is_err_and(is_locked_out)
            && let Err(error) = go_beside(life).await
        {
            debug!(%error, "there is no way beside");
        }
        return answer;
    };
    let answer = detour.connection.ask(sql, parameters).await;
    let mut now = life.tables.detour();
    let is_same = |now: &&mut Detour| Arc::ptr_eq(&now.connection, &detour.connection);
    let Some(current) = now.as_mut().filter(is_same) else { return answer };
    match answer {
        // Another table may be locked still: whoever needs that one asks for it in this time.
        Ok(_) if current.locked.elapsed() > life.config.timeout => *now = None,
        Err(error) if is_locked_out(&error) => {
            current.locked = Moment::now();
            return Err(error);
        }
        // The session goes on, so it may have been carried out.
        Err(error) if has_broken(&error) => {
            *now = None;
            return Err(timed_out().caused_by(error));
        }
        _ => {}
    }
    answer
}

/// The same, of a statement that only reads.
pub(crate) async fn read(life: &Life, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>> {
    ask(life, sql, parameters).await.map_err(|error| error.outcome_is(Outcome::NotApplied))
}

/// The one row of a statement's answer.
pub(crate) async fn one(life: &Life, sql: &str, parameters: &[Parameter<'_>]) -> Result<Row> {
    ask(life, sql, parameters).await?.pop().ok_or_else(odd_answer)
}

async fn go_beside(life: &Life) -> Result<()> {
    warn!(schema = life.keys().schema(), "a table is locked: what needs it goes beside");
    let name = life.keys().application(&life.member);
    let purpose = Purpose::Beside(&life.main);
    let (connection, _) = Connection::open(&life.config, &name, purpose).await?;
    connection.set_up(&life.config, Some(&life.main), life.config.lock_timeout()).await?;
    let detour = Detour { connection: Arc::new(connection), locked: Moment::now() };
    life.tables.detour().get_or_insert(detour);
    Ok(())
}
