//! Redis, Valkey, and a cluster.
