use std::fmt;
use std::sync::{Arc, Mutex, Weak};

use tooz_core::kit::locked;

/// What there is once for each key, as long as anybody uses it.
pub(crate) struct WeakTable<K, V>(Mutex<Vec<(K, Weak<V>)>>);

impl<K: PartialEq, V> WeakTable<K, V> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// The value of a key, made now if nobody uses one.
    pub(crate) fn get_or_make(&self, key: K, make: impl FnOnce() -> V) -> Arc<V> {
        let mut entries = locked(&self.0);
        entries.retain(|(_, value)| value.strong_count() > 0);
        let same = entries.iter().find(|(of, _)| *of == key);
        if let Some(value) = same.and_then(|(_, value)| value.upgrade()) {
            return value;
        }
        let value = Arc::new(make());
        entries.push((key, Arc::downgrade(&value)));
        value
    }
}

impl<K, V> fmt::Debug for WeakTable<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakTable").finish_non_exhaustive()
    }
}
