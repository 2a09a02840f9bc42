//! A watch of one group, for as long as somebody wants it.

use std::sync::Arc;
use std::time::Duration;

use tooz_core::{Error, GroupId, Moment, Result};

use crate::channel::Listener;
use crate::errors::{get, is_locked_out};
use crate::state::State;

/// How often a watched group is looked at for members that died, which tell nobody.
const LOOK: Duration = Duration::from_millis(500);

/// Whether a member or the leader of the group is dead.
const DEAD: &str = "SELECT EXISTS (SELECT FROM tooz_member WHERE group_id = $1 AND session <> $2 \
                        AND pg_try_advisory_xact_lock_shared(session)) \
                    OR EXISTS (SELECT FROM tooz_leader WHERE group_id = $1 AND holder <> $2 \
                        AND pg_try_advisory_xact_lock_shared(holder))";

/// Removes what is left of the dead, and tells everybody.
const REAP: &str = "WITH gone AS (DELETE FROM tooz_member WHERE group_id = $1 AND session <> $2 \
                        AND pg_try_advisory_xact_lock_shared(session) RETURNING 1), \
                    fallen AS (DELETE FROM tooz_leader WHERE group_id = $1 AND holder <> $2 \
                        AND pg_try_advisory_xact_lock_shared(holder) RETURNING 1) \
                    SELECT count(pg_notify($3, $4)) \
                    WHERE (SELECT count(*) FROM gone) + (SELECT count(*) FROM fallen) > 0";

/// Wakes its owner whenever something may have changed.
pub(crate) struct Watch {
    state: Arc<State>,
    group: GroupId,
    listener: Listener,
}

impl Watch {
    pub(crate) async fn open(state: &Arc<State>, group: &GroupId) -> Result<Self> {
        let listener = state.channel.listener(state.keys().change(group));
        state.listen().await?;
        Ok(Self { state: state.clone(), group: group.clone(), listener })
    }

    /// What changes from here on wakes [`changed`](Self::changed).
    pub(crate) fn mark(&mut self) {
        self.listener.mark();
    }

    /// Waits until it is time to look again.
    pub(crate) async fn pause(&self) {
        (Moment::now() + LOOK).wait().await;
    }

    pub(crate) async fn changed(&mut self) -> Result<()> {
        loop {
            let look = Moment::now() + LOOK;
            tokio::select! {
                () = self.listener.heard() => return Ok(()),
                () = look.wait() => {}
            }
            let looked = async {
                let rows = self.state.read_group(DEAD, &self.group, &[]).await?;
                if get(rows.first().ok_or_else(Error::unexpected_answer)?, 0)? {
                    // Told to ourselves as well.
                    reap(&self.state, &self.group).await?;
                }
                Ok(())
            };
            match looked.await {
                Err(error) if is_locked_out(&error) => {}
                looked => looked?,
            }
        }
    }
}

/// Removes dead members and a dead leader.
pub(crate) async fn reap(state: &State, group: &GroupId) -> Result<()> {
    state.change_group(REAP, group, &[]).await.map(drop)
}
