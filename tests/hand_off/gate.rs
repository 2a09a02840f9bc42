//! What stops a worker that is a thread, as a signal stops a process.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A worker passes it between its check and its write: the worst moment to be stopped at.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<State>, Condvar)>);

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    Shut,
    /// The worker is dead and must not write again.
    Dead,
}

impl Gate {
    /// Waits while the gate is shut; whether the worker is alive.
    pub(crate) fn pass(&self) -> bool {
        let (_, opened) = &*self.0;
        let state = opened.wait_while(self.state(), |state| *state == State::Shut);
        *state.unwrap_or_else(PoisonError::into_inner) == State::Open
    }

    pub(crate) fn shut(&self) {
        self.set(State::Shut);
    }

    pub(crate) fn open(&self) {
        self.set(State::Open);
    }

    pub(crate) fn kill(&self) {
        self.set(State::Dead);
    }

    fn set(&self, state: State) {
        *self.state() = state;
        self.0.1.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
