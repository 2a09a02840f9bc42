//! Objects: what others write between the reading and the put.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Attribute, Attributes, ObjectStore, ObjectStoreExt as _, PutOptions};
use tooz::blocking::block_on;
use tooz_fence::object_store::update;
use tooz_fence::{Fence, FenceName};

fn fence(token: u64) -> Fence {
    Fence::new(FenceName::of_lock("account-7"), token)
}

fn path() -> Path {
    Path::from("account/7")
}

fn plus(amount: i64) -> impl Fn(Option<&[u8]>) -> String {
    move |old| {
        let old: i64 = old.map_or(100, |old| std::str::from_utf8(old).unwrap().parse().unwrap());
        (old + amount).to_string()
    }
}

async fn balance(store: &dyn ObjectStore) -> Bytes {
    store.get(&path()).await.unwrap().bytes().await.unwrap()
}

#[test]
fn whoever_comes_in_between_is_seen() {
    let path = &path();
    let run = async {
        // Before there is an object, and when there is one.
        for first in [false, true] {
            let store = InMemory::new();
            if first {
                update(&store, path, fence(4), plus(0)).await.unwrap();
            }
            // The later holder comes between the reading of the earlier one and its put.
            let earlier = update(&store, path, fence(5), |old| {
                block_on(update(&store, path, fence(6), plus(10))).unwrap();
                plus(1)(old)
            });
            assert!(earlier.await.unwrap_err().is_stale());
            assert_eq!(balance(&store).await, "110");
            // The earlier one comes between the reading of the later one and its put.
            let store = InMemory::new();
            let mut turns = 0;
            let later = update(&store, path, fence(6), |old| {
                turns += 1;
                if turns == 1 {
                    block_on(update(&store, path, fence(5), plus(1))).unwrap();
                }
                plus(10)(old)
            });
            later.await.unwrap();
            assert_eq!((turns, balance(&store).await), (2, "111".into()));
        }
    };
    block_on(run);
}

#[test]
fn each_lock_has_a_token_and_the_rest_of_the_metadata_stays() {
    block_on(async {
        let store = InMemory::new();
        let mut attributes = Attributes::new();
        attributes.insert(Attribute::ContentType, "text/plain".into());
        let options = PutOptions { attributes, ..PutOptions::default() };
        store.put_opts(&path(), "100".into(), options).await.unwrap();
        let other = Fence::new(FenceName::of_term("accountants"), 1);
        update(&store, &path(), fence(5), plus(1)).await.unwrap();
        update(&store, &path(), other, plus(1)).await.unwrap();
        update(&store, &path(), fence(5), plus(1)).await.unwrap();
        assert!(update(&store, &path(), fence(4), plus(1)).await.unwrap_err().is_stale());
        let attributes = store.get(&path()).await.unwrap().attributes;
        assert_eq!(attributes.len(), 3);
        assert_eq!(attributes.get(&Attribute::ContentType), Some(&"text/plain".into()));
        assert_eq!(balance(&store).await, "103");
    });
}

#[test]
fn a_mistake_loses_and_the_test_shows_it() {
    block_on(async {
        let store = InMemory::new();
        store.put(&path(), "100".into()).await.unwrap();
        // The earlier holder reads, and has the token checked; the later one writes; and the earlier
        // one puts without a condition.
        let read = plus(1)(Some(&balance(&store).await));
        update(&store, &path(), fence(6), plus(10)).await.unwrap();
        store.put(&path(), read.into()).await.unwrap();
        assert_eq!(balance(&store).await, "101", "10 are lost");
    });
}
