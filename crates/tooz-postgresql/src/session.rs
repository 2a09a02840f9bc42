use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_postgres::types::Type;
use tokio_util::sync::CancellationToken;
use tooz_core::{
    Characteristics, Elections, Error, ErrorKind, GroupId, Groups, Hold, Lease, Locks, Loss,
    MemberId, Moment, OperationId, Outcome, Result, Session, Waiting, async_trait,
};
use tracing::debug;

use crate::config::Config;
use crate::connection::{Connection, Notifications, Purpose};
use crate::errors::is_locked_out;
use crate::extras::Extras;
use crate::keys::{self, Keys};
use crate::listeners::Listeners;
use crate::lock::PostgresHold;
use crate::names::Names;
use crate::tables::Tables;
use crate::{breaking, group, heartbeat, memberships, pooler, schema, settle};

/// A session: as long as its main connection lives and is renewed.
#[derive(Debug)]
pub(crate) struct PostgresSession(pub(crate) Arc<Life>);

/// What the session's tasks and holds share.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) config: Arc<Config>,
    pub(crate) member: MemberId,
    pub(crate) lease: Lease,
    /// Holds the locks that were free, and whatever shows that the member lives.
    pub(crate) main: Connection,
    pub(crate) extras: Extras,
    pub(crate) tables: Tables,
    pub(crate) names: Arc<Names>,
    pub(crate) listeners: Arc<Listeners>,
    /// Whether the channel is listened to.
    listening: tokio::sync::OnceCell<()>,
    holds: Mutex<HashMap<OperationId, Arc<PostgresHold>>>,
    memberships: Mutex<HashMap<GroupId, Lease>>,
    /// How many acquisitions are under way.
    attempts: watch::Sender<usize>,
    closed: CancellationToken,
    /// Nothing is granted before.
    grants_from: Option<Moment>,
    /// Whether somebody has locked what tokens come from.
    tokens_locked: AtomicBool,
}

impl PostgresSession {
    pub(crate) async fn open(config: Arc<Config>, member: MemberId) -> Result<Self> {
        keys::check_member(&member)?;
        let name = config.keys.application(&member);
        let (main, notifications) = Connection::open(&config, &name, Purpose::Session).await?;
        if !main.is_direct {
            let (other, _) = Connection::open(&config, &name, Purpose::Beside(&main)).await?;
            pooler::refuse(&main, &other).await?;
        }
        let sent = Moment::now();
        main.set_up(&config, None, config.lock_timeout()).await?;
        let grants_from = schema::ensure(&main, &config).await?;
        let lease = Lease::timed(config.timeout, sent);
        lease.stands_with(main.probe());
        let life = Arc::new(Life {
            lease,
            main,
            extras: Extras::new(config.clone(), name),
            tables: Tables::default(),
            names: Arc::new(Names::new(config.waiters_per_lock)),
            listeners: Arc::default(),
            listening: tokio::sync::OnceCell::new(),
            holds: Mutex::default(),
            memberships: Mutex::default(),
            attempts: watch::Sender::new(0),
            closed: CancellationToken::new(),
            grants_from,
            tokens_locked: AtomicBool::new(false),
            config,
            member,
        });
        tokio::spawn(life.clone().tend(notifications));
        Ok(Self(life))
    }
}

impl Life {
    pub(crate) fn keys(&self) -> &Keys {
        &self.config.keys
    }

    // ---- The connection.

    /// Hears what is said, until the session ends.
    async fn tend(self: Arc<Self>, mut notifications: Notifications) {
        loop {
            tokio::select! {
                Some(said) = notifications.recv() => self.hear(said.payload()),
                () = self.main.ended() => self.lease.lose(Loss::SessionEnded),
                loss = self.lease.lost() => {
                    // With the session, everything that it held is lost.
                    for hold in self.holds() {
                        hold.lease().lose(loss);
                    }
                    return;
                }
                () = self.closed.cancelled() => return,
            }
        }
    }

    fn hear(self: &Arc<Self>, said: &str) {
        if let Some(request) = said.strip_prefix(breaking::BREAK) {
            breaking::give_way(self, request);
        } else if said == self.keys().removal(self.main.key) {
            tokio::spawn(memberships::check_soon(self.clone()));
        } else {
            self.listeners.tell(said);
        }
    }

    /// A statement on the main connection succeeded that was sent then.
    pub(crate) fn proven(&self, sent: Moment) {
        // A renewal wakes everybody who waits for the loss, so not each time.
        let early = sent + self.config.timeout * 8 / 10;
        if self.lease.deadline().is_some_and(|deadline| deadline < early) {
            self.lease.renewed(sent);
        }
    }

    /// Hears what is said in the channel from here on. What is said wakes every session of the
    /// database that listens, so none does before it has to.
    pub(crate) async fn listen(&self) -> Result<()> {
        let listen = || async {
            let listen = format!("LISTEN {}", self.keys().channel());
            self.main.script(&listen).await.map_err(|e| e.outcome_is(Outcome::NotApplied))
        };
        self.listening.get_or_try_init(listen).await.map(drop)
    }

    /// Says something in the channel.
    pub(crate) async fn say(&self, what: &str) -> Result<()> {
        let channel = self.keys().channel();
        let parameters = [(&channel as _, Type::TEXT), (&what as _, Type::TEXT)];
        self.main.ask("SELECT pg_notify($1, $2)", &parameters).await.map(drop)
    }

    // ---- What may be granted.

    /// Waits until a server that may have forgotten grants again; whether the waiting was not over
    /// before.
    pub(crate) async fn may_grant(&self, waiting: &Waiting) -> bool {
        let Some(from) = self.grants_from.filter(|from| !from.has_passed()) else { return true };
        debug!(left = ?from.remaining(), "the server has just started: nothing is granted yet");
        tokio::select! {
            () = from.wait() => true,
            () = waiting.over() => false,
        }
    }

    pub(crate) fn tokens_are_locked(&self) -> bool {
        self.tokens_locked.load(Relaxed)
    }

    pub(crate) fn set_tokens_locked(&self, locked: bool) {
        self.tokens_locked.store(locked, Relaxed);
    }

    // ---- What is held.

    pub(crate) fn add_hold(&self, hold: &Arc<PostgresHold>) {
        self.lock(&self.holds).insert(hold.id(), hold.clone());
        // The session may have been lost while the answer was on its way.
        if let Some(loss) = self.lease.loss() {
            hold.lease().lose(loss);
        }
    }

    pub(crate) fn remove_hold(&self, id: OperationId) {
        self.lock(&self.holds).remove(&id);
    }

    pub(crate) fn holds(&self) -> Vec<Arc<PostgresHold>> {
        self.lock(&self.holds).values().cloned().collect()
    }

    pub(crate) fn memberships(&self) -> Vec<(GroupId, Lease)> {
        self.lock(&self.memberships).iter().map(|(g, l)| (g.clone(), l.clone())).collect()
    }

    pub(crate) fn add_membership(&self, group: &GroupId) -> Lease {
        let lease = self.lease.child();
        self.lock(&self.memberships).insert(group.clone(), lease.clone());
        lease
    }

    pub(crate) fn remove_membership(&self, group: &GroupId) -> Option<Lease> {
        self.lock(&self.memberships).remove(group)
    }

    /// Puts back what could not be left.
    pub(crate) fn keep_membership(&self, group: &GroupId, lease: Lease) {
        self.lock(&self.memberships).insert(group.clone(), lease);
    }

    /// One more acquisition, until the returned value is dropped.
    pub(crate) fn attempts(&self) -> impl Drop + '_ {
        struct Under<'a>(&'a watch::Sender<usize>);
        impl Drop for Under<'_> {
            fn drop(&mut self) {
                self.0.send_modify(|count| *count -= 1);
            }
        }
        self.attempts.send_modify(|count| *count += 1);
        Under(&self.attempts)
    }

    fn lock<'a, T>(&self, mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
        // Nothing panics while it is locked, so it is whole even if poisoned.
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives back what is left. The end of the connections is the rest of it.
    async fn say_goodbye(&self) -> Result<()> {
        // Their waiting is over, and they withdraw. The sender lives in `self`.
        drop(self.attempts.subscribe().wait_for(|count| *count == 0).await);
        for hold in self.holds() {
            hold.lease().lose(Loss::GivenUp);
            hold.release().await?;
        }
        match group::leave_all(self, &self.main).await {
            // What the dead leave does not count.
            Err(error) if is_locked_out(&error) => Ok(()),
            left => left,
        }
    }
}

#[async_trait]
impl Session for PostgresSession {
    fn lease(&self) -> &Lease {
        &self.0.lease
    }

    fn characteristics(&self) -> Characteristics {
        crate::DRIVER.characteristics
    }

    fn heartbeat_interval(&self) -> Option<Duration> {
        Some(self.0.config.heartbeat_interval())
    }

    async fn heartbeat(&self) -> Result<()> {
        heartbeat::renew(&self.0).await
    }

    async fn close(&self) -> Result<()> {
        let life = &self.0;
        if life.closed.is_cancelled() {
            return Ok(());
        }
        let said = tokio::time::timeout(life.config.response_timeout, async {
            if !life.main.has_ended() {
                match life.say_goodbye().await {
                    // It ended meanwhile.
                    Err(error) if settle::has_broken(&error) => {}
                    said => return said,
                }
            }
            settle::clean_up(life).await
        });
        let said = said.await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::TimedOut, "the server did not answer the goodbye")
                .outcome_is(Outcome::Unknown))
        });
        life.closed.cancel();
        for hold in life.holds() {
            hold.abandon();
        }
        life.extras.clear();
        life.tables.close();
        life.main.close();
        debug!(member = %life.member, "session closed");
        said
    }

    fn locks(&self) -> Option<&dyn Locks> {
        Some(self)
    }

    fn groups(&self) -> Option<&dyn Groups> {
        Some(self)
    }

    fn elections(&self) -> Option<&dyn Elections> {
        Some(self)
    }
}
