//! Redis, Valkey, and a cluster.

use redis::aio::ConnectionLike;
use tooz_fence::{Error, Fence, FenceName, redis as fenced};

use crate::ledger::{Deposit, End, OPENING, wrong};
use crate::orders;
use crate::stage::{Gate, Stage};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    /// Raises, reads, and writes by the script.
    Script,
    /// A mistake: asks for the highest token, and then writes.
    AsksAndWrites,
}

fn key(tag: &str, account: i64) -> String {
    format!("{{{tag}}}:{account}")
}

async fn deposit(
    mut connection: impl ConnectionLike,
    mut gate: Gate,
    program: Program,
    tag: String,
    holder: Deposit,
) -> End {
    let (fence, key) = (holder.fence, key(&tag, holder.account));
    let done = async {
        gate.step().await;
        fenced::raise(&mut connection, fence, &tag).await?;
        gate.step().await;
        let balance: i64 = redis::Cmd::get(&key).query_async(&mut connection).await?;
        let set = redis::Cmd::set(&key, balance + holder.amount);
        gate.step().await;
        match program {
            Program::Script => {
                fenced::write(&mut connection, fence, &tag, &[&key], &set).await.map(|()| true)
            }
            Program::AsksAndWrites => {
                let kept = redis::Cmd::get(fenced::key(fence.name(), &tag));
                let highest: u64 = kept.query_async(&mut connection).await?;
                gate.step().await;
                if highest > fence.token() {
                    return Ok(false);
                }
                Ok(set.query_async(&mut connection).await.map(|()| true)?)
            }
        }
    };
    match done.await {
        Ok(true) => holder.is_written(),
        Ok(false) | Err(Error::Stale(_)) => End::Refused,
        Err(error) => panic!("{error:?}"),
    }
}

/// In how many of the orders something was lost.
async fn losses<C>(connection: &C, program: Program, tokens: &[u64], orders: &[Vec<usize>]) -> usize
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    // Nobody else's keys.
    let tag = format!("tooz-fence-{}-{program:?}-{}", std::process::id(), tokens.len());
    let mut connection = connection.clone();
    let mut lost = 0;
    for (account, order) in (0..).zip(orders) {
        let holders = Deposit::holders(account, tokens);
        let key = key(&tag, account);
        let () = redis::Cmd::set(&key, OPENING).query_async(&mut connection).await.unwrap();
        let mut stage = Stage::default();
        for holder in holders.clone() {
            let (connection, tag) = (connection.clone(), tag.clone());
            stage.add(move |gate| deposit(connection, gate, program, tag, holder));
        }
        let ends = stage.play(order, None::<(usize, std::future::Ready<()>)>).await;
        let balance = redis::Cmd::get(&key).query_async(&mut connection).await.unwrap();
        if let Some(wrong) = wrong(&holders, &ends, balance) {
            assert_ne!(program, Program::Script, "{order:?}: {wrong}");
            lost += 1;
        }
        for key in [key, fenced::key(holders[0].fence.name(), &tag)] {
            let () = redis::Cmd::del(key).query_async(&mut connection).await.unwrap();
        }
    }
    println!("{program:?} loses in {lost} of {}", orders.len());
    lost
}

async fn of_server<C: ConnectionLike + Clone + Send + Sync + 'static>(connection: C) {
    losses(&connection, Program::Script, &[5, 6], &orders::all(3)).await;
    losses(&connection, Program::Script, &[5, 6, 7], &orders::some(1000, 3, 3, 6)).await;
    let mut rounds = 1;
    while losses(&connection, Program::AsksAndWrites, &[5, 6], &orders::all(4)).await == 0 {
        assert!(rounds < 5, "to ask and then write is wrong, and nothing showed it");
        rounds += 1;
    }
    tokens_are_no_doubles(connection.clone()).await;
    a_command_that_fails_writes_nothing(connection).await;
}

async fn tokens_are_no_doubles(mut connection: impl ConnectionLike) {
    let tag = format!("tooz-fence-{}-large", std::process::id());
    let name = FenceName::of_lock("large");
    let fence = |token| Fence::new(name, token);
    // As doubles, each of them is the one before.
    for token in [(1 << 53) + 1, u64::MAX] {
        fenced::raise(&mut connection, fence(token), &tag).await.unwrap();
        match fenced::raise(&mut connection, fence(token - 1), &tag).await {
            Err(Error::Stale(stale)) => assert_eq!(stale.highest, token),
            raised => panic!("{raised:?}"),
        }
    }
    let key = fenced::key(name, &tag);
    let ttl: i64 = redis::Cmd::ttl(&key).query_async(&mut connection).await.unwrap();
    assert_eq!(ttl, -1, "it has no expiry");
    let () = redis::Cmd::del(key).query_async(&mut connection).await.unwrap();
}

async fn a_command_that_fails_writes_nothing(mut connection: impl ConnectionLike) {
    let tag = format!("tooz-fence-{}-fails", std::process::id());
    let (fence, key) = (Fence::new(FenceName::of_lock("fails"), 3), key(&tag, 0));
    let push = redis::Cmd::lpush(&key, "a");
    let length: i64 = fenced::write(&mut connection, fence, &tag, &[&key], &push).await.unwrap();
    assert_eq!(length, 1);
    let add = redis::Cmd::incr(&key, 1);
    let added = fenced::write::<i64>(&mut connection, fence, &tag, &[&key], &add).await;
    assert!(matches!(&added, Err(Error::Resource(e)) if e.to_string().contains("WRONGTYPE")));
    let get = redis::Cmd::lindex(&key, 7);
    let nothing: Option<String> =
        fenced::write(&mut connection, fence, &tag, &[&key], &get).await.unwrap();
    assert_eq!(nothing, None);
    for key in [key, fenced::key(fence.name(), &tag)] {
        let () = redis::Cmd::del(key).query_async(&mut connection).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_loses_nothing() {
    for setup in ["REDIS", "VALKEY"] {
        let Some(url) = crate::server(setup) else { continue };
        let client = redis::Client::open(url).unwrap();
        of_server(client.get_multiplexed_async_connection().await.unwrap()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_loses_nothing() {
    let Some(url) = crate::server("REDIS_CLUSTER") else { return };
    let (hosts, _) = url.trim_start_matches("redis://").split_once('?').unwrap();
    let nodes = hosts.split(',').map(|host| format!("redis://{host}"));
    let client = redis::cluster::ClusterClient::new(nodes).unwrap();
    of_server(client.get_async_connection().await.unwrap()).await;
}
