use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tooz_core::kit::Table;
use tooz_core::{
    Characteristics, Elections, Groups, Hold, Lease, Locks, Loss, MemberId, OperationId, Result,
    Session, async_trait,
};
use tracing::debug;

use crate::client::{Client, Watched};
use crate::config::{CHARACTERISTICS, Config};
use crate::election::EtcdElections;
use crate::errors::unexpected;
use crate::group::EtcdGroups;
use crate::heartbeat;
use crate::hold::EtcdHold;
use crate::keys::owner;
use crate::lock::EtcdLocks;
use crate::state::{PAUSE, State};

/// One session: its key lives as long as it is renewed.
#[derive(Debug)]
pub(crate) struct EtcdSession {
    state: Arc<State>,
    locks: EtcdLocks,
    groups: EtcdGroups,
    elections: EtcdElections,
}

impl EtcdSession {
    pub(crate) async fn open(
        config: Arc<Config>,
        client: Client,
        member: MemberId,
    ) -> Result<Self> {
        let (id, ttl) = (OperationId::random(), config.membership_timeout);
        let (key, value) = (config.keys.session(id), owner(id, id, &member));
        let opened = match client.open(&key, &value, ttl).await {
            Ok(opened) => opened,
            Err(error) => {
                // It may have been made nevertheless, and nobody knows of it.
                tokio::spawn(async move { drop(client.delete(&key, None).await) });
                return Err(error);
            }
        };
        let event = opened.result.map_err(|refusal| unexpected("a session's key", refusal))?;
        let state = Arc::new(State {
            config,
            client,
            id,
            member,
            lease: Lease::timed(ttl.0, opened.sent),
            grants: Table::default(),
            queue_entries: Table::default(),
            memberships: Table::default(),
            closed: CancellationToken::new(),
        });
        tokio::spawn(run(state.clone(), event.node.modified));
        Ok(Self {
            locks: EtcdLocks(state.clone()),
            groups: EtcdGroups(state.clone()),
            elections: EtcdElections(state.clone()),
            state,
        })
    }

    async fn say_goodbye(&self) -> Result<()> {
        let state = &self.state;
        // What cannot be released expires; the session's own key goes last, and in any case.
        for grant in state.grants.values() {
            grant.lease.lose(Loss::GivenUp);
            drop(EtcdHold { state: state.clone(), grant }.release().await);
        }
        for (group, membership) in state.memberships.entries() {
            membership.lease.lose(Loss::GivenUp);
            drop(self.groups.leave(&group).await);
        }
        state.client.delete(&state.keys().session(state.id), None).await.map(drop)
    }
}

/// Watches the session's own key until the session ends.
async fn run(state: Arc<State>, since: u64) {
    tokio::select! {
        () = watch_key(&state, since) => state.lease.lose(Loss::SessionEnded),
        _ = state.lease.lost() => {}
        () = state.closed.cancelled() => {}
    }
}

/// The key's end is the session's; its change says that something of ours was broken.
async fn watch_key(state: &Arc<State>, mut since: u64) {
    let key = state.keys().session(state.id);
    loop {
        match state.client.watch(&key, since, false).await {
            Ok(Watched::Event(event)) if event.is_end() => return,
            Ok(Watched::Event(event)) => {
                since = event.node.modified;
                if let Err(error) = heartbeat::renew(state).await {
                    debug!(%error, "could not check whether anything was broken");
                }
            }
            // Whatever it was, the next renewals see what it did.
            Ok(Watched::Forgotten) => match state.client.get(&key).await {
                Ok(answer) if answer.result.is_err() => return,
                Ok(answer) => since = answer.index,
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
            Err(error) => {
                debug!(%error, "watching the session again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

#[async_trait]
impl Session for EtcdSession {
    fn lease(&self) -> &Lease {
        &self.state.lease
    }

    fn characteristics(&self) -> Characteristics {
        CHARACTERISTICS
    }

    fn heartbeat_interval(&self) -> Option<Duration> {
        Some(self.state.config.heartbeat_interval())
    }

    async fn heartbeat(&self) -> Result<()> {
        heartbeat::renew(&self.state).await
    }

    async fn close(&self) -> Result<()> {
        if self.state.closed.is_cancelled() {
            return Ok(());
        }
        self.state.closed.cancel();
        self.say_goodbye().await
    }

    fn locks(&self) -> Option<&dyn Locks> {
        Some(&self.locks)
    }

    fn groups(&self) -> Option<&dyn Groups> {
        Some(&self.groups)
    }

    fn elections(&self) -> Option<&dyn Elections> {
        Some(&self.elections)
    }
}
