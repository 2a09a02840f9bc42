//! The types of the shared part as those of the protocol, and back.

use tooz_etcd3_core::{
    Compare, Event, Failure, KeyValue, Op, Order, Range, Reply, Test, Txn, TxnReply,
};

use crate::proto::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::range_request::{SortOrder, SortTarget};
use crate::proto::request_op::Request;
use crate::proto::response_op::Response;
use crate::proto::{self, event::EventType};

pub(crate) fn txn(txn: &Txn) -> proto::TxnRequest {
    proto::TxnRequest {
        compare: txn.when.iter().map(compare).collect(),
        success: txn.then.iter().map(op).collect(),
        failure: txn.or.iter().map(op).collect(),
    }
}

fn compare(compare: &Compare) -> proto::Compare {
    use CompareResult::{Equal, Greater, Less};
    use CompareTarget::{Create, Mod, Value};
    let (result, target, value) = match &compare.test {
        Test::CreatedAt(revision) => (Equal, Create, TargetUnion::CreateRevision(*revision)),
        Test::CreatedAfter(revision) => (Greater, Create, TargetUnion::CreateRevision(*revision)),
        Test::ModifiedAt(revision) => (Equal, Mod, TargetUnion::ModRevision(*revision)),
        Test::Value(value) => (Equal, Value, TargetUnion::Value(value.clone())),
        Test::ValueAbove(value) => (Greater, Value, TargetUnion::Value(value.clone())),
        Test::ValueBelow(value) => (Less, Value, TargetUnion::Value(value.clone())),
    };
    let Range { key, end } = compare.range.clone();
    proto::Compare {
        result: result.into(),
        target: target.into(),
        key,
        range_end: end,
        target_union: Some(value),
    }
}

fn op(op: &Op) -> proto::RequestOp {
    let request = match op.clone() {
        Op::Get(Range { key, end }, order) => {
            let mut range = proto::RangeRequest { key, range_end: end, ..Default::default() };
            if let Order::NewestUpTo(revision) = order {
                range.sort_order = SortOrder::Descend.into();
                range.sort_target = SortTarget::Create.into();
                range.max_create_revision = revision;
                range.limit = 1;
            }
            Request::RequestRange(range)
        }
        Op::Put { key, value, lease } => {
            Request::RequestPut(proto::PutRequest { key, value, lease })
        }
        Op::Delete(Range { key, end }) => {
            Request::RequestDeleteRange(proto::DeleteRangeRequest { key, range_end: end })
        }
    };
    proto::RequestOp { request: Some(request) }
}

pub(crate) fn txn_reply(reply: proto::TxnResponse) -> Result<TxnReply, Failure> {
    let replies = reply.responses.into_iter().map(|op| match op.response {
        Some(Response::ResponseRange(range)) => {
            Ok(Reply::Got(range.kvs.into_iter().map(key_value).collect()))
        }
        Some(Response::ResponsePut(_)) => Ok(Reply::Put),
        Some(Response::ResponseDeleteRange(range)) => Ok(Reply::Deleted(range.deleted)),
        None => Err(Failure::unexpected_answer()),
    });
    Ok(TxnReply {
        revision: reply.header.ok_or_else(Failure::unexpected_answer)?.revision,
        succeeded: reply.succeeded,
        replies: replies.collect::<Result<_, _>>()?,
    })
}

fn key_value(found: proto::KeyValue) -> KeyValue {
    KeyValue {
        key: found.key,
        value: found.value,
        create_revision: found.create_revision,
        mod_revision: found.mod_revision,
        lease: found.lease,
    }
}

pub(crate) fn event(event: proto::Event) -> Option<Event> {
    let kind = event.r#type();
    let found = event.kv?;
    Some(match kind {
        EventType::Put => Event::Put(key_value(found)),
        EventType::Delete => Event::Deleted { key: found.key, revision: found.mod_revision },
    })
}
