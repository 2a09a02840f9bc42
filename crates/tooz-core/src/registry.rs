//! From a scheme to its driver.

use std::collections::BTreeMap;

use crate::{Builder, CoordinatorUrl, DriverEntry, Error, ErrorKind, MemberId, Result};

/// The drivers that URLs can choose from.
///
/// ```
/// use tooz_core::Registry;
///
/// let registry = Registry::new().with(tooz_memory::DRIVER)?;
/// let coordinator = registry.builder("memory://tests", "host-1")?.build()?;
/// assert_eq!(coordinator.member_id().as_str(), Some("host-1"));
///
/// let error = registry.builder("redsi://localhost", "host-1").unwrap_err();
/// assert_eq!(error.to_string(), "the scheme redsi is unknown; known are: memory, zake");
/// # Ok::<(), tooz_core::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Registry {
    drivers: BTreeMap<&'static str, DriverEntry>,
    /// Schemes whose driver was not built in, and the feature that would add it.
    missing: BTreeMap<&'static str, &'static str>,
}

impl Registry {
    /// A registry without drivers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a driver.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if one of its schemes is already taken.
    pub fn with(mut self, driver: DriverEntry) -> Result<Self> {
        for scheme in driver.schemes {
            if let Some(other) = self.drivers.insert(scheme, driver) {
                return Err(Error::invalid(format!(
                    "the drivers {} and {} both serve the scheme {scheme}",
                    other.name, driver.name
                )));
            }
        }
        Ok(self)
    }

    /// Names the feature that a scheme needs, for a better error than "unknown".
    #[must_use]
    pub fn with_missing(mut self, schemes: &[&'static str], feature: &'static str) -> Self {
        self.missing.extend(schemes.iter().map(|scheme| (*scheme, feature)));
        self
    }

    /// The drivers, each once, in the order of their names.
    pub fn drivers(&self) -> Vec<DriverEntry> {
        let by_name: BTreeMap<_, _> = self.drivers.values().map(|d| (d.name, *d)).collect();
        by_name.into_values().collect()
    }

    /// The driver of a scheme.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownScheme`], naming the known ones or the missing feature.
    pub fn driver(&self, scheme: &str) -> Result<DriverEntry> {
        if let Some(driver) = self.drivers.get(scheme) {
            return Ok(*driver);
        }
        let what = match self.missing.get(scheme) {
            Some(feature) => format!("the scheme {scheme} needs the feature {feature} of tooz"),
            None => {
                let known: Vec<_> = self.drivers.keys().copied().collect();
                let known = if known.is_empty() { "none".into() } else { known.join(", ") };
                format!("the scheme {scheme} is unknown; known are: {known}")
            }
        };
        Err(Error::new(ErrorKind::UnknownScheme, what))
    }

    /// Starts to build the coordinator of `member` over the backend that `url` names. Nothing is
    /// connected yet.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a malformed URL or an empty member id,
    /// [`ErrorKind::UnknownScheme`].
    pub fn builder(&self, url: &str, member: impl Into<MemberId>) -> Result<Builder> {
        let url: CoordinatorUrl = url.parse()?;
        let driver = self.driver(url.scheme())?;
        Ok(Builder::new(driver, url, member.into().checked()?))
    }
}
