//! What proves to Consul that a coordinator lives: its sessions, and the agent's check that they
//! depend on.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tooz_core::{ErrorKind, MemberId, Moment, OperationId, Result};
use tooz_http::Request;
use tracing::debug;

use crate::client::Client;
use crate::config::{Check, Config};
use crate::errors::{failure, session_lost};

/// How long servers may take to make a session, or to learn of a check from the agent. Nothing is
/// held yet that a slow answer could cost.
const OPENING: Duration = Duration::from_secs(5);

/// When the agent removes the check of a coordinator that died. It is the least that it accepts.
const DEREGISTER_AFTER: &str = "1m";

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
        client: &Client,
        config: &Config,
        member: &MemberId,
    ) -> Result<(Self, Moment)> {
        let name = config.keys.session_name(member)?;
        let check = register(client, config).await?;
        let opened = async {
            let ttl = if check.is_some() { config.fallback_ttl() } else { config.ttl };
            let create = |delay| create(client, &name, check.as_ref(), ttl, delay);
            let members = create(Duration::ZERO).await?;
            let locks = match config.lock_delay {
                Duration::ZERO => members.clone(),
                delay => create(delay).await?,
            };
            let presence = Self { check: check.clone(), locks, members };
            // From here, however long it took to come here.
            let begun = Moment::now();
            if !presence.renew(client).await? {
                return Err(session_lost());
            }
            Ok((presence, begun))
        };
        let opened = opened.await;
        if let (Err(_), Some(check)) = (&opened, &check) {
            // With its check, a session ends that was made nevertheless.
            deregister(client, check).await;
        }
        opened
    }

    /// The sessions, each once.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = &str> {
        let locks = Some(&*self.locks).filter(|locks| *locks != self.members);
        [Some(&*self.members), locks].into_iter().flatten()
    }

    /// Renews the sessions and passes the check, all at once; `false` if one of them is gone.
    pub(crate) async fn renew(&self, client: &Client) -> Result<bool> {
        let locks = async {
            match self.locks == self.members {
                true => Ok(true),
                false => renew(client, &self.locks).await,
            }
        };
        let check = async {
            match &self.check {
                Some(check) => pass(client, check).await,
                None => Ok(true),
            }
        };
        let (members, locks, check) = tokio::join!(renew(client, &self.members), locks, check);
        // Looked at together, so that the news of a loss is not hidden by another failure.
        let renewed = [members, locks, check];
        if renewed.iter().any(|renewed| matches!(renewed, Ok(false))) {
            return Ok(false);
        }
        renewed.into_iter().collect::<Result<Vec<_>>>().map(|_| true)
    }

    /// Ends the sessions, and with them what they have.
    pub(crate) async fn close(&self, client: &Client) -> Result<()> {
        let mut closed = Ok(());
        for session in self.sessions() {
            closed = closed.and(destroy(client, session).await);
        }
        if let Some(check) = &self.check {
            deregister(client, check).await;
        }
        closed
    }
}

// ---- Sessions.

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    #[serde(rename = "ID")]
    id: String,
}

/// A session that several keep alive, and that none of them is alone responsible for.
pub(crate) async fn create_cohort(client: &Client, config: &Config) -> Result<String> {
    let name = config.keys.cohort_name();
    create(client, &name, None, config.fallback_ttl(), config.lock_delay).await
}

async fn create(
    client: &Client,
    name: &str,
    check: Option<&AgentCheck>,
    ttl: Duration,
    lock_delay: Duration,
) -> Result<String> {
    let milliseconds = |time: Duration| format!("{}ms", time.as_millis());
    let checks: Vec<_> = check.map(|check| &check.id).into_iter().collect();
    let session = json!({
        "Name": name,
        // Not the node's health, which may be in doubt for a while without us being so.
        "Checks": checks,
        "TTL": milliseconds(ttl),
        "LockDelay": milliseconds(lock_delay),
        "Behavior": "delete",
    });
    let request = Request::put("/v1/session/create").json(&session)?.within(OPENING);
    let limit = Moment::now() + OPENING;
    loop {
        let response = client.call(request.clone(), &[500]).await?;
        if response.is_success() {
            return Ok(response.json::<Created>()?.id);
        }
        // The agent tells the servers of a new check in its own time.
        if !response.text().contains("Missing check") || limit.has_passed() {
            return Err(failure(&response));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Renews a session; `false` if the servers do not know it.
pub(crate) async fn renew(client: &Client, session: &str) -> Result<bool> {
    let request = Request::put(format!("/v1/session/renew/{session}")).repeatable();
    match client.call(request, &[404]).await {
        Ok(response) => Ok(response.status() != 404),
        Err(error) if error.kind() == ErrorKind::SessionLost => Ok(false),
        Err(error) => Err(error),
    }
}

pub(crate) async fn destroy(client: &Client, session: &str) -> Result<()> {
    client.call(Request::put(format!("/v1/session/destroy/{session}")).repeatable(), &[]).await?;
    Ok(())
}

// ---- The check.

/// Registers a check with the agent, where that is wanted and allowed. It belongs to a service,
/// because only then the agent removes it when nobody passes it any more.
async fn register(client: &Client, config: &Config) -> Result<Option<AgentCheck>> {
    let wanted = match config.check {
        Check::Yes => true,
        Check::No => false,
        Check::Auto => client.connections.servers() == 1,
    };
    if !wanted {
        return Ok(None);
    }
    let name = config.keys.service_name();
    let id = format!("{name}-{}", OperationId::random());
    let service = json!({
        "ID": id,
        "Name": name,
        "Check": {
            "CheckID": id,
            "TTL": format!("{}ms", config.ttl.as_millis()),
            "Status": "passing",
            "DeregisterCriticalServiceAfter": DEREGISTER_AFTER,
        },
    });
    let request = Request::put("/v1/agent/service/register").json(&service)?.within(OPENING);
    match client.call(request, &[]).await {
        Ok(response) => Ok(Some(AgentCheck { id, server: response.endpoint() })),
        Err(error) if error.kind() == ErrorKind::Authentication && config.check == Check::Auto => {
            debug!(%error, "no check at the agent: the session only has a time to live");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Passes the check; `false` if the agent does not know it: it was restarted, or somebody removed it.
async fn pass(client: &Client, check: &AgentCheck) -> Result<bool> {
    let request = Request::put(format!("/v1/agent/check/pass/{}", check.id)).at(check.server);
    let response = client.call(request, &[404, 500]).await?;
    let text = response.text();
    if response.is_success() {
        Ok(true)
    } else if response.status() == 404
        || text.contains("does not have associated TTL")
        || text.contains("Unknown check")
    {
        Ok(false)
    } else {
        Err(failure(&response))
    }
}

async fn deregister(client: &Client, check: &AgentCheck) {
    let request = Request::put(format!("/v1/agent/service/deregister/{}", check.id));
    if let Err(error) = client.call(request.at(check.server), &[404]).await {
        debug!(%error, "the agent will remove the check by itself");
    }
}
