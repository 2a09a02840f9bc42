//! The signals that this process gets, in order and with who sent them.

use std::fmt;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::origin::WithOrigin;
use signal_hook::low_level::siginfo::Cause;
use tokio::sync::mpsc;

/// Those that are passed on to a command. Job control (SIGTSTP and its kin) keeps its effect.
const HEARD: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// A signal that came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    pub(crate) signal: Signal,
    /// Sent by the kernel, on a key or a hang-up: to all of the terminal's foreground job.
    pub(crate) from_terminal: bool,
}

/// The signals that come from now on, instead of their default effect.
#[derive(Debug)]
pub(crate) struct Signals(mpsc::UnboundedReceiver<Received>);

impl Signals {
    /// Listens, for as long as the process runs.
    pub(crate) fn listen() -> Result<Self> {
        let numbers = HEARD.map(|signal| signal as i32);
        let mut origins =
            SignalsInfo::<WithOrigin>::new(numbers).context("cannot listen to signals")?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let listen = move || {
            for origin in &mut origins {
                let Ok(signal) = Signal::try_from(origin.signal) else { continue };
                let from_terminal = matches!(origin.cause, Cause::Kernel);
                if sender.send(Received { signal, from_terminal }).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("signals".into());
        thread.spawn(listen).context("cannot listen to signals")?;
        Ok(Self(receiver))
    }

    /// The next signal. Dropping the future loses none.
    pub(crate) async fn next(&mut self) -> Received {
        match self.0.recv().await {
            Some(received) => received,
            // The listening thread lives as long as the process.
            None => std::future::pending().await,
        }
    }

    /// Runs `work`, which a signal ends.
    pub(crate) async fn interrupt<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, Interrupted> {
        tokio::select! {
            done = work => Ok(done),
            received = self.next() => Err(Interrupted(received.signal)),
        }
    }
}

/// The error of what a signal ended.
#[derive(Debug)]
pub(crate) struct Interrupted(Signal);

impl Interrupted {
    pub(crate) fn exit_code(&self) -> u8 {
        exit_code(self.0)
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ended by {}", self.0)
    }
}

impl std::error::Error for Interrupted {}

/// 128 + n, as shells report it.
fn exit_code(signal: Signal) -> u8 {
    u8::try_from(128 + signal as i32).unwrap_or(u8::MAX)
}
