//! What the coordinators of this process tell each other, because the server tells nobody.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, watch};
use tooz_core::kit::{locked, random_part};

/// A key on a server, as those of this process see it that care about it.
#[derive(Debug)]
pub(crate) struct Cell {
    name: Name,
    /// Rises with each change that this process makes.
    changes: watch::Sender<u64>,
    /// Its owner may contend for the lock; the others wait in the order of their arrival.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Whether other processes were seen to wait for the lock.
    contended: AtomicBool,
}

pub(crate) type Turn = OwnedMutexGuard<()>;

type Name = (String, Vec<u8>);

static CELLS: LazyLock<Mutex<HashMap<Name, Weak<Cell>>>> = LazyLock::new(Mutex::default);

fn cells() -> MutexGuard<'static, HashMap<Name, Weak<Cell>>> {
    locked(&CELLS)
}

/// The cell of a key.
pub(crate) fn cell(server: &str, key: &[u8]) -> Arc<Cell> {
    let name = (server.to_owned(), key.to_vec());
    let mut cells = cells();
    if let Some(cell) = cells.get(&name).and_then(Weak::upgrade) {
        return cell;
    }
    let cell = Arc::new(Cell {
        name: name.clone(),
        changes: watch::Sender::new(0),
        turn: Arc::default(),
        contended: AtomicBool::new(false),
    });
    cells.insert(name, Arc::downgrade(&cell));
    cell
}

/// Tells whoever cares about the key that it has changed.
pub(crate) fn changed(server: &str, key: &[u8]) {
    let cell = cells().get(&(server.to_owned(), key.to_vec())).and_then(Weak::upgrade);
    if let Some(cell) = cell {
        cell.changes.send_modify(|count| *count += 1);
    }
}

/// The sessions of this process, whose changes are told.
static SESSIONS: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);

pub(crate) fn add_session(id: &str) {
    locked(&SESSIONS).insert(id.to_owned());
}

pub(crate) fn remove_session(id: &str) {
    locked(&SESSIONS).remove(id);
}

pub(crate) fn has_session(id: &str) -> bool {
    locked(&SESSIONS).contains(id)
}

impl Cell {
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) async fn turn(&self) -> Turn {
        self.turn.clone().lock_owned().await
    }

    pub(crate) fn is_contended(&self) -> bool {
        self.contended.load(Relaxed)
    }

    pub(crate) fn set_contended(&self, contended: bool) {
        self.contended.store(contended, Relaxed);
    }
}

/// The longest pause between two looks of a watch.
const PAUSE: Duration = Duration::from_millis(250);

/// Waits for the next look of a watch: at once after a change of this process, and in time for one of
/// another.
pub(crate) async fn next_look(mut changes: watch::Receiver<u64>) {
    tokio::select! {
        // The cell lives in the caller: the wait cannot fail.
        _ = changes.changed() => {}
        () = tokio::time::sleep(PAUSE * 3 / 4 + random_part(PAUSE / 4)) => {}
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        let mut cells = cells();
        // There may be another one meanwhile.
        if cells.get(&self.name).is_some_and(|cell| cell.strong_count() == 0) {
            cells.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_cell_as_long_as_somebody_cares() {
        let one = cell("test", b"k");
        let changes = one.changes();
        assert!(Arc::ptr_eq(&one, &cell("test", b"k")));
        assert!(!Arc::ptr_eq(&one, &cell("other", b"k")));
        changed("test", b"k");
        assert!(changes.has_changed().unwrap());
        drop(one);
        assert!(!cells().contains_key(&("test".to_owned(), b"k".to_vec())));
    }
}
