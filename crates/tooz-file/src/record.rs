//! The files of a group, as Python 9.1 writes and reads them.

use std::time::SystemTime;

use chrono::{DateTime, Datelike, Local, NaiveDate, NaiveDateTime, Timelike};
use rmpv::{Value, ValueRef, decode};
use sha1::{Digest, Sha1};
use tooz_core::{Capabilities, Error, ErrorKind, GroupId, Member, MemberId, Result};

/// The extension type of a date with time.
const DATETIME: i8 = 1;

/// A member's file: a map of `capabilities`, `joined_on`, `member_id`, `encoded` and, in ours, the
/// `session`; Python allows for more keys.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) member: MemberId,
    /// What the member publishes, byte for byte.
    pub(crate) capabilities: Capabilities,
    /// When it joined, by the local clock.
    pub(crate) joined_on: Option<NaiveDateTime>,
    /// The session that the member lives by. Python's members have none.
    pub(crate) session: Option<String>,
}

impl Record {
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut capabilities = self.capabilities.as_msgpack();
        // Whatever else would break the map that it becomes a part of.
        let whole = read_value(&mut capabilities).is_ok();
        if !whole || !capabilities.is_empty() {
            return Err(malformed("the capabilities are not one msgpack value"));
        }
        let joined_on = self.joined_on.unwrap_or_else(|| Local::now().naive_local());
        let mut map = Map::of(4 + u32::from(self.session.is_some()))?;
        map.key("capabilities")?.raw(self.capabilities.as_msgpack());
        map.key("joined_on")?.value(&datetime(joined_on)?)?;
        map.key("member_id")?.value(&Value::Binary(self.member.as_bytes().to_vec()))?;
        map.key("encoded")?.value(&Value::Boolean(false))?;
        if let Some(session) = &self.session {
            map.key("session")?.value(&Value::from(session.as_str()))?;
        }
        Ok(map.0)
    }

    pub(crate) fn decode(content: &[u8]) -> Result<Self> {
        let (mut member, mut capabilities) = (None, Capabilities::none());
        let (mut joined_on, mut session) = (None, None);
        for_each(content, |key, value, raw| match key {
            b"member_id" => member = bytes(value).map(MemberId::from),
            b"capabilities" => capabilities = Capabilities::from_msgpack(raw),
            b"joined_on" => joined_on = read_datetime(value),
            b"session" => session = text(value),
            _ => {}
        })?;
        let member = member.ok_or_else(|| malformed("the record has no member id"))?;
        Ok(Self { member, capabilities, joined_on, session })
    }

    /// The member, last changed at `updated_at`.
    pub(crate) fn into_member(self, updated_at: Option<SystemTime>) -> Member {
        let incarnation = self.incarnation();
        let mut member = Member::new(self.member, self.capabilities);
        member.joined_at = self
            .joined_on
            .and_then(|naive| naive.and_local_timezone(Local).earliest())
            .map(SystemTime::from);
        member.updated_at = updated_at;
        member.incarnation = incarnation;
        member
    }

    /// Differs between two memberships of an id: the session or the time does.
    fn incarnation(&self) -> u64 {
        let what = format!("{:?} {:?}", self.session, self.joined_on);
        let hash = Sha1::digest(what.as_bytes());
        hash.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

/// The content of a group's `.metadata`. Python allows for no more keys.
pub(crate) fn encode_group(group: &GroupId) -> Result<Vec<u8>> {
    let mut map = Map::of(2)?;
    map.key("group_id")?.value(&Value::Binary(group.as_bytes().to_vec()))?;
    map.key("encoded")?.value(&Value::Boolean(false))?;
    Ok(map.0)
}

pub(crate) fn decode_group(content: &[u8]) -> Result<GroupId> {
    let mut group = None;
    for_each(content, |key, value, _| {
        if key == b"group_id" {
            group = bytes(value).map(GroupId::from);
        }
    })?;
    group.ok_or_else(|| malformed("the metadata has no group id"))
}

/// A msgpack map that is being written.
struct Map(Vec<u8>);

impl Map {
    fn of(length: u32) -> Result<Self> {
        let mut map = Vec::new();
        rmp::encode::write_map_len(&mut map, length).map_err(|e| unwritten().caused_by(e))?;
        Ok(Self(map))
    }

    fn key(&mut self, key: &str) -> Result<&mut Self> {
        rmp::encode::write_str(&mut self.0, key).map_err(|e| unwritten().caused_by(e))?;
        Ok(self)
    }

    fn value(&mut self, value: &Value) -> Result<()> {
        rmpv::encode::write_value(&mut self.0, value).map_err(|e| unwritten().caused_by(e))
    }

    fn raw(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }
}

/// One value, nested no deeper than a process can bear.
fn read_value<'a>(content: &mut &'a [u8]) -> Result<ValueRef<'a>, decode::Error> {
    // The record is a map around the capabilities.
    decode::read_value_ref_with_max_depth(content, Capabilities::READ_DEPTH + 2)
}

/// Reads a map: each key, its value, and the bytes of its value. Keys are text, and bytes in old
/// files.
fn for_each(mut content: &[u8], mut pair: impl FnMut(&[u8], &ValueRef<'_>, &[u8])) -> Result<()> {
    let broken = |_| malformed("the file is not a whole msgpack map");
    let length = rmp::decode::read_map_len(&mut content)
        .map_err(|e| malformed("the file is not a msgpack map").caused_by(e))?;
    for _ in 0..length {
        let key = read_value(&mut content).map_err(broken)?;
        let before = content;
        let value = read_value(&mut content).map_err(broken)?;
        let raw = &before[..before.len() - content.len()];
        pair(bytes(&key).unwrap_or_default(), &value, raw);
    }
    Ok(())
}

fn bytes<'a>(value: &'a ValueRef<'a>) -> Option<&'a [u8]> {
    match value {
        ValueRef::String(text) => Some(text.as_bytes()),
        ValueRef::Binary(bytes) => Some(bytes),
        _ => None,
    }
}

fn text(value: &ValueRef<'_>) -> Option<String> {
    bytes(value).and_then(|bytes| String::from_utf8(bytes.to_vec()).ok())
}

fn datetime(time: NaiveDateTime) -> Result<Value> {
    let parts = [
        ("day", time.day()),
        ("month", time.month()),
        ("year", time.year().unsigned_abs()),
        ("hour", time.hour()),
        ("minute", time.minute()),
        ("second", time.second()),
        // Above a million in a leap second, which Python has not.
        ("microsecond", (time.nanosecond() / 1000).min(999_999)),
    ];
    let mut map = Map::of(parts.len() as u32)?;
    for (name, number) in parts {
        map.key(name)?.value(&Value::from(number))?;
    }
    Ok(Value::Ext(DATETIME, map.0))
}

/// `None` if it is no time, or one with a time zone, which tooz never writes.
fn read_datetime(value: &ValueRef<'_>) -> Option<NaiveDateTime> {
    let ValueRef::Ext(DATETIME, content) = value else { return None };
    let (mut date, mut time, mut zone) = ([0_u32; 3], [0_u32; 4], false);
    for_each(content, |key, value, _| {
        let number = value.as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(u32::MAX);
        match key {
            b"year" => date[0] = number,
            b"month" => date[1] = number,
            b"day" => date[2] = number,
            b"hour" => time[0] = number,
            b"minute" => time[1] = number,
            b"second" => time[2] = number,
            b"microsecond" => time[3] = number,
            _ => zone = true,
        }
    })
    .ok()?;
    let date = NaiveDate::from_ymd_opt(i32::try_from(date[0]).ok()?, date[1], date[2])?;
    date.and_hms_micro_opt(time[0], time[1], time[2], time[3]).filter(|_| !zone)
}

/// Now, as precise as it is written.
pub(crate) fn now() -> NaiveDateTime {
    let now: DateTime<Local> = Local::now();
    let micros = now.nanosecond() / 1000 * 1000;
    let naive = now.naive_local();
    naive.with_nanosecond(micros).unwrap_or(naive)
}

fn malformed(what: &str) -> Error {
    Error::new(ErrorKind::Serialization, what)
}

fn unwritten() -> Error {
    malformed("the record cannot be encoded")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::unhex;

    // Written by Python tooz 9.1.
    const WEIGHTY: &str = "84ac6361706162696c697469657383a677656967687403a4686f7374a568c3b67374a372\
        6177c4020102a96a6f696e65645f6f6ec73a0187a364617916a56d6f6e74680ba479656172cd07eaa4686f757204\
        a66d696e75746502a67365636f6e6403ab6d6963726f7365636f6e64cd3f54a96d656d6265725f6964c40a766563\
        2d6d656d626572a7656e636f646564c2";
    const OF_TEXT: &str = "84ac6361706162696c6974696573c0a96a6f696e65645f6f6ec73a0187a364617916a56d\
        6f6e74680ba479656172cd07eaa4686f757204a66d696e75746502a67365636f6e6403ab6d6963726f7365636f6e\
        64cd439ea96d656d6265725f6964c40a7374722d6d656d626572a7656e636f646564c3";
    const GROUP: &str = "82a867726f75705f6964c4097665632d67726f7570a7656e636f646564c2";
    const GROUP_OF_TEXT: &str = "82a867726f75705f6964c4097374722d67726f7570a7656e636f646564c3";

    fn python(hex: &str) -> Vec<u8> {
        unhex(hex).unwrap()
    }

    #[test]
    fn pythons_records_are_read_and_written_alike() {
        let record = Record::decode(&python(WEIGHTY)).unwrap();
        assert_eq!(record.member, MemberId::from("vec-member"));
        assert_eq!(record.session, None);
        let joined = NaiveDate::from_ymd_opt(2026, 11, 22).unwrap();
        assert_eq!(record.joined_on, joined.and_hms_micro_opt(4, 2, 3, 16212));
        assert_eq!(
            record.capabilities.as_msgpack(),
            b"\x83\xa6weight\x03\xa4host\xa5h\xc3\xb6st\xa3raw\xc4\x02\x01\x02"
        );
        assert_eq!(record.encode().unwrap(), python(WEIGHTY));
    }

    #[test]
    fn ids_that_are_text_in_python_are_the_same_ids() {
        let record = Record::decode(&python(OF_TEXT)).unwrap();
        assert_eq!(record.member, MemberId::from("str-member"));
        assert!(record.capabilities.is_none());
        assert_eq!(decode_group(&python(GROUP_OF_TEXT)).unwrap(), GroupId::from("str-group"));
    }

    #[test]
    fn pythons_groups_are_read_and_written_alike() {
        let group = GroupId::from("vec-group");
        assert_eq!(decode_group(&python(GROUP)).unwrap(), group);
        assert_eq!(encode_group(&group).unwrap(), python(GROUP));
    }

    #[test]
    fn capabilities_are_kept_byte_for_byte() {
        // A float32, an integer that is longer than it need be, a UUID, a set.
        let odd = b"\x94\xca\x3f\x80\x00\x00\xcd\x00\x01\xc7\x01\x00\x61\xd5\x04\x91\x01";
        let record = Record {
            member: MemberId::from(b"\xff"),
            capabilities: Capabilities::from_msgpack(&odd[..]),
            joined_on: Some(now()),
            session: Some("s".into()),
        };
        let read = Record::decode(&record.encode().unwrap()).unwrap();
        assert_eq!(read, record);
        assert_eq!(read.capabilities.as_msgpack(), odd);
    }

    #[test]
    fn two_memberships_differ() {
        let record = Record::decode(&python(WEIGHTY)).unwrap();
        let later = Record { session: Some("other".into()), ..record.clone() };
        assert_ne!(record.incarnation(), later.incarnation());
        let later = Record { joined_on: Some(now()), ..record.clone() };
        assert_ne!(record.incarnation(), later.incarnation());
        assert!(record.into_member(None).joined_at.is_some());
    }

    #[test]
    fn torn_files_are_told_from_whole_ones() {
        let whole = python(WEIGHTY);
        for length in 0..whole.len() {
            assert!(Record::decode(&whole[..length]).is_err(), "{length}");
        }
        let two = Record {
            capabilities: Capabilities::from_msgpack(&b"\x01\x02"[..]),
            ..Record::decode(&whole).unwrap()
        };
        assert!(two.encode().is_err());
    }
}
