//! What the coordinators of this process tell each other, because the server tells nobody.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{OwnedMutexGuard, watch};

/// A key on a server, to those of this process who care about it.
#[derive(Debug)]
pub(crate) struct Cell {
    name: Name,
    /// Rises with each change that this process makes.
    changes: watch::Sender<u64>,
    /// Whoever has it may contend for the lock; the others wait in the order of their arrival.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Whether other processes were seen to wait for the lock.
    contended: AtomicBool,
}

pub(crate) type Turn = OwnedMutexGuard<()>;

type Name = (String, Vec<u8>);

static CELLS: LazyLock<Mutex<HashMap<Name, Weak<Cell>>>> = LazyLock::new(Mutex::default);

fn cells() -> MutexGuard<'static, HashMap<Name, Weak<Cell>>> {
    // Nothing panics while it is locked, so it is whole even if poisoned.
    CELLS.lock().unwrap_or_else(PoisonError::into_inner)
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

fn sessions() -> MutexGuard<'static, HashSet<String>> {
    SESSIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn add_session(id: &str) {
    sessions().insert(id.to_owned());
}

pub(crate) fn remove_session(id: &str) {
    sessions().remove(id);
}

pub(crate) fn has_session(id: &str) -> bool {
    sessions().contains(id)
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

impl Drop for Cell {
    fn drop(&mut self) {
        let mut cells = cells();
        // Another may have taken its place meanwhile.
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
