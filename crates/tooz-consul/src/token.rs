//! The token, which may be in a file that somebody changes.

use std::fmt;
use std::sync::{Arc, Mutex};

use tooz_core::kit::locked;
use tooz_core::{Error, Result, Secret};
use tracing::debug;

/// Clones share what was read last.
#[derive(Clone)]
pub(crate) struct Token(Arc<Inner>);

struct Inner {
    path: Option<String>,
    current: Mutex<Secret>,
}

impl Token {
    pub(crate) fn new(token: Secret) -> Self {
        Self(Arc::new(Inner { path: None, current: Mutex::new(token) }))
    }

    /// What stands in a file.
    pub(crate) fn of_file(path: String) -> Result<Self> {
        let current = Mutex::new(read(&path)?);
        Ok(Self(Arc::new(Inner { path: Some(path), current })))
    }

    pub(crate) fn current(&self) -> Secret {
        locked(&self.0.current).clone()
    }

    /// Reads the file again; whether there is another token now than the one that was refused.
    pub(crate) async fn reread(&self, refused: &Secret) -> bool {
        let Some(path) = self.0.path.clone() else { return false };
        if self.current() != *refused {
            // Somebody else was refused too, and has read it.
            return true;
        }
        // Files may be on a slow disk.
        match tokio::task::spawn_blocking(move || read(&path)).await {
            Ok(Ok(new)) => *locked(&self.0.current) = new,
            // What the server said is the better error.
            Ok(Err(error)) => debug!(%error, "the old token stays in use"),
            Err(error) => debug!(%error, "the old token stays in use"),
        }
        self.current() != *refused
    }
}

fn read(path: &str) -> Result<Secret> {
    let token = std::fs::read_to_string(path).map_err(|e| {
        Error::invalid("the file of the token cannot be read").with("path", path).caused_by(e)
    })?;
    Ok(Secret::new(token.trim()))
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.0.path == other.0.path && (self.0.path.is_some() || self.current() == other.current())
    }
}

/// The header's name, which says enough.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("x-consul-token")
    }
}
