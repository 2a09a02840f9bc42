//! PostgreSQL, MySQL, MariaDB and SQLite, by `sqlx`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::ledger::{Deposit, End, OPENING, wrong};
use crate::orders::{self, Random};
use crate::stage::Gate;

/// How many interleavings are played at once.
const AT_ONCE: usize = 8;

/// How many orders are played of those that are too many: where all is tried, and where little is.
const FULL: usize = 140;
const SOME: usize = 20;
/// How often a mistake may show nothing.
const ROUNDS: usize = 5;

/// What a holder does, each step behind a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    /// Raises, reads and writes in one transaction.
    OneTransaction,
    /// Raises and reads in one transaction, raises and writes in another: as one does that has to
    /// think in between.
    TwoTransactions,
    /// A mistake: what was read before the raise may be old.
    ReadsFirst,
    /// A mistake: asks whether a higher token is there, without locking, and then writes.
    ExistsWithoutLock,
    /// A mistake: asks in one transaction, and writes in another.
    ChecksApart,
    /// A mistake: asks within the statement that writes, which may wait after it has asked.
    OneUpdate,
}
use Program::*;

impl Program {
    fn orders(self) -> Vec<Vec<usize>> {
        match self {
            OneTransaction | ReadsFirst | ExistsWithoutLock | ChecksApart => orders::all(5),
            OneUpdate => orders::all(4),
            TwoTransactions => orders::some(FULL, 2, 8, 22),
        }
    }
}

/// How a database spells what the programs do.
struct Dialect {
    open: &'static str,
    read: &'static str,
    write: &'static str,
    /// Whether no higher token is there.
    is_latest: &'static str,
    write_if_latest: &'static str,
    /// Who a connection is, and how it is killed. MySQL cannot prepare that: its number is put in.
    who: &'static str,
    kill: &'static str,
    at_once: usize,
    /// The codes of failures after which a transaction is tried again.
    again: &'static [&'static str],
}

const POSTGRES: Dialect = Dialect {
    open: "INSERT INTO account (id, balance) VALUES ($1, $2)",
    read: "SELECT balance FROM account WHERE id = $1",
    write: "UPDATE account SET balance = $1 WHERE id = $2",
    is_latest: "SELECT NOT EXISTS (SELECT 1 FROM tooz_fence WHERE name = $1 AND token > $2)",
    write_if_latest: "UPDATE account SET balance = $1 WHERE id = $2 AND NOT EXISTS \
        (SELECT 1 FROM tooz_fence WHERE name = $3 AND token > $4)",
    who: "SELECT pg_backend_pid()::bigint",
    kill: "SELECT pg_terminate_backend(?, 5000)",
    at_once: AT_ONCE,
    again: &["40001", "40P01"],
};

const MYSQL: Dialect = Dialect {
    open: "INSERT INTO account (id, balance) VALUES (?, ?)",
    read: "SELECT balance FROM account WHERE id = ?",
    write: "UPDATE account SET balance = ? WHERE id = ?",
    is_latest: "SELECT NOT EXISTS (SELECT 1 FROM tooz_fence WHERE name = ? AND token > ?)",
    write_if_latest: "UPDATE account SET balance = ? WHERE id = ? AND NOT EXISTS \
        (SELECT 1 FROM tooz_fence WHERE name = ? AND token > ?)",
    who: "SELECT CAST(CONNECTION_ID() AS SIGNED)",
    kill: "KILL ?",
    at_once: AT_ONCE,
    again: &["1213", "1205", "1020"],
};

const SQLITE: Dialect = Dialect {
    // A connection of its own cannot be killed from outside.
    who: "SELECT 0",
    kill: "SELECT ?",
    // It has one writer.
    at_once: 1,
    // Busy, a table that is locked, and busy with a snapshot that is old.
    again: &["5", "6", "517"],
    ..MYSQL
};

/// The programs for one database. `sqlx` is generic over them, but for bounds of ten lines each time.
macro_rules! database {
    ($name:ident, $database:ty, $fences:ident, $dialect:expr) => {
        mod $name {
            use sqlx::{Acquire as _, Row as _};
            use tooz_fence::{Error, $fences};

            use super::*;
            use crate::stage::Stage;

            type Pool = sqlx::Pool<$database>;

            const SQL: Dialect = $dialect;

            /// How many holders were killed.
            pub(super) static KILLED: AtomicI64 = AtomicI64::new(0);

            /// A transaction that begins with its fence.
            pub(super) async fn begins(pool: &Pool) {
                let fence = |token| {
                    tooz_fence::Fence::new(tooz_fence::FenceName::of_lock("begins"), token)
                };
                $fences::begin(pool, fence(5)).await.unwrap().commit().await.unwrap();
                let refused = $fences::begin(pool, fence(4)).await;
                assert!(matches!(refused, Err(Error::Stale(stale)) if stale.highest == 5));
                // What is not committed is not kept.
                $fences::begin(pool, fence(6)).await.unwrap().rollback().await.unwrap();
                $fences::begin(pool, fence(5)).await.unwrap().commit().await.unwrap();
            }

            /// Plays the program in each order, and tells what was wrong, for each order in which
            /// something was.
            pub(super) async fn play(
                pool: &Pool,
                program: Program,
                tokens: [u64; 2],
                orders: Vec<Vec<usize>>,
                kills: bool,
            ) -> (usize, Vec<String>) {
                let (count, places) = (orders.len(), Arc::new(Semaphore::new(SQL.at_once)));
                let mut random = Random(7);
                let mut plays = JoinSet::new();
                for order in orders {
                    let kill = kills.then(|| (random.below(order.len()), random.below(2)));
                    let (pool, places) = (pool.clone(), places.clone());
                    plays.spawn(async move {
                        let _place = places.acquire().await;
                        one(&pool, program, tokens, &order, kill).await
                    });
                }
                let mut all = Vec::new();
                while let Some(played) = plays.join_next().await {
                    all.extend(played.unwrap());
                }
                (count, all)
            }

            async fn one(
                pool: &Pool,
                program: Program,
                tokens: [u64; 2],
                order: &[usize],
                kill: Option<(usize, usize)>,
            ) -> Option<String> {
                static ACCOUNTS: AtomicI64 = AtomicI64::new(0);
                let account = ACCOUNTS.fetch_add(1, Relaxed);
                open(pool, account).await;
                let holders = Deposit::holders(account, &tokens);
                let mut stage = Stage::default();
                let mut connections = Vec::new();
                for holder in holders.clone() {
                    let (pool, connection) = (pool.clone(), Arc::new(AtomicI64::new(0)));
                    connections.push(connection.clone());
                    let kills = kill.is_some();
                    stage.add(async move |mut gate: Gate| {
                        deposit(&pool, &mut gate, program, &holder, &connection, kills).await
                    });
                }
                let harm = kill.map(|(at, whom)| {
                    let connection = connections[whom].clone();
                    let harm = async move {
                        let connection = connection.load(Relaxed);
                        if connection != 0 {
                            // It may have ended by itself.
                            let kill = SQL.kill.replace('?', &connection.to_string());
                            let kill = sqlx::raw_sql(sqlx::AssertSqlSafe(kill));
                            let _ = kill.execute(pool).await;
                        }
                    };
                    (at, harm)
                });
                let ends = stage.play(order, harm).await;
                wrong(&holders, &ends, balance(pool, account).await)
                    .map(|wrong| format!("{program:?} {order:?}: {wrong}"))
            }

            async fn open(pool: &Pool, account: i64) {
                loop {
                    let open = sqlx::query(SQL.open).bind(account).bind(OPENING);
                    match open.execute(pool).await {
                        Err(error) if is_again(&error) => tokio::task::yield_now().await,
                        opened => {
                            opened.unwrap();
                            return;
                        }
                    }
                }
            }

            async fn balance(pool: &Pool, account: i64) -> i64 {
                loop {
                    let read = sqlx::query_scalar(SQL.read).bind(account);
                    match read.fetch_one(pool).await {
                        // A connection that was given back may still be within its transaction.
                        Err(error) if is_again(&error) => tokio::task::yield_now().await,
                        read => return read.unwrap(),
                    }
                }
            }

            async fn deposit(
                pool: &Pool,
                gate: &mut Gate,
                program: Program,
                holder: &Deposit,
                connection: &AtomicI64,
                kills: bool,
            ) -> End {
                let mut asked = false;
                loop {
                    let deposited =
                        attempt(pool, gate, program, holder, connection, &mut asked).await;
                    connection.store(0, Relaxed);
                    match deposited {
                        Ok(end) => return end,
                        Err(Error::Stale(_)) => return End::Refused,
                        Err(Error::Resource(error)) if is_again(&error) => asked = false,
                        Err(Error::Resource(_)) if kills && asked => return End::Unknown,
                        Err(Error::Resource(_)) if kills => {
                            KILLED.fetch_add(1, Relaxed);
                            return End::Killed;
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                }
            }

            fn is_again(error: &sqlx::Error) -> bool {
                let Some(error) = error.as_database_error() else { return false };
                let text = error.message();
                let code = error.code().unwrap_or_default().into_owned();
                // MySQL's code is the class of the error; its number is in front of the text.
                SQL.again.contains(&code.as_str())
                    || SQL.again.iter().any(|again| number(error).as_deref() == Some(again))
                    || text.contains("database is locked")
            }

            async fn attempt(
                pool: &Pool,
                gate: &mut Gate,
                program: Program,
                holder: &Deposit,
                connection: &AtomicI64,
                asked: &mut bool,
            ) -> Result<End, Error<sqlx::Error>> {
                let (account, fence) = (holder.account, holder.fence);
                let (name, token) = (fence.name().to_string(), fence.token() as i64);
                gate.step().await;
                let mut own = pool.acquire().await?;
                let who: i64 = sqlx::query_scalar(SQL.who).fetch_one(&mut *own).await?;
                connection.store(who, Relaxed);
                let mut transaction = own.begin().await?;
                let is_mistaken = matches!(program, ExistsWithoutLock | ChecksApart | OneUpdate);
                if program != ReadsFirst {
                    if !is_mistaken {
                        gate.step().await;
                    }
                    $fences::raise(&mut transaction, fence).await?;
                }
                if !is_mistaken {
                    gate.step().await;
                }
                let read = sqlx::query_scalar(SQL.read).bind(account);
                let balance: i64 = read.fetch_one(&mut *transaction).await?;
                if program == ReadsFirst {
                    gate.step().await;
                    $fences::raise(&mut transaction, fence).await?;
                }
                if is_mistaken || program == TwoTransactions {
                    if program == TwoTransactions {
                        gate.step().await;
                    }
                    transaction.commit().await?;
                    gate.step().await;
                    transaction = own.begin().await?;
                }
                match program {
                    TwoTransactions => {
                        gate.step().await;
                        $fences::raise(&mut transaction, fence).await?;
                    }
                    ExistsWithoutLock | ChecksApart => {
                        gate.step().await;
                        let is_latest = sqlx::query(SQL.is_latest).bind(&name).bind(token);
                        let is_latest = is_latest.fetch_one(&mut *transaction).await?;
                        if !is_latest.get::<bool, _>(0) {
                            return Ok(End::Refused);
                        }
                        if program == ChecksApart {
                            transaction.commit().await?;
                            transaction = own.begin().await?;
                        }
                    }
                    OneTransaction | ReadsFirst | OneUpdate => {}
                }
                gate.step().await;
                let balance = balance + holder.amount;
                let write = match program {
                    OneUpdate => {
                        let write = sqlx::query(SQL.write_if_latest).bind(balance).bind(account);
                        write.bind(name).bind(token)
                    }
                    _ => sqlx::query(SQL.write).bind(balance).bind(account),
                };
                if write.execute(&mut *transaction).await?.rows_affected() == 0 {
                    return Ok(End::Refused);
                }
                gate.step().await;
                *asked = true;
                transaction.commit().await?;
                Ok(holder.is_written())
            }
        }
    };
}

database!(postgres, sqlx::Postgres, sqlx_postgres, POSTGRES);
database!(mysql, sqlx::MySql, sqlx_mysql, MYSQL);
database!(sqlite, sqlx::Sqlite, sqlx_sqlite, SQLITE);

fn number(error: &dyn sqlx::error::DatabaseError) -> Option<String> {
    let error = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()?;
    Some(error.number().to_string())
}

/// Plays the programs that are right, which must lose nothing: `$of` orders of those with many.
macro_rules! loses_nothing {
    ($database:ident, $pool:expr, $level:expr, $of:expr, $kills:expr) => {{
        let (pool, of, kills, mut count) = ($pool, $of, $kills, 0);
        if of > SOME {
            $database::begins(pool).await;
        }
        let mut all = OneTransaction.orders();
        all.truncate(2 * of);
        let mut runs = vec![
            (OneTransaction, [5, 6], all, false),
            (OneTransaction, [6, 6], orders::some(of / 4, 2, 5, 2), false),
            (TwoTransactions, [5, 6], orders::some(of, 2, 8, 22), false),
        ];
        if kills {
            runs.push((OneTransaction, [5, 6], orders::some(of / 4, 2, 5, 3), true));
            runs.push((TwoTransactions, [5, 6], orders::some(of / 4, 2, 8, 4), true));
        }
        for (program, tokens, orders, kills) in runs {
            let (played, wrong) = $database::play(pool, program, tokens, orders, kills).await;
            assert!(wrong.is_empty(), "{} {tokens:?}: {}", $level, wrong.join("\n"));
            count += played;
        }
        let killed = $database::KILLED.swap(0, Relaxed);
        println!("{}: {count} interleavings lose nothing, {killed} killed", $level);
        assert!(killed > 0 || !kills, "nobody was killed");
        count
    }};
}

/// Plays a program that is wrong, and tells in how many orders it lost something.
macro_rules! losses {
    ($database:ident, $pool:expr, $level:expr, $program:expr) => {{
        let orders = $program.orders();
        let (count, wrong) = $database::play($pool, $program, [5, 6], orders, false).await;
        println!("{}: {:?} loses in {} of {count}", $level, $program, wrong.len());
        wrong.len()
    }};
}

/// A program that is wrong must lose something. On a busy machine the few orders in which it does may
/// come out otherwise, so there is more than one round.
macro_rules! must_lose {
    ($database:ident, $pool:expr, $level:expr, $program:expr) => {{
        let mut rounds = 1;
        while losses!($database, $pool, $level, $program) == 0 {
            assert!(rounds < ROUNDS, "{:?} is wrong, and nothing showed it", $program);
            rounds += 1;
        }
    }};
}

/// A schema or database of our own, dropped at the end.
fn own_name() -> String {
    format!("tooz_fence_live_{}", std::process::id())
}

const ACCOUNTS: &str =
    "CREATE TABLE account (id BIGINT NOT NULL PRIMARY KEY, balance BIGINT NOT NULL)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_loses_nothing() {
    use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

    let Some(url) = crate::server("POSTGRESQL") else { return };
    let options: PgConnectOptions = url.parse().unwrap();
    let pool = |options: PgConnectOptions| {
        PgPoolOptions::new().max_connections(3 * AT_ONCE as u32).connect_lazy_with(options)
    };
    let (admin, name) = (pool(options.clone()), own_name());
    let run = async |sql: String| {
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&admin).await.unwrap();
    };
    run(format!("CREATE SCHEMA {name}")).await;
    let mut count = 0;
    for level in ["read uncommitted", "read committed", "repeatable read", "serializable"] {
        let settings = [("search_path", name.as_str()), ("default_transaction_isolation", level)];
        let pool = pool(options.clone().options(settings));
        if count == 0 {
            for table in [tooz_fence::postgres::SCHEMA, ACCOUNTS] {
                sqlx::query(table).execute(&pool).await.unwrap();
            }
        }
        let actual = sqlx::query_scalar("SHOW transaction_isolation").fetch_one(&pool).await;
        let actual: String = actual.unwrap();
        assert_eq!(actual, level);
        let shown = format!("PostgreSQL, {level}");
        // One is another name for the next.
        let of = if level == "read uncommitted" { SOME } else { FULL };
        count += loses_nothing!(postgres, &pool, shown, of, true);
        if level == "read committed" {
            for program in [ReadsFirst, ExistsWithoutLock, ChecksApart, OneUpdate] {
                must_lose!(postgres, &pool, shown, program);
            }
        }
        if level == "repeatable read" {
            // The server refuses a write over what is newer than the snapshot.
            assert_eq!(losses!(postgres, &pool, shown, ReadsFirst), 0);
        }
    }
    run(format!("DROP SCHEMA {name} CASCADE")).await;
    assert!(count >= 1000, "{count}");
}

/// MySQL or MariaDB.
async fn of_mysql(setup: &str) {
    use sqlx::Executor as _;
    use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};

    let Some(url) = crate::server(setup) else { return };
    let options: MySqlConnectOptions = url.parse().unwrap();
    let (admin, name) = (MySqlPoolOptions::new().connect_lazy_with(options.clone()), own_name());
    let run = async |sql: String| {
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&admin).await.unwrap();
    };
    run(format!("CREATE DATABASE {name}")).await;
    let mut count = 0;
    for level in ["READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let set = format!("SET SESSION TRANSACTION ISOLATION LEVEL {level}");
        let pool = MySqlPoolOptions::new().max_connections(3 * AT_ONCE as u32);
        let pool = pool.after_connect(move |connection, _| {
            let set = sqlx::AssertSqlSafe(set.clone());
            Box::pin(async move { connection.execute(set).await.map(drop) })
        });
        let pool = pool.connect_lazy_with(options.clone().database(&name));
        if count == 0 {
            for table in [tooz_fence::mysql::SCHEMA, ACCOUNTS] {
                sqlx::query(table).execute(&pool).await.unwrap();
            }
        }
        let shown = format!("{setup}, {level}");
        let is_common = ["READ COMMITTED", "REPEATABLE READ"].contains(&level);
        count += loses_nothing!(mysql, &pool, shown, if is_common { FULL } else { SOME }, true);
        let wrong: &[_] = match level {
            "READ COMMITTED" => &[ReadsFirst, ExistsWithoutLock, ChecksApart, OneUpdate],
            "REPEATABLE READ" => &[ReadsFirst, ExistsWithoutLock],
            _ => &[],
        };
        for &program in wrong {
            must_lose!(mysql, &pool, shown, program);
        }
    }
    run(format!("DROP DATABASE {name}")).await;
    assert!(count >= 1000, "{count}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_loses_nothing() {
    of_mysql("MYSQL").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_loses_nothing() {
    of_mysql("MARIADB").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_loses_nothing() {
    use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};

    let mut count = 0;
    for mode in [SqliteJournalMode::Wal, SqliteJournalMode::Delete] {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new().filename(folder.path().join("db"));
        let options = options.create_if_missing(true).journal_mode(mode);
        // Nobody waits: who is busy tries again. The disk is not what is tested.
        let options = options.busy_timeout(std::time::Duration::ZERO);
        let options = options.synchronous(sqlx::sqlite::SqliteSynchronous::Off);
        let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await.unwrap();
        for table in [tooz_fence::sqlite::SCHEMA, ACCOUNTS] {
            sqlx::query(table).execute(&pool).await.unwrap();
        }
        let shown = format!("SQLite, {mode:?}");
        count += loses_nothing!(sqlite, &pool, shown, 2 * FULL, false);
        must_lose!(sqlite, &pool, shown, ChecksApart);
        // Within one transaction SQLite itself refuses a write over what is newer than the snapshot.
        for program in [ReadsFirst, ExistsWithoutLock, OneUpdate] {
            assert_eq!(losses!(sqlite, &pool, shown, program), 0);
        }
    }
    assert!(count >= 1000, "{count}");
}
