//! Ctrl-C and its kin, as a flag that waiting loops look at.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use nix::sys::signal::Signal;

/// Remembers the last signal that asked this program to end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt {
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    /// Listens to SIGINT, SIGTERM and SIGHUP, for as long as the program runs.
    pub(crate) fn install() -> anyhow::Result<Self> {
        let interrupt = Self::default();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            let number = signal as i32;
            let value = usize::try_from(number).context("a signal's number is positive")?;
            signal_hook::flag::register_usize(number, Arc::clone(&interrupt.signal), value)
                .with_context(|| format!("cannot listen to {signal}"))?;
        }
        Ok(interrupt)
    }

    /// Fails once a signal has come. Every loop that waits calls this.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        match self.signal.load(Ordering::Relaxed) {
            0 => Ok(()),
            signal => Err(Interrupted { signal }.into()),
        }
    }
}

/// The error of work that a signal cut short.
#[derive(Debug)]
pub(crate) struct Interrupted {
    signal: usize,
}

impl Interrupted {
    /// 128 + the signal's number, as shells report it.
    pub(crate) fn exit_code(&self) -> u8 {
        u8::try_from(128 + self.signal).unwrap_or(u8::MAX)
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interrupted by signal {}", self.signal)
    }
}

impl std::error::Error for Interrupted {}
