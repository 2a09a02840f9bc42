//! Which backend, as which member.

use std::ffi::{OsStr, OsString};
use std::fs::DirBuilder;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tooz::{Coordinator, MemberId, SessionEvent};

use crate::output;

/// The options that say which backend, and as whom.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Target {
    /// The backend [default: file:// in the user's runtime directory, or else in one of the
    /// user's own in the temporary directory]
    #[arg(long, env = "TOOZ_URL", global = true, value_name = "URL", hide_env_values = true)]
    pub(crate) url: Option<String>,

    /// The member id [default: host name and process id]
    #[arg(long, env = "TOOZ_MEMBER", global = true, value_name = "ID")]
    member: Option<OsString>,
}

impl Target {
    /// The URL: that of the user, or the default one, whose directory is made.
    pub(crate) fn url(&self) -> Result<String> {
        match self.chosen_url() {
            Some(url) => Ok(url.to_owned()),
            None => file_url(&default_directory()?),
        }
    }

    /// The URL that the user chose.
    pub(crate) fn chosen_url(&self) -> Option<&str> {
        self.url.as_deref().filter(|url| !url.is_empty())
    }

    /// The member id: that of the user, or host name and process id.
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

    /// Runs `work` on a started coordinator, and stops it whatever comes out.
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

/// How long a stop may take while the backend is in trouble: what was held is given back by then, or
/// ends by itself.
const SHORT_STOP: Duration = Duration::from_millis(500);

/// Stops a coordinator. What goes wrong is said, and changes no exit code: the work is done.
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
            "{} does not hear the goodbye: what it has of this member ends with its time to live",
            backend(coordinator)
        )),
    }
}

/// Takes an error of the backend for trouble: a stop is not worth a long wait then.
pub(crate) fn expect_trouble(error: &tooz::Error) {
    TROUBLE.fetch_or(error.is_retryable(), Relaxed);
}

/// The backend, for people: the driver and where.
fn backend(coordinator: &Coordinator) -> String {
    format!("{} at {}", coordinator.driver(), coordinator.address())
}

/// Says on standard error what happens to a session, for commands that run long.
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

/// How long a wait is too short to be told.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Waits for `what`, and says so on standard error if it takes a while.
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
    output::note(&format!("waits for {what} on {} since {began}", backend(coordinator)));
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
        // The path of a URL is never decoded, so there is no way to write these.
        Some(path) if !path.contains(['?', '#']) => Ok(format!("file://{path}")),
        _ => bail!("no URL can name the directory {}; choose one with --url", directory.display()),
    }
}

/// The user's own directory, made if it is not there.
fn default_directory() -> Result<PathBuf> {
    let directory = match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        Some(runtime) => Path::new(&runtime).join("tooz"),
        None => std::env::temp_dir().join(format!("tooz-{}", nix::unistd::geteuid())),
    };
    make_private(&directory)
        .with_context(|| format!("cannot use {}; choose a URL with --url", directory.display()))?;
    Ok(directory)
}

/// Makes a directory that is only this user's, or checks that it is. In a temporary directory
/// somebody else may have been there first.
fn make_private(directory: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let found = std::fs::symlink_metadata(directory)?;
    if !found.is_dir() {
        bail!("it is not a directory");
    }
    if found.uid() != nix::unistd::geteuid().as_raw() {
        bail!("it belongs to another user");
    }
    if found.mode() & 0o077 != 0 {
        bail!("other users have access to it; chmod it to 700");
    }
    Ok(())
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
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_private_directory_is_private() {
        let temp = tempfile::tempdir().unwrap();
        let own = temp.path().join("own");
        make_private(&own).unwrap();
        make_private(&own).unwrap();
        assert_eq!(own.metadata().unwrap().mode() & 0o777, 0o700);

        std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(make_private(&own).unwrap_err().to_string().contains("chmod"));
        let link = temp.path().join("link");
        std::os::unix::fs::symlink("own", &link).unwrap();
        assert!(make_private(&link).unwrap_err().to_string().contains("not a directory"));
    }

    #[test]
    fn a_directory_that_no_url_can_name_is_refused() {
        assert_eq!(file_url(Path::new("/run/a b")).unwrap(), "file:///run/a b");
        assert!(file_url(Path::new("/run/a?b")).is_err());
        assert!(file_url(Path::new(OsStr::from_bytes(b"/run/\xff"))).is_err());
    }
}
