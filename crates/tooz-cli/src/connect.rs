//! Which backend to use, and as which member.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tooz::{Coordinator, MemberId, SessionEvent};

use crate::{output, store, url};

/// The options that choose the backend and the member.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Target {
    /// The backend [default: file:// in ~/.local/state/tooz, only for this user and host]
    ///
    /// Every user of the host can see a password in it: it is better to set TOOZ_URL, or to use
    /// --url-file.
    #[arg(long, env = "TOOZ_URL", global = true, value_name = "URL", hide_env_values = true)]
    pub(crate) url: Option<String>,

    /// Reads the URL from the first line of a file
    #[arg(long, global = true, value_name = "FILE")]
    url_file: Option<PathBuf>,

    /// The member id [default: host name and process id]
    #[arg(long, env = "TOOZ_MEMBER", global = true, value_name = "ID")]
    member: Option<OsString>,
}

impl Target {
    /// Reads the URL's file, and checks how the URL was given. Before everything else, and once.
    pub(crate) fn settle(&mut self) -> Result<()> {
        if let Some(file) = &self.url_file {
            url::check_alone(self.chosen_url())?;
            self.url = Some(url::read(file)?);
            return Ok(());
        }
        self.chosen_url().map_or(Ok(()), url::check)
    }

    /// The URL: the user's, or the default one, whose directory is created.
    pub(crate) fn url(&self) -> Result<String> {
        match self.chosen_url() {
            Some(url) => Ok(url.to_owned()),
            None => file_url(&store::directory()?),
        }
    }

    /// The URL for CMD's environment.
    pub(crate) fn url_for_command(&self, pass: bool) -> Result<String> {
        Ok(url::for_command(self.url()?, pass))
    }

    /// Says where a lock or a term is, if the user did not.
    pub(crate) fn name_default(&self) -> Result<()> {
        if self.chosen_url().is_none() {
            let url = self.url()?;
            output::note(&format!("no --url given: using {url}, only for this user on this host"));
        }
        Ok(())
    }

    /// The URL that the user chose.
    pub(crate) fn chosen_url(&self) -> Option<&str> {
        self.url.as_deref().filter(|url| !url.is_empty())
    }

    /// The member id: the user's choice, or host name and process id.
    pub(crate) fn member(&self) -> Result<MemberId> {
        if let Some(member) = self.member.as_deref().filter(|member| !member.is_empty()) {
            return Ok(member.as_bytes().into());
        }
        let mut member = nix::unistd::gethostname().context("the host has no name")?.into_vec();
        member.extend(format!("-{}", std::process::id()).into_bytes());
        Ok(member.into())
    }

    /// A coordinator, not started.
    pub(crate) fn coordinator(&self) -> Result<Coordinator> {
        Ok(tooz::get_coordinator(&self.url()?, self.member()?)?)
    }

    /// Runs `work` on a started coordinator, and stops the coordinator whatever comes out.
    pub(crate) async fn with<T>(
        &self,
        work: impl AsyncFnOnce(&Coordinator) -> Result<T>,
    ) -> Result<T> {
        let coordinator = self.coordinator()?;
        coordinator.start().await?;
        let result = work(&coordinator).await;
        stop(&coordinator).await;
        result
    }
}

/// The backend is in trouble, as far as is known.
static TROUBLE: AtomicBool = AtomicBool::new(false);

/// How long a stop may take while the backend is in trouble: what was held is released by then, or
/// ends by itself.
const SHORT_STOP: Duration = Duration::from_millis(500);

/// Stops a coordinator. A failure is reported, but does not change the exit code: the work is done.
pub(crate) async fn stop(coordinator: &Coordinator) {
    let in_vain = async {
        tokio::time::sleep(SHORT_STOP).await;
        while !TROUBLE.load(Relaxed) {
            tokio::time::sleep(SHORT_STOP).await;
        }
    };
    tokio::select! {
        stopped = coordinator.stop() => if let Err(error) = stopped {
            output::note(&output::chain(&error));
        },
        () = in_vain => output::note(&format!(
            "{} did not confirm the stop: what this member still has there ends with its time to live",
            backend(coordinator)
        )),
    }
}

/// Counts an error of the backend as trouble: then a stop is not worth a long wait.
pub(crate) fn expect_trouble(error: &tooz::Error) {
    TROUBLE.fetch_or(error.is_retryable(), Relaxed);
}

/// The backend, for people: the driver and the address.
fn backend(coordinator: &Coordinator) -> String {
    format!("{} at {}", coordinator.driver(), coordinator.address())
}

/// Reports on standard error what happens to a session, for commands that run long.
pub(crate) fn report_session(coordinator: &Coordinator) {
    let (mut events, backend) = (coordinator.session_events(), backend(coordinator));
    tokio::spawn(async move {
        // When the trouble began, by the clock and by the counter.
        let mut since: Option<(String, Instant)> = None;
        while let Some(event) = events.next().await {
            let (began, counting) =
                since.get_or_insert_with(|| (output::now(), Instant::now())).clone();
            let lasted = format!("{:.1} s", counting.elapsed().as_secs_f64());
            match event {
                SessionEvent::Suspended => {
                    TROUBLE.store(true, Relaxed);
                    output::note(&format!("{backend} has been out of reach since {began}"));
                }
                SessionEvent::Resumed => {
                    TROUBLE.store(false, Relaxed);
                    output::note(&format!("{backend} is well again, after {lasted}"));
                    since = None;
                }
                SessionEvent::Lost(loss) => output::note(&format!(
                    "the session with {backend} was lost at {}: {loss}",
                    output::now()
                )),
                SessionEvent::Rejoined(_) => {
                    TROUBLE.store(false, Relaxed);
                    output::note(&format!("there is a new session with {backend}, after {lasted}"));
                    since = None;
                }
                _ => since = None,
            }
        }
    });
}

/// A wait shorter than this is not reported.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Waits for `what`, and reports that on standard error if it takes a while.
pub(crate) async fn tell_of_wait<T>(
    coordinator: &Coordinator,
    what: &str,
    work: impl Future<Output = T>,
) -> T {
    let (began, counting) = (output::now(), Instant::now());
    let mut work = std::pin::pin!(work);
    if let Ok(done) = tokio::time::timeout(AT_ONCE, &mut work).await {
        return done;
    }
    output::note(&format!("waiting for {what} on {} since {began}", backend(coordinator)));
    let done = work.await;
    output::note(&format!(
        "the wait for {what} is over, after {:.1} s",
        counting.elapsed().as_secs_f64()
    ));
    done
}

/// The `file://` URL of a directory.
pub(crate) fn file_url(directory: &Path) -> Result<String> {
    match directory.to_str() {
        // A URL's path is never decoded, so there is no way to write these.
        Some(path) if !path.contains(['?', '#']) => Ok(format!("file://{path}")),
        _ => bail!("no URL can name the directory {}; choose one with --url", directory.display()),
    }
}

/// The bytes of an argument: names are bytes, as file names are.
pub(crate) fn bytes(argument: &OsStr) -> &[u8] {
    argument.as_bytes()
}

/// The reverse: an id as the value of an environment variable.
pub(crate) fn argument(id: &MemberId) -> OsString {
    OsStr::from_bytes(id.as_bytes()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_no_url_can_name_is_refused() {
        assert_eq!(file_url(Path::new("/run/a b")).unwrap(), "file:///run/a b");
        assert!(file_url(Path::new("/run/a?b")).is_err());
        assert!(file_url(Path::new(OsStr::from_bytes(b"/run/\xff"))).is_err());
    }
}
