//! How long a lock is on its way from one to the other. In a program of its own, so that no other
//! test keeps the engine busy meanwhile.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod server;

use std::time::{Duration, Instant};

use server::{asked_for, client, fresh, start};
use tooz_core::{Coordinator, Result};
use tooz_http::Request;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Measured in turn, so that what else the machine does weighs on all alike.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_off_takes_less_than_three_round_trips_and_consuls_own_time() -> Result<()> {
    let Some(url) = asked_for("CONSUL") else { return Ok(()) };
    let port = url.rsplit(':').next().unwrap().parse().unwrap();
    let (http, key) = (client(port), tooz_core::OperationId::random().to_string());
    let path = format!("/v1/kv/{key}");
    // A transaction like ours. The server takes no notice of a value that is as it was.
    let write = || {
        let value = tooz_core::OperationId::random();
        let set = format!(r#"{{"KV": {{"Verb": "set", "Key": "{key}", "Value": "{value}"}}}}"#);
        let delete = format!(r#"{{"KV": {{"Verb": "delete", "Key": "{key}-no"}}}}"#);
        Request::put("/v1/txn").body(format!("[{set}, {delete}]"))
    };
    let round_trip = async || {
        let begin = Instant::now();
        assert!(http.send(&write()).await.unwrap().is_success());
        begin.elapsed()
    };
    // What Consul takes by itself to tell somebody of a change.
    let own = async || {
        let head = http.send(&Request::get(path.clone())).await.unwrap();
        let index = head.header("x-consul-index").unwrap().to_owned();
        let poll = Request::get(path.clone()).query("index", index).query("wait", "5s");
        let poller = http.clone();
        let told = tokio::spawn(async move { poller.send(&poll).await.map(|_| Instant::now()) });
        tokio::time::sleep(Duration::from_millis(15)).await;
        let begin = Instant::now();
        http.send(&write()).await.unwrap();
        told.await.unwrap().unwrap().saturating_duration_since(begin)
    };
    let url = fresh(&url, "ttl=10&lock_delay=0");
    let (a, b) = (start(&url, "a").await?, start(&url, "b").await?);
    let mut holder = a.lock("it")?.acquire().await?;
    let (mut round_trips, mut owns, mut hand_offs) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..60 {
        round_trips.push(round_trip().await);
        owns.push(own().await);
        let next: &Coordinator = if turn % 2 == 0 { &b } else { &a };
        let lock = next.lock("it")?;
        let waiting =
            tokio::spawn(async move { lock.acquire().await.map(|guard| (guard, Instant::now())) });
        // Until it is in the queue, and waits.
        tokio::time::sleep(Duration::from_millis(30)).await;
        let begin = Instant::now();
        holder.release().await?;
        let (guard, got) = waiting.await.unwrap()?;
        holder = guard;
        hand_offs.push(got.saturating_duration_since(begin));
    }
    http.send(&Request::delete(path.clone())).await?;
    let [round_trip, own, hand_off] = [round_trips, owns, hand_offs].map(median);
    println!("round trip {round_trip:?}, Consul's own {own:?}, hand-off {hand_off:?}");
    assert!(hand_off < round_trip * 3 + own, "{hand_off:?} of 3 x {round_trip:?} + {own:?}");
    drop(holder);
    a.stop().await?;
    b.stop().await
}
