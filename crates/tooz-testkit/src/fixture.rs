//! What a driver supplies to be tested.

use std::time::Duration;

use tooz_core::{Characteristics, DriverEntry, Error, MemberId, Result, async_trait};

/// A driver in one setup: a standalone server, a cluster, a folder.
///
/// The backend must bear several worlds at once, two of them with a [crowd](World::crowd).
#[async_trait]
pub trait Fixture: Send + Sync + 'static {
    /// The setup's name, such as `redis-sentinel`: its row of the matrix, and the first part of
    /// its tests' names.
    fn name(&self) -> &str;

    /// The driver.
    fn driver(&self) -> DriverEntry;

    /// Whether it needs a server, whose URL is then in the environment: see [`server_url`].
    fn needs_server(&self) -> bool;

    /// Why the backend may grant what it had granted before a crash of its server; `None` where it
    /// does not, as far as a holder hears of it or its time is over.
    fn forgets_at_a_crash(&self) -> Option<&str> {
        None
    }

    /// A fresh namespace on the backend, shared with no other world.
    async fn world(&self) -> Result<Box<dyn World>>;
}

/// A namespace on a backend, and the view of it from the backend's own side.
#[async_trait]
pub trait World: Send + Sync + 'static {
    /// What coordinators connect to, from any process on this host.
    fn url(&self) -> &str;

    /// How long the backend keeps what a silent coordinator owns; `None` where a dead process is
    /// noticed at once and a slow one is never robbed. Make it short: 2 s is good.
    fn ttl(&self) -> Option<Duration>;

    /// How many coordinators a world may have at once: a hundred, unless the server bears fewer.
    fn crowd(&self) -> usize {
        100
    }

    /// Where what a coordinator owns ends with its connection, as a database's locks do: how much
    /// later than the next holder it may know of a reset. `None` where a session outlives it.
    fn ends_with_its_connection(&self) -> Option<Duration> {
        None
    }

    /// What the driver declares and this deployment does not ensure, such as what replicas take
    /// away. By default it ensures all.
    fn lacks(&self) -> Characteristics {
        Characteristics::of(&[])
    }

    /// What coordinators have left in this world, also after the server has been started again, each with a few words to find it by: sessions,
    /// locks held and waited for, members, leases. Not what is meant to stay: groups, counters of
    /// tokens.
    async fn residue(&self) -> Result<Vec<String>>;

    /// Ends the sessions of a member at the backend, as if they had expired there, and forgets
    /// what depended on them.
    async fn take_session_away(&self, member: &MemberId) -> Result<()>;

    /// Removes the world with all that is in it. Called once, also after a case that failed.
    async fn remove(&self) -> Result<()>;
}

/// The URL of a setup's server, from `TOOZ_TEST_URL_<SETUP>`: the name in upper case, with `_` for
/// `-`.
///
/// # Errors
/// When it is not set, naming it.
pub fn server_url(setup: &str) -> Result<String> {
    let variable = server_variable(setup);
    std::env::var(&variable)
        .map_err(|_| Error::invalid(format!("the setup {setup} needs {variable}")))
}

pub(crate) fn server_variable(setup: &str) -> String {
    format!("TOOZ_TEST_URL_{}", setup.to_uppercase().replace('-', "_"))
}
