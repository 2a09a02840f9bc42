//! What proves to Consul that a coordinator lives: its sessions, and the agent's check that they
//! depend on.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tooz_core::{Error, ErrorKind, MemberId, Moment, OperationId, Result};
use tooz_http::{Request, Response};
use tracing::debug;

use crate::api::{Api, SessionInfo, session_lost};
use crate::config::{Check, Config};
use crate::poll;
use crate::roll::Roll;

/// How long servers may take to make a session, or to hear of a check from the agent. Nothing is held
/// yet that a slow answer could cost.
const PATIENCE: Duration = Duration::from_secs(5);

/// When the agent forgets the check of a coordinator that died. It is the least that it accepts.
const FORGET: &str = "1m";

/// The sessions of one coordinator.
#[derive(Debug)]
pub(crate) struct Presence {
    check: Option<AgentCheck>,
    /// Has the locks and terms, which nobody gets for the lock-delay when it dies.
    pub(crate) locks: String,
    /// Has all the rest, which is free at once when it dies. The same one without a lock-delay.
    pub(crate) members: String,
}

/// A check of an agent, which must be passed with that very agent.
#[derive(Clone, Debug)]
struct AgentCheck {
    id: String,
    server: usize,
}

impl Presence {
    /// Makes the sessions; the moment from which they live.
    pub(crate) async fn open(
        config: &Config,
        id: OperationId,
        member: &MemberId,
    ) -> Result<(Self, Moment)> {
        let name = config.keys.session_name(member)?;
        let check = register(config, id).await?;
        let opened = async {
            let members = create(config, &name, check.as_ref(), Duration::ZERO).await?;
            let locks = match config.lock_delay {
                Duration::ZERO => members.clone(),
                delay => create(config, &name, check.as_ref(), delay).await?,
            };
            let presence = Self { check: check.clone(), locks, members };
            // From here, however long it took to come here.
            let begun = Moment::now();
            presence.renew(&config.api).await?;
            Ok((presence, begun))
        };
        let opened = opened.await;
        if let (Err(_), Some(check)) = (&opened, &check) {
            // With its check, a session ends that was made all the same.
            forget(&config.api, check).await;
        }
        opened
    }

    /// The sessions, each once.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = &str> {
        let locks = Some(&*self.locks).filter(|locks| *locks != self.members);
        [Some(&*self.members), locks].into_iter().flatten()
    }

    /// Renews the sessions and passes the check, all at once.
    pub(crate) async fn renew(&self, api: &Api) -> Result<()> {
        let locks = async {
            match self.locks == self.members {
                true => Ok(()),
                false => renew(api, &self.locks).await,
            }
        };
        let check = async {
            match &self.check {
                Some(check) => pass(api, check).await,
                None => Ok(()),
            }
        };
        // All of them, so that the news of a loss is not hidden by another failure.
        let (members, locks, check) = tokio::join!(renew(api, &self.members), locks, check);
        let results = [members, locks, check];
        let lost = |result: &Result<()>| {
            result.as_ref().is_err_and(|error| error.kind() == ErrorKind::SessionLost)
        };
        if results.iter().any(lost) {
            return Err(session_lost());
        }
        results.into_iter().collect()
    }

    /// Ends the sessions, and with them what they have.
    pub(crate) async fn close(&self, api: &Api) -> Result<()> {
        let mut closed = Ok(());
        for session in self.sessions() {
            closed = closed.and(destroy(api, session).await);
        }
        if let Some(check) = &self.check {
            forget(api, check).await;
        }
        closed
    }
}

/// Waits until the servers say that a session is over.
pub(crate) async fn end(api: &Api, session: &str) {
    let api = &api.of_heartbeats();
    let node = loop {
        let request = Request::get(format!("/v1/session/info/{session}"));
        let info = api.call(request, &[]).await.and_then(|answer| answer.json());
        let missing = match info.map(|mut info: Vec<SessionInfo>| info.pop()) {
            Ok(Some(info)) => break info.node,
            Ok(None) => renew(api, session).await,
            // Whatever it is: the heartbeats tell if it is serious.
            Err(error) => Err(error),
        };
        if let Err(error) = missing {
            if error.kind() == ErrorKind::SessionLost {
                return;
            }
            let _ = poll::ride_out(error.retryable(true)).await;
        } else {
            tokio::time::sleep(PATIENCE).await;
        }
    };
    let roll = Roll::of(api, &node);
    let (mut living, mut seen) = (roll.living(), false);
    loop {
        let lives = living.borrow_and_update().as_ref().map(|living| living.contains(session));
        match lives {
            Some(false) if seen => return,
            // What is known may be older than the session.
            Some(false) => {
                let renewed = renew(api, session).await;
                if renewed.is_err_and(|error| error.kind() == ErrorKind::SessionLost) {
                    return;
                }
            }
            Some(true) => seen = true,
            None => {}
        }
        if living.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

// ---- Sessions.

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    #[serde(rename = "ID")]
    id: String,
}

async fn create(
    config: &Config,
    name: &str,
    check: Option<&AgentCheck>,
    lock_delay: Duration,
) -> Result<String> {
    let ttl = if check.is_some() { config.fallback_ttl() } else { config.ttl };
    let checks: Vec<_> = check.map(|check| &check.id).into_iter().collect();
    create_with(&config.api, name, &checks, ttl, lock_delay).await
}

/// A session that several keep alive, and that none of them is alone responsible for.
pub(crate) async fn create_cohort(config: &Config) -> Result<String> {
    let (name, ttl) = (config.keys.cohort_name(), config.fallback_ttl());
    create_with(&config.api, &name, &[], ttl, config.lock_delay).await
}

async fn create_with(
    api: &Api,
    name: &str,
    checks: &[&String],
    ttl: Duration,
    lock_delay: Duration,
) -> Result<String> {
    let milliseconds = |time: Duration| format!("{}ms", time.as_millis());
    let session = json!({
        "Name": name,
        // Not the node's health, which may be in doubt for a while without us being so.
        "Checks": checks,
        "TTL": milliseconds(ttl),
        "LockDelay": milliseconds(lock_delay),
        "Behavior": "delete",
    });
    let request = Request::put("/v1/session/create").json(&session)?.within(PATIENCE);
    let limit = Moment::now() + PATIENCE;
    loop {
        let response = api.call(request.clone(), &[500]).await?;
        if response.is_success() {
            return Ok(response.json::<Created>()?.id);
        }
        // The agent tells the servers of a new check in its own time.
        if !response.text().contains("Missing check") || limit.has_passed() {
            return Err(Api::failure(&response));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn renew(api: &Api, session: &str) -> Result<()> {
    let request = Request::put(format!("/v1/session/renew/{session}")).repeatable();
    match api.call(request, &[404]).await?.status() {
        404 => Err(session_lost()),
        _ => Ok(()),
    }
}

pub(crate) async fn destroy(api: &Api, session: &str) -> Result<()> {
    api.call(Request::put(format!("/v1/session/destroy/{session}")).repeatable(), &[]).await?;
    Ok(())
}

// ---- The check.

/// Registers a check with the agent, where that is wanted and allowed. It belongs to a service,
/// because only then the agent forgets it when nobody passes it any more.
async fn register(config: &Config, id: OperationId) -> Result<Option<AgentCheck>> {
    let wanted = match config.check {
        Check::Yes => true,
        Check::No => false,
        Check::Auto => config.api.servers() == 1,
    };
    if !wanted {
        return Ok(None);
    }
    let id = format!("{}-{id}", config.keys.namespace().replace('/', "-"));
    let service = json!({
        "ID": id,
        "Name": config.keys.namespace().replace('/', "-"),
        "Check": {
            "CheckID": id,
            "TTL": format!("{}ms", config.ttl.as_millis()),
            "Status": "passing",
            "DeregisterCriticalServiceAfter": FORGET,
        },
    });
    let request = Request::put("/v1/agent/service/register").json(&service)?.within(PATIENCE);
    match config.api.call(request, &[]).await {
        Ok(response) => Ok(Some(AgentCheck { id, server: response.endpoint() })),
        Err(error) if error.kind() == ErrorKind::Authentication && config.check == Check::Auto => {
            debug!(%error, "no check with the agent: the session has a time to live alone");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn pass(api: &Api, check: &AgentCheck) -> Result<()> {
    let request = Request::put(format!("/v1/agent/check/pass/{}", check.id)).at(check.server);
    let response = api.call(request, &[404, 500]).await?;
    if response.is_success() {
        return Ok(());
    }
    if is_unknown(&response) { Err(session_lost()) } else { Err(Api::failure(&response)) }
}

/// Whether the agent has forgotten the check: it was restarted, or somebody removed it.
fn is_unknown(response: &Response) -> bool {
    let text = response.text();
    response.status() == 404
        || text.contains("does not have associated TTL")
        || text.contains("Unknown check")
}

async fn forget(api: &Api, check: &AgentCheck) {
    let request = Request::put(format!("/v1/agent/service/deregister/{}", check.id));
    let forgotten: Result<(), Error> = api.call(request.at(check.server), &[404]).await.map(drop);
    if let Err(error) = forgotten {
        debug!(%error, "the agent is left to forget the check by itself");
    }
}
