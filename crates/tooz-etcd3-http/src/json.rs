//! The types of the shared part as the gateway's JSON, and back: bytes in base64, 64-bit numbers as
//! text, and nothing where a value is the default.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use tooz_etcd3_core::{
    Compare, Event, Failure, KeyValue, Op, Order, Range, Reply, Test, Txn, TxnReply,
};

pub(crate) fn bytes(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The range in the form of `key` and `range_end`.
pub(crate) fn range(Range { key, end }: &Range) -> Value {
    let mut range = json!({ "key": bytes(key) });
    if !end.is_empty() {
        range["range_end"] = bytes(end).into();
    }
    range
}

pub(crate) fn txn(txn: &Txn) -> Value {
    json!({
        "compare": txn.when.iter().map(compare).collect::<Value>(),
        "success": txn.then.iter().map(op).collect::<Value>(),
        "failure": txn.or.iter().map(op).collect::<Value>(),
    })
}

fn compare(compare: &Compare) -> Value {
    let (result, target, name, value) = match &compare.test {
        Test::CreatedAt(at) => ("EQUAL", "CREATE", "create_revision", at.to_string()),
        Test::CreatedAfter(at) => ("GREATER", "CREATE", "create_revision", at.to_string()),
        Test::ModifiedAt(at) => ("EQUAL", "MOD", "mod_revision", at.to_string()),
        Test::Value(value) => ("EQUAL", "VALUE", "value", bytes(value)),
        Test::ValueAbove(value) => ("GREATER", "VALUE", "value", bytes(value)),
        Test::ValueBelow(value) => ("LESS", "VALUE", "value", bytes(value)),
    };
    let mut json = range(&compare.range);
    json["result"] = result.into();
    json["target"] = target.into();
    json[name] = value.into();
    json
}

fn op(op: &Op) -> Value {
    match op {
        Op::Get(keys, order) => {
            let mut get = range(keys);
            if let Order::NewestUpTo(revision) = order {
                get["sort_order"] = "DESCEND".into();
                get["sort_target"] = "CREATE".into();
                get["max_create_revision"] = revision.to_string().into();
                get["limit"] = "1".into();
            }
            json!({ "request_range": get })
        }
        Op::Put { key, value, lease } => json!({ "request_put": {
            "key": bytes(key),
            "value": bytes(value),
            "lease": lease.to_string(),
        }}),
        Op::Delete(keys) => json!({ "request_delete_range": range(keys) }),
    }
}

/// A 64-bit number, which comes as text.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Number(pub(crate) i64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Value::deserialize(from)? {
            Value::String(text) => text
                .parse()
                .map(Self)
                .map_err(|_| D::Error::invalid_value(Unexpected::Str(&text), &"a number")),
            Value::Number(number) => {
                number.as_i64().map(Self).ok_or_else(|| D::Error::custom("not a 64-bit number"))
            }
            _ => Err(D::Error::custom("neither a number nor text")),
        }
    }
}

/// Bytes, which come in base64.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map(Self).map_err(D::Error::custom)
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JsonKeyValue {
    key: Bytes,
    value: Bytes,
    create_revision: Number,
    mod_revision: Number,
    lease: Number,
}

impl From<JsonKeyValue> for KeyValue {
    fn from(found: JsonKeyValue) -> Self {
        Self {
            key: found.key.0,
            value: found.value.0,
            create_revision: found.create_revision.0,
            mod_revision: found.mod_revision.0,
            lease: found.lease.0,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct JsonTxnReply {
    header: Header,
    succeeded: bool,
    responses: Vec<JsonReply>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Header {
    revision: Number,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JsonReply {
    response_range: Option<Found>,
    response_put: Option<Value>,
    response_delete_range: Option<Deleted>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Found {
    kvs: Vec<JsonKeyValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Deleted {
    deleted: Number,
}

impl JsonTxnReply {
    pub(crate) fn read(self) -> Result<TxnReply, Failure> {
        let replies = self.responses.into_iter().map(JsonReply::read);
        Ok(TxnReply {
            revision: self.header.revision.0,
            succeeded: self.succeeded,
            replies: replies.collect::<Result<_, _>>()?,
        })
    }
}

impl JsonReply {
    fn read(self) -> Result<Reply, Failure> {
        match self {
            Self { response_range: Some(found), .. } => {
                Ok(Reply::Got(found.kvs.into_iter().map(KeyValue::from).collect()))
            }
            Self { response_put: Some(_), .. } => Ok(Reply::Put),
            Self { response_delete_range: Some(deleted), .. } => {
                Ok(Reply::Deleted(deleted.deleted.0))
            }
            _ => Err(Failure::unexpected_answer()),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct JsonEvent {
    r#type: String,
    kv: JsonKeyValue,
}

impl From<JsonEvent> for Event {
    fn from(event: JsonEvent) -> Self {
        match event.r#type.as_str() {
            "DELETE" => Self::Deleted { key: event.kv.key.0, revision: event.kv.mod_revision.0 },
            // The default, which is left out.
            _ => Self::Put(event.kv.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_in_the_gateways_form() {
        let group = Range::prefix(b"tooz/groups/g/");
        let json = txn(&Txn {
            when: vec![Compare { range: group.clone(), test: Test::CreatedAfter(7) }],
            then: vec![Op::Get(group, Order::NewestUpTo(6))],
            or: vec![Op::Put { key: b"k".into(), value: b"v".into(), lease: 9 }],
        });
        let range = json!({ "key": "dG9vei9ncm91cHMvZy8=", "range_end": "dG9vei9ncm91cHMvZzA=" });
        assert_eq!(json["compare"][0]["key"], range["key"]);
        assert_eq!(json["compare"][0]["range_end"], range["range_end"]);
        assert_eq!(json["compare"][0]["create_revision"], "7");
        assert_eq!(json["success"][0]["request_range"]["max_create_revision"], "6");
        assert_eq!(json["failure"][0]["request_put"]["lease"], "9");
    }

    #[test]
    fn what_is_left_out_is_the_default() {
        let text = r#"{"header":{"revision":"15832"},"responses":[
            {"response_range":{"header":{},"kvs":[{"key":"Zm9v","create_revision":"3"}],"count":"1"}},
            {"response_delete_range":{"header":{}}},
            {"response_put":{}}]}"#;
        let reply = serde_json::from_str::<JsonTxnReply>(text).unwrap().read().unwrap();
        assert_eq!((reply.revision, reply.succeeded), (15832, false));
        let [Reply::Got(found), Reply::Deleted(0), Reply::Put] = &reply.replies[..] else {
            panic!("{reply:?}");
        };
        let foo = KeyValue { key: b"foo".into(), create_revision: 3, ..KeyValue::default() };
        assert_eq!(found[..], [foo]);
    }
}
