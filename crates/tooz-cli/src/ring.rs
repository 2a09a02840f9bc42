//! `tooz ring`: which member is responsible for what, and what would move.

use std::collections::BTreeMap;
use std::ffi::OsString;

use anyhow::Result;
use serde_json::{Value, json};
use tooz::hash_ring::{Diff, Hash};
use tooz::{GroupId, HashRing, MemberId};

use crate::connect::{Target, bytes};
use crate::output::{self, Output};

/// Shows the members of a group as a hash ring: their shares, and where keys go
///
/// Members have the weight that they publish, or 1. Keys go where every member's partitioner puts
/// them, in Rust or in Python.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The group
    #[arg(allow_hyphen_values = true)]
    group: OsString,
    /// Where do these keys go?
    keys: Vec<OsString>,
    /// How many members to show for each key, the owner first
    #[arg(long, default_value_t = 1, value_name = "N")]
    replicas: usize,
    /// What would move if this member left? May be repeated
    #[arg(long, value_name = "MEMBER")]
    without: Vec<OsString>,
    /// Points for each unit of weight, the same as the members use
    #[arg(long, default_value_t = HashRing::DEFAULT_POINTS, value_name = "N")]
    points: u32,
    /// The hash function, by its name in Python
    #[arg(long, default_value_t = Hash::default(), value_name = "NAME")]
    hash: Hash,
}

pub(crate) async fn run(target: &Target, args: Args, out: Output) -> Result<u8> {
    let group = GroupId::from(bytes(&args.group));
    let ring = target
        .with(async |coordinator| {
            let ring = coordinator
                .partitioned_group(group)
                .points(args.points)
                .hash(args.hash)
                .follow()
                .await?;
            Ok(ring.ring())
        })
        .await?;
    let mut rest = HashRing::clone(&ring);
    for member in &args.without {
        rest.remove(bytes(member))?;
    }
    let moves = Moves::of(&ring.diff(&rest)?);
    // With members left out, keys are shown where they would go.
    let keys = args.keys.iter().map(|key| (key, rest.nodes(bytes(key), args.replicas, &[])));
    if out.json {
        let keys = keys.map(|(key, members)| {
            let members: Vec<_> = members.into_iter().map(output::id).collect();
            json!({"key": key.to_string_lossy(), "members": members})
        });
        let mut shown = json!({"members": shares(&ring), "keys": keys.collect::<Vec<_>>()});
        if !args.without.is_empty() {
            shown["moves"] = moves.json();
        }
        out.value(&shown)?;
        return Ok(0);
    }
    if args.keys.is_empty() {
        for (member, share) in ring.shares() {
            let weight = ring.weight(member).unwrap_or_default();
            out.line(&format!("{:6.2} %  weight {weight}  {member}", share * 100.0))?;
        }
    }
    for (key, members) in keys {
        let members: Vec<_> = members.iter().map(ToString::to_string).collect();
        out.line(&format!("{}  {}", key.to_string_lossy(), members.join(" ")))?;
    }
    if !args.without.is_empty() {
        moves.print(out)?;
    }
    Ok(0)
}

fn shares(ring: &HashRing) -> Vec<Value> {
    let share = |(member, share): (&MemberId, f64)| {
        let weight = ring.weight(member).unwrap_or_default();
        json!({"member": output::id(member), "weight": weight, "share": share})
    };
    ring.shares().into_iter().map(share).collect()
}

/// How much moves, summed up by new owner.
struct Moves {
    fraction: f64,
    to: BTreeMap<MemberId, f64>,
}

impl Moves {
    fn of(diff: &Diff) -> Self {
        let mut to = BTreeMap::new();
        for moved in diff.moves() {
            if let Some(member) = &moved.to {
                *to.entry(member.clone()).or_insert(0.0) += moved.range.fraction();
            }
        }
        Self { fraction: diff.fraction(), to }
    }

    fn json(&self) -> Value {
        let to = self.to.iter().map(|(m, share)| json!({"member": output::id(m), "share": share}));
        json!({"share": self.fraction, "to": to.collect::<Vec<_>>()})
    }

    fn print(&self, out: Output) -> Result<()> {
        out.line(&format!("{:6.2} %  would move", self.fraction * 100.0))?;
        for (member, share) in &self.to {
            out.line(&format!("{:6.2} %  to {member}", share * 100.0))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_member_leaves_goes_to_the_others() {
        let mut ring = HashRing::new();
        ring.add_all([("a", 1), ("b", 1), ("c", 1)]).unwrap();
        let mut rest = ring.clone();
        rest.remove("b").unwrap();
        let moves = Moves::of(&ring.diff(&rest).unwrap());
        assert!((moves.fraction - ring.share("b").unwrap()).abs() < 1e-9);
        assert!((moves.to.values().sum::<f64>() - moves.fraction).abs() < 1e-9);
        assert!(!moves.to.contains_key(&MemberId::from("b")));
    }
}
