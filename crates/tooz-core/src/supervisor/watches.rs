//! Watches that outlive a session.

use std::sync::Arc;
use std::time::Duration;

use tracing::debug;

use super::run::Run;
use super::{Call, Supervisor};
use crate::engine::Undo;
use crate::{ErrorKind, GroupFeed, GroupId, LeaderFeed, Moment};

impl Supervisor {
    /// Feeds a group's events until nobody listens or the coordinator is stopped.
    pub(crate) fn feed_group(self: &Arc<Self>, run: Arc<Run>, group: GroupId, feed: GroupFeed) {
        self.state().group_feeds.push((group.clone(), feed.clone()));
        let supervisor = self.clone();
        self.engine.spawn(async move {
            // Even if the driver panics: the consumer sees the end, instead of waiting for ever.
            let _forget = Undo::with({
                let (supervisor, feed) = (supervisor.clone(), feed.clone());
                move || supervisor.state().group_feeds.retain(|(_, other)| !other.is(&feed))
            });
            let target = (group, feed.clone());
            let watch = supervisor.repeat(&run, &target, |session, (group, feed)| {
                // Nothing yet for the first watch; for a later one, what it missed.
                feed.gap();
                Ok(session.require_groups()?.watch(group, feed))
            });
            tokio::select! {
                () = feed.closed() => {}
                () = run.stopped.cancelled() => {}
                () = watch => {}
            }
        });
    }

    /// Feeds who leads a group until nobody listens or the coordinator is stopped.
    pub(crate) fn feed_leader(self: &Arc<Self>, run: Arc<Run>, group: GroupId, feed: LeaderFeed) {
        let supervisor = self.clone();
        self.engine.spawn(async move {
            let target = (group, feed.clone());
            let watch = supervisor.repeat(&run, &target, |session, (group, feed)| {
                Ok(session.require_elections()?.watch(group, feed))
            });
            tokio::select! {
                () = feed.closed() => {}
                () = run.stopped.cancelled() => {}
                () = watch => {}
            }
        });
    }

    /// Runs a watch on one session after another.
    async fn repeat<A>(&self, run: &Run, target: &A, watch: Call<A, ()>) {
        let mut backoff = self.settings.retry.backoff();
        loop {
            match run.session(Moment::now(), self.settings.timeout).await {
                Ok(session) => {
                    let began = Moment::now();
                    let lease = session.lease().clone();
                    let watching = async { watch(&*session, target)?.await };
                    tokio::select! {
                        result = watching => if let Err(error) = result {
                            debug!(backend = self.entry.name, %error, "watching again");
                        },
                        _ = lease.lost() => {}
                    }
                    if began.elapsed() > Duration::from_secs(5) {
                        backoff = self.settings.retry.backoff();
                    }
                }
                Err(error) if error.kind() == ErrorKind::NotRunning => return,
                Err(_) => {}
            }
            backoff.pause().await;
        }
    }
}
