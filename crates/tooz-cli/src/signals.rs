//! The signals that this process gets, and which of them CMD got too.
//!
//! # Who else got it
//!
//! A key of the terminal, a shell's `kill %1`, a service manager that signals a whole control group
//! (systemd's `KillMode=control-group`, the default): all these reach CMD as well, and it must not
//! get the signal twice. `kill PID` reaches only one process, and must be passed on. The sender does
//! not help: a service manager may do either. But our front and our holder (see [`crate::front`]) are
//! two processes of the same job, so a signal that both get within [`TWIN`] was sent to all.
//!
//! # What is ignored
//!
//! A signal that was ignored when we started stays ignored, and CMD inherits that: `nohup`,
//! `trap ''` and a script's `&` rely on it. Only Linux tells what was ignored.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout_at};

use crate::output;

/// The signals that are passed on to CMD. Job control is up to the kernel and the shell.
const HEARD: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// How far apart a signal to a whole job may reach two of its processes. systemd signals the main
/// process, then reads the list of the others: less than a millisecond on an idle machine.
const TWIN: Duration = Duration::from_millis(100);

/// Listens to the signals that were not ignored, and to `more` in any case.
pub(crate) fn hook(more: &[Signal]) -> Result<signal_hook::iterator::Signals> {
    let ignored = ignored();
    let heard = HEARD.iter().filter(|signal| ignored & bit(**signal) == 0);
    let numbers = heard.chain(more).map(|signal| *signal as i32);
    // These must come even if they were blocked.
    more.iter().copied().collect::<SigSet>().thread_unblock().context("cannot unblock signals")?;
    signal_hook::iterator::Signals::new(numbers).context("cannot listen to signals")
}

/// The signals that are ignored, as a mask.
fn ignored() -> u64 {
    // Without such a file, none is known.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn bit(signal: Signal) -> u64 {
    1 << (signal as i32 - 1)
}

/// A signal that came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    pub(crate) signal: Signal,
    /// It was sent to more than one process of the job, and so to all of them.
    pub(crate) to_all: bool,
}

/// Through which of our processes a signal came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Front,
    Holder,
}

/// The signals that come from now on, instead of their default effect.
#[derive(Debug)]
pub(crate) struct Signals {
    received: UnboundedReceiver<Received>,
    /// A signal has asked for the end.
    asked: bool,
    /// Another one has asked for it now.
    at_once: Option<Signal>,
}

impl Signals {
    /// Listens for as long as the process runs; a holder listens to its front's signals too.
    pub(crate) fn listen(front: Option<File>) -> Result<Self> {
        let (sender, heard) = unbounded_channel();
        let (merged, received) = unbounded_channel();
        tokio::spawn(merge(heard, merged, front.is_some()));
        if let Some(mut pipe) = front {
            let sender = sender.clone();
            spawn(move || {
                let mut byte = [0];
                while pipe.read_exact(&mut byte).is_ok() {
                    let _ = sender.send((i32::from(byte[0]), Way::Front));
                }
                // The front is dead. If that did not kill us, we end in order.
                let _ = sender.send((Signal::SIGTERM as i32, Way::Front));
            })?;
        }
        let mut own = hook(&[])?;
        spawn(move || {
            let _ = own.forever().try_for_each(|number| sender.send((number, Way::Holder)));
        })?;
        Ok(Self { received, asked: false, at_once: None })
    }

    /// The next signal. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Received {
        let Some(received) = self.received.recv().await else {
            // The listening threads live as long as the process.
            return std::future::pending().await;
        };
        // To many daemons SIGHUP means to read their configuration again.
        self.asked |= matches!(received.signal, Signal::SIGINT | Signal::SIGTERM | Signal::SIGQUIT);
        received
    }

    /// Whether a signal has asked for the end.
    pub(crate) fn have_asked(&self) -> bool {
        self.asked
    }

    /// Runs `work` until it is done or a signal ends it.
    pub(crate) async fn interrupt<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, Interrupted> {
        tokio::select! {
            done = work => Ok(done),
            received = self.next() => {
                self.asked = true;
                Err(Interrupted(received.signal))
            }
        }
    }

    /// Runs a part of an orderly end. The first signal asks for just that, so it changes nothing;
    /// the second ends it at once, with everything that would follow.
    pub(crate) async fn end<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Interrupted> {
        let mut work = pin!(work);
        loop {
            if let Some(signal) = self.at_once {
                return Err(Interrupted(signal));
            }
            let asked = self.asked;
            tokio::select! {
                done = &mut work => return Ok(done),
                Received { signal, .. } = self.next() => if asked {
                    self.at_once = Some(signal);
                    output::note(&format!(
                        "ended at once by {signal}: what was held here may stay held until its time \
                         to live is over"
                    ));
                } else {
                    self.asked = true;
                    output::note(&format!("{signal}: already ending; another one ends it at once"));
                }
            }
        }
    }
}

fn spawn(listen: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = std::thread::Builder::new().name("signals".into());
    thread.spawn(listen).context("cannot listen to signals")?;
    Ok(())
}

/// Merges a signal that came both ways. If there is only one way, it waits for nothing.
async fn merge(
    mut heard: UnboundedReceiver<(i32, Way)>,
    merged: UnboundedSender<Received>,
    both_ways: bool,
) {
    // A signal that came while another one's twin was awaited.
    let mut early = VecDeque::new();
    loop {
        let first = match early.pop_front() {
            Some(first) => Some(first),
            None => heard.recv().await,
        };
        let Some((number, way)) = first else { return };
        let is_twin = |other: &(i32, Way)| other.0 == number && other.1 != way;
        let deadline = Instant::now() + TWIN;
        let to_all = match early.iter().position(is_twin) {
            Some(twin) => early.remove(twin).is_some(),
            None if !both_ways => false,
            None => loop {
                match timeout_at(deadline, heard.recv()).await {
                    Ok(Some(other)) if is_twin(&other) => break true,
                    Ok(Some(other)) => early.push_back(other),
                    Ok(None) | Err(_) => break false,
                }
            },
        };
        let Ok(signal) = Signal::try_from(number) else { continue };
        if merged.send(Received { signal, to_all }).is_err() {
            return;
        }
    }
}

/// The error of a command that a signal ended.
#[derive(Debug)]
pub(crate) struct Interrupted(pub(crate) Signal);

impl Interrupted {
    /// Dies of that signal, so that a shell ends its loop or its script too. If that is not
    /// possible, returns 128 + n, as a shell would.
    pub(crate) fn die(&self) -> u8 {
        // The kernel spares process 1.
        if std::process::id() != 1 {
            // A core dump would be of the wrong process. If this fails, there will be one.
            let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
            #[cfg(target_os = "linux")]
            let _ = nix::sys::prctl::set_dumpable(false);
            // It fails for a signal that the library does not know.
            let _ = signal_hook::low_level::emulate_default_handler(self.0 as i32);
        }
        u8::try_from(128 + self.0 as i32).unwrap_or(u8::MAX)
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ended by {}", self.0)
    }
}

impl std::error::Error for Interrupted {}
