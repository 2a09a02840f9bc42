//! Capabilities: what one side writes the other reads, byte for byte.

use rmpv::Value;
use serde_json::json;

use super::groups::both_ways;
use crate::mixed_fleet::arena::{Arena, Times};
use crate::mixed_fleet::peer::{Outcome, Peer, Side, must};
use crate::mixed_fleet::worker::hex;

/// A value as each side has it.
struct Kind {
    name: &'static str,
    /// In the written form of `peer.py`.
    python: serde_json::Value,
    /// As it must be stored.
    msgpack: Value,
}

impl Kind {
    fn new(name: &'static str, python: serde_json::Value, msgpack: Value) -> Self {
        Self { name, python, msgpack }
    }

    fn of(&self, side: Side) -> serde_json::Value {
        match side {
            Side::Python => self.python.clone(),
            Side::Rust => {
                let mut bytes = Vec::new();
                rmpv::encode::write_value(&mut bytes, &self.msgpack).expect("a Vec takes all");
                hex(&bytes).into()
            }
        }
    }
}

/// A map whose keys are text.
fn map<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    Value::Map(pairs.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

/// One of the original's types, by its number.
fn extension(number: i8, payload: &Value) -> Value {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, payload).expect("a Vec takes all");
    Value::Ext(number, bytes)
}

fn kinds() -> Vec<Kind> {
    let moment = [
        ("day", 2.into()),
        ("month", 1.into()),
        ("year", 2020.into()),
        ("hour", 3.into()),
        ("minute", 4.into()),
        ("second", 5.into()),
        ("microsecond", 6.into()),
    ];
    let aware = moment.iter().cloned().chain([("tz", "UTC".into())]);
    let aware = Value::Map(aware.map(|(key, value)| (key.into(), value)).collect());
    let id = "00112233445566778899aabbccddeeff";
    let nested = map([
        ("list", Value::Array(vec![1.into(), 2.5.into(), true.into(), Value::Nil])),
        ("map", map([("deep", map([("deeper", Value::Array(vec![]))]))])),
    ]);
    vec![
        Kind::new("nil", json!(null), Value::Nil),
        Kind::new("empty bytes", json!({ "$bytes": "" }), Value::Binary(vec![])),
        Kind::new("empty map", json!({}), Value::Map(vec![])),
        Kind::new("text", json!("on"), "on".into()),
        Kind::new("weight", json!({ "weight": 3 }), map([("weight", 3.into())])),
        Kind::new(
            "nested",
            json!({ "list": [1, 2.5, true, null], "map": { "deep": { "deeper": [] } } }),
            nested,
        ),
        Kind::new(
            "bytes",
            json!({ "raw": { "$bytes": "00ff0a" } }),
            map([("raw", Value::Binary(vec![0, 255, 10]))]),
        ),
        Kind::new("unicode", json!({ "ключ": "höst ☃ 🦀" }), map([("ключ", "höst ☃ 🦀".into())])),
        Kind::new(
            "big integers",
            json!({ "least": i64::MIN, "most": u64::MAX }),
            map([("least", i64::MIN.into()), ("most", u64::MAX.into())]),
        ),
        Kind::new(
            "datetime",
            json!({ "at": { "$datetime": "2020-01-02T03:04:05.000006" } }),
            map([("at", extension(1, &map(moment)))]),
        ),
        Kind::new(
            "datetime of a zone",
            json!({ "at": { "$datetime": "2020-01-02T03:04:05.000006+00:00" } }),
            map([("at", extension(1, &aware))]),
        ),
        Kind::new(
            "uuid",
            json!({ "id": { "$uuid": "00112233-4455-6677-8899-aabbccddeeff" } }),
            map([("id", Value::Ext(0, id.as_bytes().to_vec()))]),
        ),
        Kind::new(
            "set",
            json!({ "of": { "$set": [7] } }),
            map([("of", extension(4, &Value::Array(vec![7.into()])))]),
        ),
    ]
}

fn reads(peer: &mut Peer, group: &str, member: &str, kind: &Kind) -> Outcome {
    let found: serde_json::Value =
        peer.ask("capabilities", json!({ "group": group, "member": member }))?;
    let expected = kind.of(peer.side);
    must!(found == expected, "{}, {}: {found} instead of {expected}", peer.member, kind.name);
    Ok(())
}

/// Every kind of value, each way.
pub(super) fn every_kind(arena: &Arena) -> Outcome {
    let (mut rust, mut python) = arena.both(Times::Default)?;
    let group = arena.name("group");
    python.on_group("create_group", &group)?;
    both_ways(&mut rust, &mut python, |writer, reader| {
        for kind in kinds() {
            let value = kind.of(writer.side);
            writer.ask::<()>("join", json!({ "group": group, "capabilities": value }))?;
            reads(reader, &group, &writer.member, &kind)?;
            reads(writer, &group, &writer.member.clone(), &kind)?;
            writer.on_group("leave", &group)?;
        }
        Ok(())
    })?;
    // What the original writes for "none" depends on its version.
    python.on_group("join_plain", &group)?;
    let found: String =
        rust.ask("capabilities", json!({ "group": group, "member": python.member }))?;
    must!(found == "c0" || found == "c400", "Python without capabilities has {found}");
    Ok(())
}

/// The other side sees what a member changed.
pub(super) fn update(arena: &Arena) -> Outcome {
    let (mut rust, mut python) = arena.both(Times::Default)?;
    let group = arena.name("group");
    rust.on_group("create_group", &group)?;
    both_ways(&mut rust, &mut python, |writer, reader| {
        writer.on_group("join_plain", &group)?;
        for kind in kinds().into_iter().filter(|kind| ["weight", "nested"].contains(&kind.name)) {
            let value = kind.of(writer.side);
            writer.ask::<()>("update", json!({ "group": group, "capabilities": value }))?;
            reads(reader, &group, &writer.member, &kind)?;
        }
        Ok(())
    })
}
