//! The settings of a coordinator, fixed before it is made.

use std::time::Duration;

use crate::{Characteristics, RetryPolicy};

/// What a [`Builder`](crate::Builder) has configured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) heartbeat: Heartbeat,
    pub(crate) timeout: Duration,
    pub(crate) stop_grace: Duration,
    pub(crate) retry: RetryPolicy,
    pub(crate) required: Characteristics,
    pub(crate) rejoin_when_removed: bool,
    pub(crate) fencing_offset: u64,
}

/// Who renews what a coordinator holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Heartbeat {
    /// The engine, on its own thread.
    #[default]
    Automatic,
    /// The application, by [`Coordinator::heartbeat`](crate::Coordinator::heartbeat): a sign that the application itself lives.
    ///
    /// After a loss nothing is restored (the session, memberships, queue entries) before the
    /// next heartbeat, so that others take over the work of a member that hangs. Calls that need a
    /// session wait for it within their time limit.
    Manual,
}
