//! What can be done to a setup's server, where the runner of the tests offers it.

use std::path::PathBuf;
#[cfg(unix)]
use std::time::Duration;

use tooz_core::{Error, ErrorKind, Result};

/// How long a server may take to do as it is told: a start of a JVM on a busy machine.
#[cfg(unix)]
const LIMIT: Duration = Duration::from_secs(60);

/// A server that can be harmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Control {
    socket: PathBuf,
}

impl Control {
    /// Where the environment says that the setup's server can be harmed.
    pub(crate) fn of(setup: &str) -> Option<Self> {
        std::env::var_os(variable(setup)).map(Self::at)
    }

    pub(crate) fn at(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Why a case that needs it is not run without.
    pub(crate) fn missing(setup: &str) -> String {
        format!("nobody offers to harm its server: {} is not set", variable(setup))
    }

    /// Halts it where it is: its connections stay, and nothing answers.
    pub(crate) async fn freeze(&self) -> Result<()> {
        self.tell("freeze").await
    }

    /// Kills it, with all that it had in memory.
    pub(crate) async fn kill(&self) -> Result<()> {
        self.tell("kill").await
    }

    /// Lets it go on, or starts it again with what it had on disk; returns when it serves.
    pub(crate) async fn start(&self) -> Result<()> {
        self.tell("start").await
    }

    async fn tell(&self, word: &'static str) -> Result<()> {
        let control = self.clone();
        let told = tokio::task::spawn_blocking(move || control.tell_blocking(word)).await;
        told.map_err(|_| Error::new(ErrorKind::Internal, "the runtime has ended"))?
    }

    fn tell_blocking(&self, word: &str) -> Result<()> {
        let failed = |why: &str| {
            Error::new(ErrorKind::Internal, format!("the server was told to {word}: {why}"))
        };
        match self.ask(word) {
            Ok(answer) if answer == "ok" => Ok(()),
            Ok(answer) => Err(failed(&answer)),
            Err(error) => Err(failed("no answer").caused_by(error)),
        }
    }

    #[cfg(unix)]
    fn ask(&self, word: &str) -> std::io::Result<String> {
        use std::io::{BufRead, BufReader, Write};

        let stream = std::os::unix::net::UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(LIMIT))?;
        writeln!(&stream, "{word}")?;
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer)?;
        Ok(answer.trim_end().to_owned())
    }

    #[cfg(not(unix))]
    fn ask(&self, _word: &str) -> std::io::Result<String> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

/// A server under harm. Whatever becomes of the case, the server serves again after it.
pub(crate) struct Harmed(pub(crate) Control);

impl Drop for Harmed {
    fn drop(&mut self) {
        // The case has failed already if this is needed; the next one says that it did not work.
        drop(self.0.tell_blocking("start"));
    }
}

fn variable(setup: &str) -> String {
    format!("TOOZ_TEST_CONTROL_{}", setup.to_uppercase().replace('-', "_"))
}
