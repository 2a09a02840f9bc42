//! What the files of a session share.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tooz_core::kit::{InFlight, Table, Underway};
use tooz_core::{
    Acquisition, Characteristics, FencingToken, GroupId, Lease, MemberId, Mode, Moment,
    OperationId, Result,
};

use crate::client::Client;
use crate::config::Config;
use crate::connection::Connection;
use crate::errors::session_over;
use crate::keys::{self, LockKeys};
use crate::local::{LocalLocks, Turn};
use crate::pool::Pool;

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: Arc<Config>,
    pub(crate) member: MemberId,
    pub(crate) lease: Lease,
    pub(crate) client: Client,
    pub(crate) pool: Arc<Pool>,
    pub(crate) local: LocalLocks,
    pub(crate) grants: Table<OperationId, Arc<Grant>>,
    pub(crate) memberships: Table<GroupId, Lease>,
    /// Acquisitions and breaks that are under way: the session does not close before they end.
    pub(crate) in_flight: InFlight,
    /// Told when there is something to lose.
    pub(crate) occupied: Notify,
    pub(crate) listening: Mutex<Option<JoinHandle<()>>>,
    /// Before, nothing is granted: see `schema::ensure`.
    pub(crate) grants_from: Option<Moment>,
    pub(crate) characteristics: Characteristics,
}

/// A lock or a term that the server granted to one of our connections.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) id: OperationId,
    pub(crate) keys: LockKeys,
    pub(crate) mode: Mode,
    pub(crate) token: FencingToken,
    pub(crate) lease: Lease,
    /// What holds it at the server.
    pub(crate) connection: Connection,
    /// `None` once it is over at the server.
    pub(crate) turn: Mutex<Option<Turn>>,
}

/// What the server granted, and on which connection.
pub(crate) struct Granted {
    pub(crate) token: FencingToken,
    pub(crate) lease: Lease,
    pub(crate) connection: Connection,
}

impl State {
    /// Something begins that the session waits for before it closes, unless the session is over.
    pub(crate) fn begin(&self) -> Result<Underway> {
        let underway = self.in_flight.begin();
        if self.client.is_open() { Ok(underway) } else { Err(session_over()) }
    }

    pub(crate) fn table(&self, name: &str) -> String {
        self.config.keys.table(name)
    }

    pub(crate) fn member_sql(&self) -> String {
        keys::literal(self.member.as_bytes())
    }

    /// The id of the session in its rows, as a value in SQL: the marker of the main connection.
    pub(crate) fn session_sql(&self) -> String {
        keys::literal(self.client.main.marker.as_bytes())
    }

    /// Whether a connection is another than the main one: one that had to wait for a lock.
    pub(crate) fn is_own(&self, connection: &Connection) -> bool {
        connection.number != self.client.main.number
    }

    /// In SQL: draws the next token if the condition holds, for `LAST_INSERT_ID()`.
    pub(crate) fn next_token(
        &self,
        acquisition: &Acquisition<LockKeys>,
        condition: &str,
    ) -> String {
        let (id, member) = (keys::literal(acquisition.id.as_bytes()), self.member_sql());
        format!(
            "INSERT INTO {table}(name,token,connection,operation,member_id) \
             SELECT {name},LAST_INSERT_ID(1),CONNECTION_ID(),{id},{member} FROM DUAL \
             WHERE {condition} \
             ON DUPLICATE KEY UPDATE token=LAST_INSERT_ID({table}.token+1),\
             connection=CONNECTION_ID(),operation={id},member_id={member}",
            table = self.table("token"),
            name = acquisition.target.sql(),
        )
    }

    pub(crate) fn granted_on_main(&self, token: FencingToken) -> Granted {
        Granted { token, lease: self.lease.child(), connection: self.client.main.clone() }
    }
}
