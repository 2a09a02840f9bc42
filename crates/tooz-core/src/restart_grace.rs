//! How long a server that restarted without its data must grant nothing.

use std::time::Duration;

use crate::{Moment, Options, Result};

/// The time after a server's start in which nothing may be granted, because the server may have
/// forgotten what it granted before: a holder that was cut off learns of it at its local deadline,
/// which is less than a TTL after the restart.
///
/// Only for servers that may have forgotten. A driver whose server can tell that it still has
/// everything, or that nobody ever used it, does not need to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartGrace(Duration);

impl RestartGrace {
    /// Reads the option `restart_grace`: seconds, 0 for none; `default` without it, which is the
    /// TTL if a restart can lose data. If members have different TTLs, all need the longest of them.
    pub fn read(options: &mut Options, default: Duration) -> Result<Self> {
        options.seconds_or_zero("restart_grace", default).map(Self)
    }

    /// Until when nothing may be granted by a server that says it has been up for `uptime`, in an
    /// answer that came at `answered`; `None` if that is past.
    pub fn until(self, uptime: Duration, answered: Moment) -> Option<Moment> {
        let left = self.0.checked_sub(uptime).filter(|left| !left.is_zero())?;
        Some(answered + left)
    }

    /// The same for a server that counts whole seconds. It subtracts two readings of its clock, so it
    /// may have been up for almost a second less than it says.
    pub fn until_by_seconds(self, uptime: u64, answered: Moment) -> Option<Moment> {
        self.until(Duration::from_secs(uptime.saturating_sub(1)), answered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CoordinatorUrl;

    fn grace(query: &str) -> RestartGrace {
        let url: CoordinatorUrl = format!("redis://h?{query}").parse().unwrap();
        RestartGrace::read(&mut Options::of(&url), Duration::from_secs(30)).unwrap()
    }

    #[test]
    fn it_lasts_until_the_server_is_old_enough() {
        let now = Moment::now();
        let grace = grace("");
        let left = |uptime| grace.until(Duration::from_secs(uptime), now);
        assert_eq!(left(0), Some(now + Duration::from_secs(30)));
        assert_eq!(left(29), Some(now + Duration::from_secs(1)));
        assert_eq!((left(30), left(u64::MAX)), (None, None));
    }

    #[test]
    fn whole_seconds_may_be_one_too_many() {
        let now = Moment::now();
        let left = |uptime| grace("").until_by_seconds(uptime, now);
        assert_eq!((left(0), left(1)), (Some(now + Duration::from_secs(30)), left(0)));
        assert_eq!(left(30), Some(now + Duration::from_secs(1)));
        assert_eq!(left(31), None);
    }

    #[test]
    fn it_can_be_set_and_switched_off() {
        let now = Moment::now();
        let set = grace("restart_grace=2.5").until(Duration::from_secs(1), now);
        assert_eq!(set, Some(now + Duration::from_millis(1500)));
        assert_eq!(grace("restart_grace=0").until(Duration::ZERO, now), None);
    }
}
