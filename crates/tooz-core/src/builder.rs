//! From a URL and settings to a coordinator.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::Engine;
use crate::settings::Settings;
use crate::supervisor::{Address, Supervisor};
use crate::{
    Characteristic, Characteristics, Coordinator, CoordinatorUrl, DriverEntry, Error, ErrorKind,
    Feature, Features, Heartbeat, MemberId, Options, Result, RetryPolicy,
};

/// With this offset a token still fits the signed 64 bits that a resource's column may have.
const MAX_OFFSET: u64 = 1 << 62;
const WHAT_OFFSET: &str = "a whole number from 0 to 4611686018427387904";

/// Configures a coordinator before it is made.
///
/// ```
/// # use std::time::Duration;
/// # use tooz_core::{Characteristic, ErrorKind, Registry};
/// # let registry = Registry::new().with(tooz_memory::DRIVER)?;
/// let builder = registry.builder("memory://docs-builder", "host-1")?;
/// let coordinator = builder
///     .require(Characteristic::Linearizable)
///     .time_to_live(Duration::from_secs(5))
///     .operation_timeout(Duration::from_secs(10))
///     .build()?;
///
/// let builder = registry.builder("memory://docs-builder", "host-1")?;
/// let error = builder.require(Characteristic::DistributedAcrossHosts).build().unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::DriverChosenPoorly);
/// assert!(error.to_string().contains("distributed-across-hosts"));
/// # Ok::<(), tooz_core::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until connect() or build() is called"]
pub struct Builder {
    entry: DriverEntry,
    url: CoordinatorUrl,
    member: MemberId,
    options: Vec<(String, String)>,
    features: Features,
    settings: Settings,
}

impl Builder {
    pub(crate) fn new(entry: DriverEntry, url: CoordinatorUrl, member: MemberId) -> Self {
        let settings = Settings {
            heartbeat: Heartbeat::Automatic,
            timeout: Duration::from_secs(30),
            stop_grace: Duration::from_secs(5),
            retry: RetryPolicy::default(),
            required: Characteristics::NONE,
            rejoin_when_removed: true,
            fencing_offset: 0,
        };
        Self { entry, url, member, options: Vec::new(), features: Features::NONE, settings }
    }

    /// Requires a characteristic. A driver that lacks it is refused by [`build`](Self::build); a
    /// deployment that lacks it, by [`Coordinator::start`].
    pub fn require(mut self, characteristic: Characteristic) -> Self {
        let required = self.settings.required;
        self.settings.required = required.union(Characteristics::of(&[characteristic]));
        self
    }

    /// Requires a feature: a driver that lacks it is refused by [`build`](Self::build).
    pub fn require_feature(mut self, feature: Feature) -> Self {
        self.features = self.features.union(Features::of(&[feature]));
        self
    }

    /// Who renews what is held. Automatic by default.
    pub fn heartbeat(mut self, heartbeat: Heartbeat) -> Self {
        self.settings.heartbeat = heartbeat;
        self
    }

    /// How long an operation may wait for a working session, and how long starting and, after its
    /// [grace](Self::stop_grace), stopping may take. 30 s by default. It does not limit the wait for
    /// a lock.
    pub fn operation_timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = timeout;
        self
    }

    /// How long the backend keeps a session, a lock, a term or a membership after its owner's last
    /// sign of life. The default is the driver's, 10 to 30 s.
    ///
    /// The shorter it is, the sooner others continue after a crash, and the sooner a process that is
    /// paused, or cut off from its backend, loses what it has. It sets the driver's own options for
    /// this, whose names differ, and takes precedence over the URL. It has no effect where nothing
    /// ends by time, as with [`file` and `ipc`](crate::Characteristic::NonTimeoutBased): there
    /// the kernel frees at once what a dead process had.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tooz_core::Registry;
    /// # let registry = Registry::new().with(tooz_memory::DRIVER)?;
    /// let builder = registry.builder("memory://docs-time-to-live", "host-1")?;
    /// let coordinator = builder.time_to_live(Duration::from_secs(5)).build()?;
    /// # Ok::<(), tooz_core::Error>(())
    /// ```
    pub fn time_to_live(mut self, time: Duration) -> Self {
        for option in self.entry.time_to_live {
            self = self.option(*option, time.as_secs_f64().to_string());
        }
        self
    }

    /// How long at most a stop waits until every guard, term and partition of this coordinator is
    /// dropped. 5 s by default, which leaves time for the rest where a container is killed after
    /// 10 s. What is not dropped by then is released even so, and the next holder may work beside
    /// one that has not finished.
    ///
    /// A guard in the same scope that awaits the stop is never dropped before it: drop or release it
    /// first.
    pub fn stop_grace(mut self, grace: Duration) -> Self {
        self.settings.stop_grace = grace;
        self
    }

    /// Whether this member joins again when somebody [removes](Coordinator::remove_member) it from a
    /// group. It does by default; if it does not, the session's events report
    /// [`SessionEvent::Removed`](crate::SessionEvent::Removed).
    pub fn rejoin_when_removed(mut self, rejoin: bool) -> Self {
        self.settings.rejoin_when_removed = rejoin;
        self
    }

    /// Adds this to every fencing token; 0 by default, at most 2⁶². The URL's option
    /// `fencing_offset` does the same.
    ///
    /// Tokens only rise within one backend. If you move to another backend, restore one from a
    /// backup or recreate one, raise the offset of all members above the highest token that the
    /// protected resource has seen; otherwise the resource refuses every write from then on.
    pub fn fencing_offset(mut self, offset: u64) -> Self {
        self.settings.fencing_offset = offset;
        self
    }

    /// The pauses between attempts.
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.settings.retry = retry;
        self
    }

    /// Sets an option of the driver. It replaces the URL's options of the same name; a second call
    /// with the same name adds a value.
    pub fn option(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.push((name.into(), value.into()));
        self
    }

    /// Makes the coordinator and starts it.
    ///
    /// # Errors
    /// Those of [`build`](Self::build) and of [`Coordinator::start`].
    ///
    /// # Cancellation
    /// A dropped call stops what it has started.
    ///
    /// ```
    /// # tooz_core::blocking::block_on(async {
    /// # let registry = tooz_core::Registry::new().with(tooz_memory::DRIVER)?;
    /// let coordinator = registry.builder("memory://docs-connect", "host-1")?.connect().await?;
    /// coordinator.stop().await?;
    /// # Ok::<(), tooz_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn connect(self) -> Result<Coordinator> {
        let coordinator = self.build()?;
        coordinator.start().await?;
        Ok(coordinator)
    }

    /// Makes the coordinator. Nothing is connected yet.
    ///
    /// # Errors
    /// - [`ErrorKind::DriverChosenPoorly`], naming the required characteristics and features that
    ///   the driver lacks.
    /// - [`ErrorKind::InvalidInput`] for an unknown or malformed option.
    pub fn build(self) -> Result<Coordinator> {
        let characteristics = self.settings.required.without(self.entry.characteristics);
        let features = self.features.without(self.entry.features);
        if !characteristics.is_empty() || !features.is_empty() {
            let missing: Vec<_> = characteristics
                .iter()
                .map(|c| c.name())
                .chain(features.iter().map(|f| f.name()))
                .collect();
            return Err(Error::new(
                ErrorKind::DriverChosenPoorly,
                format!("the driver does not ensure: {}", missing.join(", ")),
            )
            .on(self.entry.name));
        }
        let mut options = Options::with_overrides(&self.url, self.options);
        let mut settings = self.settings;
        if let Some(offset) =
            options.parse("fencing_offset", WHAT_OFFSET).map_err(|e| e.on(self.entry.name))?
        {
            settings.fencing_offset = offset;
        }
        if settings.fencing_offset > MAX_OFFSET {
            let error = Error::invalid(format!("the fencing_offset must be {WHAT_OFFSET}"));
            return Err(error.on(self.entry.name));
        }
        let driver = (self.entry.open)(&self.url, options).map_err(|e| e.on(self.entry.name))?;
        let engine = Engine::of(&self.entry)?;
        let hosts: Vec<_> = self.url.hosts().iter().map(ToString::to_string).collect();
        let (hosts, path) = (hosts.join(","), self.url.path().to_owned());
        let address = Address { hosts, path };
        let supervisor =
            Supervisor::new(engine, self.entry, driver, address, self.member, settings);
        Ok(Coordinator::new(Arc::new(supervisor)))
    }
}
