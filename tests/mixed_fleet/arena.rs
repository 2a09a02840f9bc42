//! Where a case happens: a row's backend, and the peers that the case starts there.

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use uuid::Uuid;

use super::peer::{Outcome, Peer, Side, command};
use super::rows::Row;
use super::worker::WRONG_KEYS;

/// How thorough a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Short,
    Full,
}

impl Form {
    /// How long processes contend for a lock.
    pub(crate) fn contention(self) -> Duration {
        Duration::from_secs(if self == Self::Full { 20 } else { 4 })
    }
}

/// One case's place.
pub(crate) struct Arena {
    pub(crate) row: Row,
    pub(crate) form: Form,
    /// For the side record, and `file://`.
    pub(crate) folder: TempDir,
    server: String,
    python: PathBuf,
    /// Whether our side spells its keys wrongly.
    wrong_keys: bool,
}

/// The times to live of a case's coordinators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Times {
    Short,
    Default,
}

impl Arena {
    pub(crate) fn new(row: Row, form: Form, wrong_keys: bool) -> Outcome<Self> {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let server = match row.setup.name {
            "file" => format!("file://{}/store", folder.path().display()),
            "ipc" => "ipc://".to_owned(),
            served => tooz_testkit::server_url(served).map_err(|e| e.to_string())?,
        };
        let variable = row.python.variable();
        let python = std::env::var_os(variable).ok_or(format!("{variable} is not set"))?;
        Ok(Self { row, form, folder, server, python: python.into(), wrong_keys })
    }

    /// A name that nobody else uses.
    pub(crate) fn name(&self, what: &str) -> String {
        let id = Uuid::new_v4().simple().to_string();
        format!("{what}-{}", &id[..8])
    }

    /// A time that nothing lives through which nobody renews.
    pub(crate) fn outliving(&self, times: Times) -> Duration {
        let ttl = match times {
            Times::Short => self.row.short_ttl,
            Times::Default => self.row.default_ttl,
        };
        ttl.unwrap_or_default() * 3 / 2 + Duration::from_secs(1)
    }

    fn url(&self, side: Side, times: Times) -> String {
        let short = if times == Times::Short { self.row.short } else { "" };
        let ours = if side == Side::Rust { self.row.ours } else { "" };
        let mut url = self.server.clone();
        for options in [short, ours].into_iter().filter(|options| !options.is_empty()) {
            url.push(if url.contains('?') { '&' } else { '?' });
            url.push_str(options);
        }
        url
    }

    /// A peer with short times to live whose coordinator is started.
    pub(crate) fn peer(&self, side: Side) -> Outcome<Peer> {
        self.peer_with(side, Times::Short)
    }

    pub(crate) fn peer_with(&self, side: Side, times: Times) -> Outcome<Peer> {
        let mut peers = self.peers(&[side], times)?;
        Ok(peers.remove(0))
    }

    /// One of ours and one of the original.
    pub(crate) fn both(&self, times: Times) -> Outcome<(Peer, Peer)> {
        let mut peers = self.peers(&Side::BOTH, times)?;
        let python = peers.remove(1);
        Ok((peers.remove(0), python))
    }

    /// Several peers, which start at the same time.
    pub(crate) fn peers(&self, sides: &[Side], times: Times) -> Outcome<Vec<Peer>> {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("mixed_fleet/peer.py");
        let mut peers = Vec::new();
        for side in sides {
            let mut command = command(*side, self.row.setup.name, &self.python, &script);
            if self.wrong_keys {
                command.env(WRONG_KEYS, "1");
            }
            let member = self.name(&format!("{side:?}").to_lowercase());
            let mut peer = Peer::spawn(*side, &mut command, member)?;
            peer.begin_start(&self.url(*side, times))?;
            peers.push(peer);
        }
        for peer in &mut peers {
            peer.end_start()?;
        }
        Ok(peers)
    }
}
