//! One session after another.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};

use super::run::Run;
use super::{SESSION, Supervisor};
use crate::engine::Undo;
use crate::events::EventSink;
use crate::{Error, ErrorKind, Heartbeat, Loss, Result, Session, SessionEvent};

/// How much longer than its time limit an opening may take: a tenth of it, within these bounds.
const WORD: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

impl Supervisor {
    /// Opens one session, within that time.
    pub(super) async fn open(self: &Arc<Self>, limit: Duration) -> Result<Arc<dyn Session>> {
        // Run by the engine, because drivers are never dropped halfway: the session may come when
        // nobody wants it any more.
        let supervisor = self.clone();
        let opening = self.engine.run(async move {
            let session = supervisor.driver.connect(&supervisor.member).await?;
            Ok(supervisor.unclaimed(session))
        });
        // A driver whose own limit is the same knows what was wrong: it may speak first.
        let patience = limit.saturating_add((limit / 10).clamp(WORD.0, WORD.1));
        let Ok(opened) = tokio::time::timeout(patience, opening).await else {
            let what = "no answer came in time, so no session could be opened";
            return Err(Error::new(ErrorKind::TimedOut, what).with("seconds", limit.as_secs_f64()));
        };
        let (session, undo) = opened?;
        undo.keep();
        if let Err(error) = self.suits(&*session) {
            let supervisor = self.clone();
            let closing = async move {
                supervisor.close(&session).await;
                Ok(())
            };
            self.engine.run(closing).await?;
            return Err(error);
        }
        Ok(session)
    }

    /// A session, and what closes it unless it is taken.
    fn unclaimed(self: &Arc<Self>, session: Arc<dyn Session>) -> (Arc<dyn Session>, Undo) {
        let (supervisor, opened) = (self.clone(), session.clone());
        let undo = Undo::with(move || {
            let engine = supervisor.engine.clone();
            engine.spawn(async move { supervisor.close(&opened).await });
        });
        (session, undo)
    }

    /// Fails if the deployment does not ensure what is required.
    fn suits(&self, session: &dyn Session) -> Result<()> {
        let weaker = self.entry.characteristics.without(session.characteristics());
        if weaker.is_empty() {
            return Ok(());
        }
        let missing = self.settings.required.without(session.characteristics());
        if missing.is_empty() {
            warn!(backend = self.entry.name, %weaker, "this deployment does not ensure all");
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::DriverChosenPoorly,
            format!("this deployment does not ensure: {missing}"),
        )
        .on(self.entry.name))
    }

    pub(super) async fn keep(self: Arc<Self>, mut session: Arc<dyn Session>, run: Arc<Run>) {
        loop {
            if self.settings.heartbeat == Heartbeat::Automatic {
                self.engine.spawn(self.clone().beat(session.clone(), run.released.clone()));
            }
            let loss = tokio::select! {
                loss = self.tend(&session) => loss,
                () = run.stopped.cancelled() => return,
            };
            warn!(
                target: SESSION, backend = self.entry.name, member = %self.member, %loss,
                "session lost"
            );
            run.is_down(None);
            self.announce(&SessionEvent::Lost(loss));
            let beats = self.beats_begun();
            let (supervisor, old) = (self.clone(), session);
            self.engine.spawn(async move { supervisor.close(&old).await });
            session = tokio::select! {
                session = self.reopen(&run, beats) => session,
                () = run.stopped.cancelled() => return,
            };
            if !run.go_on(&session) {
                return self.close(&session).await;
            }
            self.engine.spawn(self.clone().rejoin_all(run.clone(), session.clone()));
        }
    }

    /// Reports trouble until the session is lost.
    async fn tend(&self, session: &Arc<dyn Session>) -> Loss {
        let lease = session.lease();
        loop {
            tokio::select! {
                loss = lease.lost() => return loss,
                () = lease.doubt_is(true) => self.announce(&SessionEvent::Suspended),
            }
            tokio::select! {
                loss = lease.lost() => return loss,
                () = lease.doubt_is(false) => self.announce(&SessionEvent::Resumed),
            }
        }
    }

    /// A new session, after `beats` manual heartbeats.
    async fn reopen(self: &Arc<Self>, run: &Run, mut beats: u64) -> Arc<dyn Session> {
        let mut backoff = self.settings.retry.backoff();
        loop {
            if !self.lives(beats, *self.beats.borrow()) {
                let hangs = "heartbeat() was not called since the session was lost";
                run.is_down(Some(Error::new(ErrorKind::SessionLost, hangs)));
            }
            self.is_alive(beats).await;
            beats = self.beats_begun();
            match self.open(self.settings.timeout).await {
                Ok(session) => return session,
                Err(error) => {
                    let error = self.names(error);
                    warn!(target: SESSION, backend = self.entry.name, %error, "no new session yet");
                    run.is_down(Some(error));
                }
            }
            backoff.pause().await;
        }
    }

    pub(super) async fn close(&self, session: &Arc<dyn Session>) {
        if let Err(error) = session.close().await {
            debug!(backend = self.entry.name, %error, "the session could not be closed");
        }
    }

    pub(super) fn announce(&self, event: &SessionEvent) {
        let mut state = self.state();
        state.session_events.retain(|sink| !sink.is_closed());
        for sink in &state.session_events {
            sink.send(event.clone(), |newest| vec![newest]);
        }
    }

    pub(crate) fn add_session_sink(&self, sink: EventSink<SessionEvent>) {
        self.state().session_events.push(sink);
    }
}
