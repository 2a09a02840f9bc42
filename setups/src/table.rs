use std::time::Duration;

use crate::{Benchmark, BesidePython, Python, Setup};

/// Every setup, in the order in which they run and are shown.
pub const SETUPS: &[Setup] = &[
    Setup::new("memory", "memory", "tooz-memory")
        .excused(&[("processes", "lives in one process"), ("faults", NO_CONNECTION)]),
    Setup::new("file", "file", "tooz-file")
        .excused(&[("faults", NO_CONNECTION)])
        .beside_python(&[BesidePython {
            default_ttl: seconds(10),
            cannot: &[
                NO_ELECTIONS,
                ("groups::update", "the original cannot change capabilities here"),
            ],
            ..beside("timeout=3", 3, ANY)
        }])
        .benchmark(V9, &["distributed-lock"], "", 0),
    Setup::new("ipc", "ipc", "tooz-ipc")
        .excused(&[("faults", NO_CONNECTION)])
        .beside_python(&[BesidePython {
            cannot: &[
                ("groups::members", NO_MEMBERS),
                ("groups::capabilities", NO_MEMBERS),
                ("groups::update", NO_MEMBERS),
                ("groups::death", NO_MEMBERS),
                ("groups::kept", NO_MEMBERS),
                ("events", NO_MEMBERS),
                NO_ELECTIONS,
                ("partitioner", NO_MEMBERS),
            ],
            ..UNTIMED
        }])
        .benchmark(V9, &[], "", 0),
    Setup::new("zookeeper", "zookeeper", "tooz-zookeeper")
        .server("zookeeper")
        .beside_python(&[BesidePython {
            default_ttl: seconds(10),
            ..beside("timeout=3", 3, ASCII)
        }])
        .benchmark(V9, &["zookeeper-client"], "timeout=3", 3),
    Setup::new("zookeeper-ensemble", "zookeeper", "tooz-zookeeper").server("zookeeper-ensemble"),
    Setup::new("redis", "redis", "tooz-redis")
        .server("redis")
        .beside_python(&[
            BesidePython { cannot: &[REDIS_LEADER], ..beside("timeout=3", 3, NO_SLASH) },
            BesidePython {
                python: Python::V8_1,
                cannot: &[REDIS_LEADER],
                ..beside("timeout=3", 3, NO_SLASH)
            },
        ])
        .benchmark(V9, &["distributed-lock", "rslock"], "timeout=3", 3),
    Setup::new("redis-sentinel", "redis", "tooz-redis")
        .server("redis-sentinel")
        .excused(&[("faults", PAST_A_PROXY)]),
    Setup::new("redis-cluster", "redis", "tooz-redis")
        .server("redis-cluster")
        .excused(&[("faults", PAST_A_PROXY)]),
    Setup::new("redis-tls", "rediss", "tooz-redis").server("redis-tls"),
    Setup::new("valkey", "redis", "tooz-redis").server("valkey"),
    Setup::new("memcached", "memcached", "tooz-memcached")
        .server("memcached")
        // Python renews every two seconds, and the server counts whole ones.
        .beside_python(&[beside("timeout=4", 4, ASCII)])
        .benchmark(V9, &[], "timeout=4", 4),
    Setup::new("etcd", "etcd", "tooz-etcd")
        .server("etcd")
        .beside_python(&[BesidePython {
            python: Python::V8_1,
            cannot: LOCKS_ONLY,
            ..beside("timeout=3", 3, &["plain", "it's", "a b", "a/b"])
        }])
        .benchmark(V8, &[], "timeout=3", 3),
    Setup::new("etcd3", "etcd3", "tooz-etcd3").server("etcd").benchmark(
        None,
        &["etcd-client"],
        "timeout=3",
        3,
    ),
    Setup::new("etcd3-http", "etcd3+http", "tooz-etcd3-http")
        .server("etcd")
        .beside_python(&[BesidePython { cannot: &[NO_ELECTIONS], ..beside("timeout=3", 3, ANY) }])
        .benchmark(V9, &[], "timeout=3", 3),
    Setup::new("etcd3-cluster", "etcd3", "tooz-etcd3").server("etcd-cluster"),
    Setup::new("etcd3-tls", "etcd3", "tooz-etcd3").server("etcd-tls"),
    Setup::new("consul", "consul", "tooz-consul")
        .server("consul")
        .beside_python(&[BesidePython {
            python: Python::V8_1,
            // A session ends within twice its time, and its locks are free 15 s later.
            dead_after: Duration::from_secs(50),
            default_ttl: seconds(15),
            cannot: &[
                NO_ELECTIONS,
                ("groups::death::python", ENDLESS),
                ("events::death::python", ENDLESS),
            ],
            ..beside("ttl=10", 10, ASCII)
        }])
        .benchmark(V8, &[], "ttl=3&lock_delay=0", 3),
    Setup::new("consul-cluster", "consul", "tooz-consul").server("consul-cluster"),
    Setup::new("consul-acl", "consul+https", "tooz-consul").server("consul-acl"),
    Setup::new("postgresql", "postgresql", "tooz-postgresql")
        .server("postgresql")
        .beside_python(&[BesidePython { ours: "layout=python", cannot: LOCKS_ONLY, ..UNTIMED }])
        .benchmark(V9, &["distributed-lock"], "", 0),
    Setup::new("postgresql-pgbouncer", "postgresql", "tooz-postgresql")
        .server("postgresql-pgbouncer"),
    Setup::new("mysql", "mysql", "tooz-mysql").server("mysql").benchmark(
        V9,
        &["distributed-lock"],
        "",
        0,
    ),
    Setup::new("mariadb", "mysql", "tooz-mysql")
        .server("mariadb")
        .beside_python(&[BesidePython {
            ours: "layout=python",
            cannot: EXCLUSIVE_LOCKS_ONLY,
            ..UNTIMED
        }])
        .benchmark(V9, &["distributed-lock"], "", 0),
];

const NO_CONNECTION: &str = "has no connection";
const PAST_A_PROXY: &str = "finds its servers by itself, past a proxy";

const V9: Option<Python> = Some(Python::V9_1);
const V8: Option<Python> = Some(Python::V8_1);

const ANY: &[&str] = &["plain", "it's", "ключ", "a b", "a/b"];
const NO_SLASH: &[&str] = &["plain", "it's", "ключ", "a b"];
const ASCII: &[&str] = &["plain", "it's", "a.b-c_d"];

const NO_ELECTIONS: (&str, &str) = ("elections", "the original has none here");
const LOCKS_ONLY: &[(&str, &str)] =
    &[("groups", LOCKS), ("events", LOCKS), NO_ELECTIONS, ("partitioner", LOCKS)];
const EXCLUSIVE_LOCKS_ONLY: &[(&str, &str)] = &[
    ("locks::shared", "GET_LOCK has no readers"),
    ("groups", LOCKS),
    ("events", LOCKS),
    NO_ELECTIONS,
    ("partitioner", LOCKS),
];
const LOCKS: &str = "the original has locks alone here";
const REDIS_LEADER: (&str, &str) =
    ("elections::names", "the original neither writes nor reads who leads");
/// Of `ipc://`.
const NO_MEMBERS: &str = "the original has groups without members here";
/// Of Consul.
const ENDLESS: &str = "the original's members are bound to no session, and stay for ever";

/// Beside the latest version, with a time to live of 30 seconds by default, and a short one.
const fn beside(short: &'static str, ttl: u64, names: &'static [&'static str]) -> BesidePython {
    BesidePython {
        python: Python::V9_1,
        short,
        short_ttl: seconds(ttl),
        ours: "",
        // Two such times, and what a busy machine takes.
        dead_after: Duration::from_secs(15),
        default_ttl: seconds(30),
        names,
        cannot: &[],
    }
}

/// Beside the latest version, where what is held lives with its connection or process.
const UNTIMED: BesidePython = BesidePython {
    short_ttl: None,
    dead_after: Duration::from_secs(10),
    default_ttl: None,
    ..beside("", 0, ANY)
};

const fn seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

impl Setup {
    const fn new(name: &'static str, scheme: &'static str, driver: &'static str) -> Self {
        Self {
            name,
            scheme,
            driver,
            server: None,
            excused: &[],
            beside_python: &[],
            benchmark: None,
        }
    }

    const fn server(self, name: &'static str) -> Self {
        Self { server: Some(name), ..self }
    }

    const fn excused(self, excused: &'static [(&'static str, &'static str)]) -> Self {
        Self { excused, ..self }
    }

    const fn beside_python(self, beside_python: &'static [BesidePython]) -> Self {
        Self { beside_python, ..self }
    }

    const fn benchmark(
        self,
        python: Option<Python>,
        crates: &'static [&'static str],
        short: &'static str,
        ttl: u64,
    ) -> Self {
        let ttl = Duration::from_secs(ttl);
        Self { benchmark: Some(Benchmark { python, crates, short, ttl }), ..self }
    }
}
