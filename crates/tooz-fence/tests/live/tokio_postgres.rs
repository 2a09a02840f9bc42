//! PostgreSQL by `tokio-postgres`: the same statement as by `sqlx`, whose programs try more.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_postgres::{Client, Config, IsolationLevel, NoTls};
use tooz_fence::{Error, postgres};

use crate::ledger::{Deposit, End, OPENING, wrong};
use crate::orders;
use crate::stage::{Gate, Stage};

async fn connect(config: &Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn deposit(
    client: &mut Client,
    gate: &mut Gate,
    level: IsolationLevel,
    holder: &Deposit,
) -> End {
    loop {
        match attempt(client, gate, level, holder).await {
            Ok(end) => return end,
            Err(Error::Stale(_)) => return End::Refused,
            Err(Error::Resource(error)) if error.code().is_some_and(|c| c.code() == "40001") => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

async fn attempt(
    client: &mut Client,
    gate: &mut Gate,
    level: IsolationLevel,
    holder: &Deposit,
) -> Result<End, Error<tokio_postgres::Error>> {
    gate.step().await;
    let transaction = client.build_transaction().isolation_level(level).start().await?;
    gate.step().await;
    postgres::raise(&transaction, holder.fence).await?;
    gate.step().await;
    let account = &holder.account;
    let read = "SELECT balance FROM account WHERE id = $1";
    let balance = transaction.query_one(read, &[account]).await?.get::<_, i64>(0) + holder.amount;
    gate.step().await;
    let write = "UPDATE account SET balance = $1 WHERE id = $2";
    transaction.execute(write, &[&balance, account]).await?;
    gate.step().await;
    transaction.commit().await?;
    Ok(holder.is_written())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_by_tokio_postgres_loses_nothing() {
    let Some(url) = crate::server("POSTGRESQL") else { return };
    let name = format!("tooz_fence_tokio_{}", std::process::id());
    let mut config: Config = url.parse().unwrap();
    config.options(format!("-c search_path={name}"));
    let admin = connect(&config).await;
    let schema = postgres::SCHEMA;
    let account = "CREATE TABLE account (id bigint PRIMARY KEY, balance bigint NOT NULL)";
    admin.batch_execute(&format!("CREATE SCHEMA {name}; {schema}; {account}")).await.unwrap();
    let clients = [connect(&config).await, connect(&config).await];
    let clients = clients.map(|client| Arc::new(Mutex::new(client)));
    let mut number = 0;
    for level in [IsolationLevel::ReadCommitted, IsolationLevel::Serializable] {
        for order in orders::some(60, 2, 5, 15) {
            number += 1;
            let open = "INSERT INTO account (id, balance) VALUES ($1, $2)";
            admin.execute(open, &[&number, &OPENING]).await.unwrap();
            let holders = Deposit::holders(number, &[5, 6]);
            let mut stage = Stage::default();
            for (holder, client) in holders.clone().into_iter().zip(&clients) {
                let client = client.clone();
                stage.add(async move |mut gate: Gate| {
                    deposit(&mut *client.lock().await, &mut gate, level, &holder).await
                });
            }
            let ends = stage.play(&order, None::<(usize, std::future::Ready<()>)>).await;
            let read = "SELECT balance FROM account WHERE id = $1";
            let balance = admin.query_one(read, &[&number]).await.unwrap().get(0);
            assert_eq!(wrong(&holders, &ends, balance), None, "{order:?}");
        }
    }
    admin.batch_execute(&format!("DROP SCHEMA {name} CASCADE")).await.unwrap();
}

#[tokio::test]
async fn the_highest_token_is_told_and_the_largest_is_refused() {
    let Some(url) = crate::server("POSTGRESQL") else { return };
    let mut client = connect(&url.parse().unwrap()).await;
    // Of this connection alone, and gone with it.
    let temporary = postgres::SCHEMA.replace("CREATE TABLE", "CREATE TEMPORARY TABLE");
    client.batch_execute(&temporary).await.unwrap();
    let name = tooz_fence::FenceName::of_lock("largest");
    let largest = i64::MAX as u64;
    for (token, highest) in [(largest, None), (largest - 1, Some(largest)), (largest, None)] {
        match postgres::begin(&mut client, tooz_fence::Fence::new(name, token)).await {
            Ok(transaction) => {
                transaction.commit().await.unwrap();
                assert_eq!(highest, None);
            }
            Err(Error::Stale(stale)) => assert_eq!(Some(stale.highest), highest),
            Err(error) => panic!("{error:?}"),
        }
    }
    let begun = postgres::begin(&mut client, tooz_fence::Fence::new(name, 1 << 63)).await;
    assert!(matches!(begun, Err(Error::TooLarge(_))));
}
