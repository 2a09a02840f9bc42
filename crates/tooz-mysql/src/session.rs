use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, RwLock, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tooz_core::{
    Characteristics, Elections, Error, GroupId, Groups, Hold, Lease, Locks, Loss, MemberId, Moment,
    OperationId, Result, Session, async_trait,
};
use tracing::debug;

use crate::config::{Address, Config};
use crate::connection::{self, Opened};
use crate::errors::{Failure, session_over};
use crate::extras::Extras;
use crate::hold::MySqlHold;
use crate::link::{Link, Rows, bytes, number, unsigned_in};
use crate::names::{self, Prize};
use crate::{listen, schema};

/// A session: as long as its connection lives and is heard of at the server.
#[derive(Debug)]
pub(crate) struct MySqlSession(pub(crate) Arc<Life>);

/// What the session's tasks and holds share.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) config: Arc<Config>,
    pub(crate) member: MemberId,
    /// The session's connection. It never waits for a lock.
    pub(crate) main: Link,
    address: Address,
    pub(crate) lease: Lease,
    /// Before, nothing is granted: see [`schema::ensure`].
    pub(crate) granting_from: Option<Moment>,
    characteristics: Characteristics,
    holds: Mutex<HashMap<OperationId, Arc<MySqlHold>>>,
    memberships: Mutex<HashMap<GroupId, Lease>>,
    /// Where our own acquisitions of a lock queue.
    queues: Mutex<HashMap<Prize, Weak<RwLock<()>>>>,
    /// Told when there is something to lose.
    occupied: Notify,
    listening: Mutex<Option<JoinHandle<()>>>,
    /// How many acquisitions are under way.
    acquiring: watch::Sender<usize>,
    closed: CancellationToken,
    pub(crate) extras: Extras,
}

/// An acquisition that is under way: the session does not close before it ends.
pub(crate) struct Entered<'a>(&'a Life);

impl MySqlSession {
    pub(crate) async fn open(config: Arc<Config>, member: MemberId) -> Result<Self> {
        names::check_member(&member)?;
        let Opened { link, address, ensured } = connection::open(&config).await?;
        let granting_from = match schema::ensure(&link, &config).await {
            Ok(granting_from) => granting_from,
            Err(error) => {
                link.close().await;
                return Err(error);
            }
        };
        let sent = Moment::now();
        let life = Arc::new(Life {
            lease: Lease::timed(config.timeout, sent),
            config,
            member,
            main: link,
            address,
            granting_from,
            characteristics: ensured,
            holds: Mutex::default(),
            memberships: Mutex::default(),
            queues: Mutex::default(),
            occupied: Notify::new(),
            listening: Mutex::default(),
            acquiring: watch::Sender::new(0),
            closed: CancellationToken::new(),
            extras: Extras::default(),
        });
        if let Err(error) = life.introduce().await {
            life.main.close().await;
            return Err(error);
        }
        tokio::spawn(life.clone().tend());
        *locked(&life.listening) = Some(tokio::spawn(listen::listen(life.clone())));
        Ok(Self(life))
    }
}

impl Life {
    pub(crate) fn table(&self, name: &str) -> String {
        self.config.names.table(name)
    }

    pub(crate) fn member_sql(&self) -> String {
        names::literal(self.member.as_bytes())
    }

    // ---- Life and death.

    /// Makes the session known, and clears away some that are over.
    async fn introduce(&self) -> Result<()> {
        let (table, lives) = (self.table("session"), names::lives("s", "id", "connection"));
        let (id, number) = (names::literal(self.main.marker.as_bytes()), self.main.number);
        let member = self.member_sql();
        let sql = format!(
            "INSERT INTO {table}(id,connection,member_id) VALUES({id},{number},{member});\
             SELECT id FROM {table} WHERE NOT {lives} LIMIT 10"
        );
        let over = self.main.change(&sql).await?;
        let over: Vec<_> =
            over.iter().filter_map(|row| Some(names::literal(&bytes(row, 0)?))).collect();
        if !over.is_empty() {
            let sql = format!("DELETE FROM {table} WHERE id IN ({})", over.join(","));
            self.main.change(&sql).await?;
        }
        Ok(())
    }

    /// Notices what the server does not push: that a connection has ended which waited for a lock.
    /// The rest as well, should the listener not be there: see [`listen`].
    async fn tend(self: Arc<Self>) {
        // Until then, a table that is locked is left alone: to look keeps others waiting.
        let mut locked_until = Moment::now();
        loop {
            tokio::select! {
                () = self.closed.cancelled() => return,
                _ = self.lease.lost() => break,
                () = self.main.died() => break,
                () = tokio::time::sleep(self.config.poll_interval) => {}
            }
            if !self.holds_anything() {
                continue;
            }
            if !locked_until.has_passed() {
                self.touch().await;
            } else if let Err(error) = self.hear_of_taken().await {
                debug!(%error, "not heard whether locks were broken");
                locked_until = Moment::now() + self.config.heartbeat_interval();
            }
        }
        self.lease.lose(Loss::SessionEnded);
        debug!(member = %self.member, "session lost");
        let loss = self.lease.loss().unwrap_or(Loss::SessionEnded);
        for hold in self.holds() {
            hold.end(loss);
        }
        self.abandon(&self.main);
    }

    /// Asks each connection that holds something whether it is there, and no table.
    pub(crate) async fn touch(&self) {
        let asked = self.touch_own(&self.holds());
        // What fails has lost its lease.
        let _ = tokio::join!(self.urge("DO 0".to_owned()), asked.join_all());
    }

    /// The same of the connections that hold one lock each.
    fn touch_own(&self, holds: &[Arc<MySqlHold>]) -> JoinSet<()> {
        let own = holds.iter().filter(|hold| hold.link.number != self.main.number).cloned();
        own.map(|hold| async move {
            // An answer of whatever kind will do.
            let _ = hold.link.urge("DO 0".to_owned()).await;
            if hold.link.is_dead() {
                hold.end(Loss::SessionEnded);
            }
        })
        .collect()
    }

    /// Asks for locks that were broken and memberships that were ended, and gives them up; asks each
    /// connection on the way.
    pub(crate) async fn hear_of_taken(self: &Arc<Self>) -> Result<()> {
        let holds = self.holds();
        let mut connections = vec![self.main.number.to_string()];
        let own = holds.iter().map(|hold| hold.link.number);
        connections.extend(own.filter(|own| *own != self.main.number).map(|own| own.to_string()));
        let asked = self.touch_own(&holds);
        // A membership that is being joined is not in the list before it has its row, and one that
        // is being left is taken from the list before its row goes.
        let memberships = locked(&self.memberships).clone();
        let mut sql = format!(
            "SELECT 0,operation FROM {} WHERE connection IN ({})",
            self.table("broken"),
            connections.join(","),
        );
        if !memberships.is_empty() {
            let groups = memberships.keys().map(|group| names::literal(group.as_bytes()));
            // Writing to a string does not fail.
            let _ = write!(
                sql,
                ";SELECT 1,group_id FROM {} WHERE group_id IN ({}) AND id={} AND session={}",
                self.table("member"),
                groups.collect::<Vec<_>>().join(","),
                self.member_sql(),
                names::literal(self.main.marker.as_bytes()),
            );
        }
        let (rows, _) = tokio::join!(self.ask(sql), asked.join_all());
        let mut there = BTreeSet::new();
        for row in &rows? {
            let (Some(kind), Some(id)) = (unsigned_in(row, 0), bytes(row, 1)) else { continue };
            if kind == 1 {
                there.insert(GroupId::from(id));
            } else if let Some(hold) = holds.iter().find(|hold| hold.id.as_bytes()[..] == id[..]) {
                self.give_up_broken(hold).await?;
            }
        }
        let mut listed = locked(&self.memberships);
        for (group, lease) in memberships.into_iter().filter(|(group, _)| !there.contains(group)) {
            if listed.contains_key(&group) {
                lease.lose(Loss::Taken);
                // It may have been joined again meanwhile.
                listed.retain(|other, lease| *other != group || lease.is_held());
            }
        }
        Ok(())
    }

    async fn give_up_broken(&self, hold: &Arc<MySqlHold>) -> Result<()> {
        if !hold.lease().is_held() {
            return Ok(());
        }
        hold.lease().lose(Loss::Taken);
        hold.link.change(&hold.freeing(self)).await?;
        hold.forget();
        Ok(())
    }

    /// One round trip on each connection that holds something.
    async fn renew(self: &Arc<Self>) -> Result<()> {
        let mut renewals = JoinSet::new();
        for hold in self.holds() {
            if hold.link.number != self.main.number {
                renewals.spawn(async move {
                    let sent = Moment::now();
                    match is_alive(&hold.link).await {
                        Ok(true) => drop(hold.lease().renewed(sent)),
                        Ok(false) => hold.end(Loss::SessionEnded),
                        Err(_) if hold.link.is_dead() => hold.end(Loss::SessionEnded),
                        // Until its deadline.
                        Err(error) => debug!(%error, "a lock was not renewed"),
                    }
                });
            }
        }
        let sent = Moment::now();
        // One statement that is slow may be before it, until that is ended.
        let limit = self.config.response_timeout * 3 / 2;
        let alive = tokio::time::timeout(limit, is_alive(&self.main)).await;
        let alive = alive.unwrap_or(Err(Failure::Silence));
        while renewals.join_next().await.is_some() {}
        match alive {
            Ok(true) if self.lease.renewed(sent) => Ok(()),
            Ok(_) => {
                self.lease.lose(Loss::SessionEnded);
                Err(session_over())
            }
            Err(failure) => Err(self.failed(failure)),
        }
    }

    /// What a failure on the session's connection means. With the connection, the session is over,
    /// and nothing counts any more of what it did under its own name.
    pub(crate) fn failed(&self, failure: Failure) -> Error {
        if !self.main.is_dead() {
            return failure.into();
        }
        self.lease.lose(Loss::SessionEnded);
        session_over().caused_by(failure)
    }

    /// [`Link::ask`] for what only reads: it does not wait for the answer until the deadline.
    pub(crate) async fn ask(&self, sql: String) -> Result<Rows> {
        let limit = self.config.response_timeout * 3 / 2;
        let asked = tokio::time::timeout(limit, self.main.ask(sql)).await;
        asked.unwrap_or(Err(Failure::Silence)).map_err(|failure| self.failed(failure))
    }

    /// [`Link::urge`], for what uses no table.
    async fn urge(&self, sql: String) -> Result<Rows> {
        self.main.urge(sql).await.map_err(|failure| self.failed(failure))
    }

    /// [`Link::change`] for what ends with the session.
    pub(crate) async fn change(&self, sql: &str) -> Result<Rows> {
        self.main.change(sql).await.map_err(|failure| self.failed(failure))
    }

    /// [`Link::transact`] for what ends with the session.
    pub(crate) async fn transact(&self, sql: &str) -> Result<Rows> {
        self.main.transact(sql).await.map_err(|failure| self.failed(failure))
    }

    /// Waits until the session is closed or lost.
    pub(crate) async fn over(&self) {
        tokio::select! {
            () = self.closed.cancelled() => {}
            _ = self.lease.lost() => {}
        }
    }

    // ---- Connections.

    /// One more connection to the same server.
    pub(crate) async fn another_link(&self) -> Result<Link> {
        connection::beside(&self.config, &self.address, &self.main).await
    }

    /// Asks on a connection of its own, whatever has become of the session's.
    pub(crate) async fn ask_elsewhere(&self, sql: String) -> Result<Rows> {
        let link = connection::connect(&self.config, &self.address).await?;
        let rows = link.ask(sql).await;
        link.close().await;
        Ok(rows?)
    }

    /// Ends a connection that cannot be spoken to any more, at the server as well: it may wait for a
    /// lock there and not notice that we are gone.
    pub(crate) fn abandon(&self, link: &Link) {
        let (config, address, link) = (self.config.clone(), self.address.clone(), link.clone());
        tokio::spawn(async move {
            link.cut().await;
            // After its time of silence the server does it by itself.
            let until = Moment::now() + config.timeout;
            while !until.has_passed() {
                match end_at_server(&config, &address, &link).await {
                    Ok(()) => return,
                    Err(error) => debug!(%error, "an abandoned connection may still be there"),
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
    }

    // ---- What is held.

    pub(crate) fn enter(&self) -> Result<Entered<'_>> {
        self.acquiring.send_modify(|count| *count += 1);
        let entered = Entered(self);
        if !self.is_open() {
            return Err(session_over());
        }
        Ok(entered)
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.closed.is_cancelled() && self.lease.is_held()
    }

    pub(crate) fn queue(&self, prize: &Prize) -> Arc<RwLock<()>> {
        // A session would be given twice what the server takes for one lock.
        let prize = prize.folded();
        let mut queues = locked(&self.queues);
        if let Some(queue) = queues.get(&prize).and_then(Weak::upgrade) {
            return queue;
        }
        if queues.len() >= 64 && queues.len().is_power_of_two() {
            queues.retain(|_, queue| queue.strong_count() > 0);
        }
        let queue = Arc::default();
        queues.insert(prize, Arc::downgrade(&queue));
        queue
    }

    pub(crate) fn add_hold(&self, hold: &Arc<MySqlHold>) {
        locked(&self.holds).insert(hold.id, hold.clone());
        self.occupied.notify_one();
        // The session may have been lost while the answer was on its way.
        if let Some(loss) = self.lease.loss() {
            hold.end(loss);
        }
    }

    pub(crate) fn remove_hold(&self, id: OperationId) {
        locked(&self.holds).remove(&id);
    }

    fn holds(&self) -> Vec<Arc<MySqlHold>> {
        locked(&self.holds).values().cloned().collect()
    }

    /// Waits until there is something to lose.
    pub(crate) async fn occupied(&self) {
        self.occupied.notified().await;
    }

    fn holds_anything(&self) -> bool {
        !locked(&self.holds).is_empty() || !locked(&self.memberships).is_empty()
    }

    pub(crate) fn add_membership(&self, group: &GroupId) -> Lease {
        let lease = self.lease.child();
        self.put_membership(group, lease.clone());
        lease
    }

    pub(crate) fn put_membership(&self, group: &GroupId, lease: Lease) {
        locked(&self.memberships).insert(group.clone(), lease);
        self.occupied.notify_one();
    }

    pub(crate) fn take_membership(&self, group: &GroupId) -> Option<Lease> {
        locked(&self.memberships).remove(group)
    }

    /// Gives back what is left. Whoever is woken by the last of it finds it all gone.
    async fn say_goodbye(&self) {
        // They withdraw.
        let mut acquiring = self.acquiring.subscribe();
        let _ = acquiring.wait_for(|count| *count == 0).await;
        let own = self.holds();
        let sql = format!(
            "DELETE FROM {member} WHERE session={id};DELETE FROM {reader} WHERE connection={number};\
             DELETE FROM {session} WHERE id={id}",
            member = self.table("member"),
            reader = self.table("reader"),
            session = self.table("session"),
            id = names::literal(self.main.marker.as_bytes()),
            number = self.main.number,
        );
        if let Err(error) = self.main.change(&sql).await {
            debug!(%error, "rows of the session are left, to no effect");
        }
        for hold in &own {
            if let Err(error) = hold.link.change(&hold.freeing(self)).await {
                debug!(%error, "not given back before the connection ends");
            }
        }
        for hold in own {
            hold.lease().lose(Loss::GivenUp);
            if hold.link.number != self.main.number {
                hold.link.close().await;
            }
            hold.forget();
        }
        self.extras.clear().await;
        self.main.close().await;
        // It wakes when the session's connection is gone.
        let listening = locked(&self.listening).take();
        if let Some(listening) = listening {
            let _ = listening.await;
        }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.acquiring.send_modify(|count| *count -= 1);
    }
}

/// Whether the server knows the connection as the one that it was.
async fn is_alive(link: &Link) -> Result<bool, Failure> {
    let marker = names::marker(link.marker);
    let ask = format!("SELECT CAST(IS_USED_LOCK({marker})<=>{} AS SIGNED)", link.number);
    Ok(number(&link.urge(ask).await?, 0) == Some(1))
}

async fn end_at_server(config: &Arc<Config>, address: &Address, link: &Link) -> Result<()> {
    let other = connection::connect(config, address).await?;
    // The number may be another's by now, the marker cannot.
    let ask = format!("SELECT CAST(IS_USED_LOCK({}) AS SIGNED)", names::marker(link.marker));
    let found = other.ask(ask).await.map(|rows| number(&rows, 0));
    if let Ok(Some(number)) = found {
        let _ = other.ask(format!("KILL {number}")).await;
    }
    other.close().await;
    found.map(drop).map_err(Into::into)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is locked, so it is whole even if poisoned.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Session for MySqlSession {
    fn lease(&self) -> &Lease {
        &self.0.lease
    }

    fn characteristics(&self) -> Characteristics {
        self.0.characteristics
    }

    fn heartbeat_interval(&self) -> Option<Duration> {
        Some(self.0.config.heartbeat_interval())
    }

    async fn heartbeat(&self) -> Result<()> {
        self.0.renew().await
    }

    async fn close(&self) -> Result<()> {
        if !self.0.is_open() {
            return Ok(());
        }
        self.0.closed.cancel();
        let limit = self.0.config.response_timeout * 2;
        if tokio::time::timeout(limit, self.0.say_goodbye()).await.is_err() {
            self.0.abandon(&self.0.main);
        }
        self.0.lease.lose(Loss::GivenUp);
        Ok(())
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
