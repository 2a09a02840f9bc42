use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::Mutex;

use super::locked;

/// What a session has, by its key: its holds, its memberships, its waiters.
///
/// No lock is held once a call has returned, so any method of what it returned may be called.
pub struct Table<K, V>(Mutex<HashMap<K, V>>);

impl<K: Clone + Eq + Hash, V: Clone> Table<K, V> {
    /// Inserts an entry; returns the previous one.
    pub fn insert(&self, key: K, value: V) -> Option<V> {
        locked(&self.0).insert(key, value)
    }

    /// Removes an entry.
    pub fn remove(&self, key: &K) -> Option<V> {
        locked(&self.0).remove(key)
    }

    /// Removes an entry if it is still the one that is meant.
    pub fn remove_if(&self, key: &K, is_meant: impl FnOnce(&V) -> bool) -> Option<V> {
        let mut entries = locked(&self.0);
        if entries.get(key).is_some_and(is_meant) { entries.remove(key) } else { None }
    }

    /// An entry.
    pub fn get(&self, key: &K) -> Option<V> {
        locked(&self.0).get(key).cloned()
    }

    /// Whether there is such an entry.
    pub fn contains(&self, key: &K) -> bool {
        locked(&self.0).contains_key(key)
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        locked(&self.0).is_empty()
    }

    /// Changes an entry in place, if there is one.
    pub fn update(&self, key: &K, change: impl FnOnce(&mut V)) {
        if let Some(value) = locked(&self.0).get_mut(key) {
            change(value);
        }
    }

    /// Keeps only the entries for which `keep` returns true.
    pub fn retain(&self, mut keep: impl FnMut(&K, &V) -> bool) {
        locked(&self.0).retain(|key, value| keep(key, value));
    }

    /// All entries, in no order.
    pub fn entries(&self) -> Vec<(K, V)> {
        locked(&self.0).iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// All values, in no order.
    pub fn values(&self) -> Vec<V> {
        locked(&self.0).values().cloned().collect()
    }

    /// Removes and returns everything.
    pub fn take_all(&self) -> Vec<(K, V)> {
        // Dropped after the lock: dropping an entry may call back into this table.
        std::mem::take(&mut *locked(&self.0)).into_iter().collect()
    }
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// The number of entries.
impl<K, V> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("entries", &locked(&self.0).len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_can_be_seen_changed_and_taken_out() {
        let table = Table::default();
        assert_eq!(table.insert("a", 1), None);
        assert_eq!(table.insert("a", 2), Some(1));
        table.insert("b", 3);
        table.update(&"a", |value| *value += 10);
        table.update(&"c", |_| unreachable!("it is not there"));
        assert_eq!((table.get(&"a"), table.contains(&"c")), (Some(12), false));
        assert_eq!(table.remove_if(&"a", |value| *value == 2), None, "another one stands there");
        assert_eq!(table.remove_if(&"a", |value| *value == 12), Some(12));
        table.insert("c", 4);
        table.retain(|key, _| *key != "b");
        assert_eq!((table.entries(), table.values()), (vec![("c", 4)], vec![4]));
        assert_eq!((table.take_all(), table.is_empty()), (vec![("c", 4)], true));
    }

    #[test]
    fn an_entry_may_come_back_to_the_table_as_it_is_dropped() {
        use std::sync::{Arc, Weak};

        #[derive(Clone)]
        struct Entry(Weak<Table<u8, Arc<Entry>>>);

        impl Drop for Entry {
            fn drop(&mut self) {
                if let Some(table) = self.0.upgrade() {
                    assert!(table.is_empty());
                }
            }
        }

        let table: Arc<Table<u8, Arc<Entry>>> = Arc::default();
        table.insert(1, Arc::new(Entry(Arc::downgrade(&table))));
        drop(table.take_all());
        table.insert(1, Arc::new(Entry(Arc::downgrade(&table))));
        drop(table.remove(&1));
    }
}
