//! The partitioner: both sides place each key with the same members.

use serde_json::json;

use super::SOON;
use crate::mixed_fleet::arena::{Arena, Times};
use crate::mixed_fleet::peer::{Outcome, Side, must};

const KEYS: usize = 10_000;

pub(super) fn places(arena: &Arena) -> Outcome {
    let sides = [Side::Rust, Side::Python, Side::Rust, Side::Python];
    let mut peers = arena.peers(&sides, Times::Default)?;
    let group = arena.name("group");
    for (peer, weight) in peers.iter_mut().zip([2, 1, 1, 3]) {
        peer.ask::<()>("partition", json!({ "group": group, "weight": weight }))?;
    }
    let mut places: Vec<Vec<Vec<String>>> = Vec::new();
    for peer in &mut peers {
        let within = SOON.as_secs_f64();
        let arguments = json!({ "group": group, "members": 4, "count": KEYS, "within": within });
        places.push(peer.ask("place", arguments)?);
    }
    must!(places.iter().all(|placed| placed.len() == KEYS), "not every key is placed");
    for (peer, placed) in peers.iter().zip(&places) {
        let other = (0..KEYS).find(|key| placed[*key] != places[0][*key]);
        if let Some(key) = other {
            let (here, there) = (&placed[key], &places[0][key]);
            return Err(format!(
                "key-{key} is with {here:?} for {}, with {there:?} for {}",
                peer.member, peers[0].member
            ));
        }
    }
    let owners: std::collections::BTreeSet<_> = places[0].iter().flatten().collect();
    must!(owners.len() == 4, "only {owners:?} have keys");
    Ok(())
}
