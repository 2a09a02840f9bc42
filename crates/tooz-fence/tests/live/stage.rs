//! Makes the steps of several holders in a given order, though some of them have to wait.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::ledger::End;

/// A step that takes longer than this is taken for one that waits for another holder. If it is only
/// slow, the order is another than was asked for, and still one that must lose nothing.
const PATIENCE: Duration = Duration::from_millis(15);

/// How long a holder may wait in the end, when nobody is in its way.
const LIMIT: Duration = Duration::from_secs(60);

/// The holder's side: it waits here before each of its steps.
pub(crate) struct Gate {
    ready: mpsc::UnboundedSender<()>,
    go: mpsc::UnboundedReceiver<()>,
}

impl Gate {
    pub(crate) async fn step(&mut self) {
        // An error means that the test has failed elsewhere.
        let _ = self.ready.send(());
        let _ = self.go.recv().await;
    }
}

struct Holder {
    ready: mpsc::UnboundedReceiver<()>,
    go: mpsc::UnboundedSender<()>,
    task: JoinHandle<End>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before its next step.
    Ready,
    /// Within a step.
    Busy,
    Ended,
}

/// Several holders.
#[derive(Default)]
pub(crate) struct Stage(Vec<Holder>);

impl Stage {
    pub(crate) fn add<F>(&mut self, holder: impl FnOnce(Gate) -> F)
    where
        F: Future<Output = End> + Send + 'static,
    {
        let (ready, is_ready) = mpsc::unbounded_channel();
        let (go, told) = mpsc::unbounded_channel();
        let task = tokio::spawn(holder(Gate { ready, go: told }));
        self.0.push(Holder { ready: is_ready, go, task, state: State::Busy });
    }

    /// Makes the steps in this order, and then what is left of them. After the step of that number,
    /// `harm` is done.
    pub(crate) async fn play(
        mut self,
        order: &[usize],
        harm: Option<(usize, impl Future<Output = ()>)>,
    ) -> Vec<End> {
        let (at, mut harm) = harm.map_or((0, None), |(at, harm)| (at, Some(harm)));
        for holder in &mut self.0 {
            holder.look(LIMIT).await;
        }
        for (number, &index) in order.iter().enumerate() {
            self.0[index].advance(PATIENCE).await;
            // Whoever waited for what was just done goes on first.
            for holder in self.0.iter_mut().filter(|holder| holder.state == State::Busy) {
                holder.look(Duration::from_millis(1)).await;
            }
            if number == at
                && let Some(harm) = harm.take()
            {
                harm.await;
            }
        }
        while self.0.iter().any(|holder| holder.state != State::Ended) {
            for holder in &mut self.0 {
                holder.advance(PATIENCE).await;
            }
        }
        let mut ends = Vec::new();
        for holder in self.0 {
            ends.push(timeout(LIMIT, holder.task).await.expect("a holder hangs").unwrap());
        }
        ends
    }
}

impl Holder {
    /// Lets it make its next step.
    async fn advance(&mut self, patience: Duration) {
        match self.state {
            State::Ready => {
                self.state = State::Busy;
                let _ = self.go.send(());
                self.look(patience).await;
            }
            State::Busy => self.look(Duration::from_millis(1)).await,
            State::Ended => {}
        }
    }

    /// Waits until its step is done.
    async fn look(&mut self, patience: Duration) {
        match timeout(patience, self.ready.recv()).await {
            Ok(Some(())) => self.state = State::Ready,
            Ok(None) => self.state = State::Ended,
            Err(_) => {}
        }
    }
}
