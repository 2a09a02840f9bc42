//! The renewal of everything: one round trip of each connection that holds something, all at once.
//! It touches no table, which somebody might have locked.

use std::sync::Arc;

use tokio::task::JoinSet;
use tooz_core::{Hold, Loss, Moment, Result};
use tracing::debug;

use crate::errors::get;
use crate::lock::WHO;
use crate::session::Life;
use crate::{memberships, pooler};

pub(crate) async fn renew(life: &Arc<Life>) -> Result<()> {
    let mut extras = JoinSet::new();
    for hold in life.holds() {
        extras.spawn(async move {
            let Some(connection) = hold.extra() else { return };
            let sent = Moment::now();
            match connection.beat(WHO).await {
                Ok(_) => drop(hold.lease().renewed(sent)),
                Err(error) => debug!(%error, "a lock's own session is not renewed"),
            }
        });
    }
    let sent = Moment::now();
    let beat = async {
        if get::<i32>(&life.main.beat(WHO).await?, 0)? != life.main.process {
            life.lease.lose(Loss::SessionEnded);
            return Err(pooler::refusal());
        }
        life.lease.renewed(sent);
        Ok(())
    };
    // Whoever waits for a table must not make the next heartbeat late.
    let looked = tokio::time::timeout(life.config.response_timeout, memberships::check(life));
    let (beat, looked) = tokio::join!(beat, looked);
    if let Ok(Err(error)) = looked {
        debug!(%error, "whether the memberships are still there is left to the next heartbeat");
    }
    extras.join_all().await;
    beat?;
    // What nobody has needed since the last heartbeat.
    life.extras.trim(sent - life.config.heartbeat_interval());
    Ok(())
}
