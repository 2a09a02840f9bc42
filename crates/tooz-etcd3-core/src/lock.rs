use std::sync::Arc;

use tooz_core::{Acquisition, ErrorKind, Hold, LockName, Locks, Result, async_trait};

use crate::keys;
use crate::queue;
use crate::state::State;
use crate::txn::{Op, Test, Txn};

/// How many shared holders are told at once that their lock was broken. A transaction has a
/// limited number of operations; others learn it with their next heartbeat.
const NOTICES: usize = 100;

/// The locks of a session.
#[derive(Debug)]
pub(crate) struct EtcdLocks(pub(crate) Arc<State>);

#[async_trait]
impl Locks for EtcdLocks {
    async fn acquire(&self, acquisition: Acquisition<LockName>) -> Result<Option<Arc<dyn Hold>>> {
        let lock = self.0.keys().lock(&acquisition.target);
        queue::acquire(&self.0, acquisition.with_target(lock)).await
    }

    /// Breaks a lock and tells those who had it.
    async fn break_lock(&self, name: &LockName) -> Result<bool> {
        let state = &self.0;
        let keys = state.keys().lock(name);
        let mut again = false;
        loop {
            let read = Txn::of(vec![keys.lock().get(), keys.readers().get()]);
            let [lock, readers] = state.client.txn(&read).await?.value.ranges();
            let Some(lock) = lock.first() else { return Ok(again) };
            let mut then = vec![keys.lock().delete(), keys.readers().delete()];
            let readers_lease = keys::shared_lease(lock);
            if readers_lease.is_none() {
                then.extend(state.notice(lock.lease, &keys::operation_in(&lock.value)).await?);
            } else {
                for reader in readers.iter().take(NOTICES) {
                    if let Some(operation) = state.keys().operation_of(&reader.key) {
                        let key = state.keys().notice(reader.lease, operation);
                        then.push(Op::put(&key, b"", reader.lease));
                    }
                }
            }
            let unchanged = keys.lock().is(Test::ModifiedAt(lock.mod_revision));
            match state.client.txn(&Txn::when(vec![unchanged], then)).await {
                Ok(answer) if answer.value.succeeded => {
                    if let Some(readers_lease) = readers_lease {
                        state.client.revoke(readers_lease).await?;
                    }
                    return Ok(true);
                }
                // Somebody else has it by now, or nobody, or our own earlier request did it.
                Ok(answer) => again |= answer.again,
                // A holder's session ended in between.
                Err(error) if error.kind() == ErrorKind::SessionLost => {}
                Err(error) => return Err(error),
            }
        }
    }
}
