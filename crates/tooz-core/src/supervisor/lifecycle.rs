//! Start and stop.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::{info, warn};

use super::run::{Link, Run};
use super::{Phase, Supervisor, many_at_once, not_running};
use crate::engine::Undo;
use crate::{Error, ErrorKind, GroupId, Heartbeat, Hold, Loss, Moment, Outcome, Result, Session};

impl Supervisor {
    pub(crate) async fn start(self: &Arc<Self>) -> Result<()> {
        let before = {
            let mut state = self.state();
            match state.phase {
                Phase::Idle | Phase::Stopped => state.phase = Phase::Starting,
                Phase::Stopping => return Err(not_running("is being stopped")),
                _ => return Err(not_running("is already started")),
            }
            state.run.clone()
        };
        let opened = self.open_after(&before).await;
        let mut state = self.state();
        match opened {
            Err(error) => {
                state.phase = Phase::Idle;
                Err(error)
            }
            Ok((session, left_over)) => {
                state.phase = Phase::Running;
                let run = Arc::new(Run::new(session.clone(), left_over));
                state.run = run.clone();
                self.engine.spawn(self.clone().keep(session, run));
                info!(backend = self.entry.name, member = %self.member, "coordinator started");
                Ok(())
            }
        }
    }

    /// Opens the first session of a run, and notes which memberships the previous run may have left.
    async fn open_after(
        self: &Arc<Self>,
        before: &Run,
    ) -> Result<(Arc<dyn Session>, BTreeMap<GroupId, Moment>)> {
        let until = Moment::now() + self.settings.timeout;
        // What the previous run still has under way must not be mistaken for this run's.
        if tokio::time::timeout(self.settings.timeout, before.over()).await.is_err() {
            return Err(Error::new(
                ErrorKind::TimedOut,
                "the previous stop ran out of time, and its requests are not answered yet",
            )
            .with("seconds", self.settings.timeout.as_secs_f64()));
        }
        let session = self.open(until.remaining()).await?;
        Ok((session, before.left_over()))
    }

    pub(crate) async fn stop(self: &Arc<Self>) -> Result<()> {
        let run = {
            let mut state = self.state();
            if state.phase != Phase::Running {
                return Err(state.phase.not_running());
            }
            state.phase = Phase::Stopping;
            state.run.clone()
        };
        let link = run.stop();
        if let Link::Up(session) = &link {
            if self.settings.heartbeat == Heartbeat::Manual {
                // The application waits for the stop.
                self.engine.spawn(self.clone().beat(session.clone(), run.released.clone()));
            }
            let recall = run.recall();
            if tokio::time::timeout(self.settings.stop_grace, recall).await.is_err() {
                warn!(
                    backend = self.entry.name, member = %self.member,
                    "releasing what its holders have not dropped within the grace"
                );
            }
        }
        let holds = run.take_holds();
        let mut outcome = Ok(());
        if let Link::Up(session) = link {
            let goodbye = self.clone().say_goodbye(run.clone(), session.clone(), holds);
            let goodbye = self.engine.run(goodbye);
            // One limit for everything: a dead backend must not hold up a shutdown.
            outcome =
                tokio::time::timeout(self.settings.timeout, goodbye).await.unwrap_or_else(|_| {
                    Err(Error::new(ErrorKind::TimedOut, "the backend did not confirm the stop")
                        .outcome_is(Outcome::Unknown))
                });
            run.abandon();
            session.lease().lose(Loss::GivenUp);
        } else {
            run.end();
        }
        let mut state = self.state();
        state.phase = Phase::Stopped;
        state.session_events.clear();
        state.group_feeds.clear();
        info!(backend = self.entry.name, member = %self.member, "coordinator stopped");
        outcome
    }

    /// Releases everything. Once it is abandoned, it only ends the session.
    async fn say_goodbye(
        self: Arc<Self>,
        run: Arc<Run>,
        session: Arc<dyn Session>,
        holds: Vec<Arc<dyn Hold>>,
    ) -> Result<()> {
        // In a panic of the driver too.
        let _over = Undo::with({
            let run = run.clone();
            move || run.end()
        });
        let releasing = holds.into_iter().map(|hold| {
            let (supervisor, run) = (self.clone(), run.clone());
            async move {
                if run.is_abandoned() {
                    return;
                }
                if let Err(error) = supervisor.release(&run, &*hold).await {
                    warn!(%error, "a lock or term could not be released at the stop");
                }
            }
        });
        many_at_once(releasing).await;
        run.released.cancel();
        let leaving = run.memberships.groups().into_iter().map(|group| {
            let (run, session) = (run.clone(), session.clone());
            async move {
                tokio::select! {
                    biased;
                    () = run.abandoned() => {}
                    mut membership = run.memberships.of(&group) => {
                        let left = async { session.require_groups()?.leave(&group).await };
                        match left.await {
                            Ok(()) => *membership = None,
                            Err(error) => {
                                warn!(%group, %error, "the group could not be left at the stop");
                            }
                        }
                    }
                }
            }
        });
        many_at_once(leaving).await;
        session.close().await?;
        // What it could not leave has ended with it.
        run.memberships.have_ended();
        Ok(())
    }
}
