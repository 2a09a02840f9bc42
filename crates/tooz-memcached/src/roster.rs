//! The item of a group: its members with what they publish, in msgpack, as the original has it.
//!
//! What ours know beyond that is in the member's own map, under a key of its own, where the original
//! keeps whatever it does not know.

use std::time::{Duration, SystemTime};

use tooz_core::{Capabilities, Error, ErrorKind, Member, MemberId, Result};

use crate::msgpack;
use crate::wire::{How, Item, MSGPACK, Request, Seconds};

const CAPABILITIES: &[u8] = b"capabilities";
const RECORD: &[u8] = b"tooz";

/// The members of a group, in the order in which they joined.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Roster(Vec<(MemberId, Entry)>);

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// In msgpack, whatever it is.
    capabilities: Vec<u8>,
    /// `None` for a member of the original.
    record: Option<Record>,
    /// Keys that neither side knows, in msgpack.
    rest: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What ours keep of a membership: `[session, incarnation, joined, updated]`, times in
/// milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) session: String,
    pub(crate) incarnation: u64,
    pub(crate) joined: u64,
    pub(crate) updated: u64,
}

fn odd() -> Error {
    Error::new(ErrorKind::Serialization, "the item of a group is malformed")
}

impl Roster {
    /// Reads an item; `None` for nil, by which the original says that the group is being deleted.
    pub(crate) fn read(item: &Item) -> Result<Option<Self>> {
        if item.flags != MSGPACK {
            return Err(odd().with("flags", item.flags));
        }
        if item.value == msgpack::NIL {
            return Ok(None);
        }
        let members = msgpack::map(&item.value).ok_or_else(odd)?.into_iter().map(|(id, entry)| {
            let id = msgpack::bytes(id).ok_or_else(odd)?;
            Ok((MemberId::from(id), Entry::read(entry)?))
        });
        members.collect::<Result<_>>().map(|members| Some(Self(members)))
    }

    /// That of a group's item; `None` if there is no group.
    pub(crate) fn of(item: Option<&Item>) -> Result<Option<Self>> {
        Ok(item.map(Self::read).transpose()?.flatten())
    }

    /// What writes it to a group's item.
    pub(crate) fn store(&self, key: &[u8], how: How) -> Result<Request> {
        Ok(Request::store(key, how, MSGPACK, Seconds::FOR_EVER, self.write()?))
    }

    fn write(&self) -> Result<Vec<u8>> {
        let mut written = Vec::new();
        msgpack::write_map(self.0.len(), &mut written);
        for (id, entry) in &self.0 {
            msgpack::write_bytes(id.as_bytes(), &mut written)?;
            entry.write(&mut written)?;
        }
        Ok(written)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&MemberId, &Entry)> {
        self.0.iter().map(|(id, entry)| (id, entry))
    }

    pub(crate) fn get(&self, member: &MemberId) -> Option<&Entry> {
        self.0.iter().find(|(id, _)| id == member).map(|(_, entry)| entry)
    }

    /// The member's entry, if it joined in that session.
    pub(crate) fn of_session(&self, member: &MemberId, session: &str) -> Option<&Entry> {
        self.get(member).filter(|entry| entry.session() == Some(session))
    }

    /// The same, to be changed.
    pub(crate) fn of_session_mut(
        &mut self,
        member: &MemberId,
        session: &str,
    ) -> Option<&mut Entry> {
        let mut entries = self.0.iter_mut();
        let (_, entry) = entries.find(|(id, _)| id == member)?;
        (entry.session() == Some(session)).then_some(entry)
    }

    pub(crate) fn insert(&mut self, member: &MemberId, entry: Entry) {
        self.remove(member);
        self.0.push((member.clone(), entry));
    }

    pub(crate) fn remove(&mut self, member: &MemberId) {
        self.0.retain(|(id, _)| id != member);
    }

    /// All as the API shows them, in the order of their ids.
    pub(crate) fn into_members(self) -> Vec<Member> {
        let members = self.0.into_iter().map(|(id, entry)| entry.into_member(id));
        let mut members: Vec<_> = members.collect();
        members.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        members
    }
}

impl Entry {
    pub(crate) fn new(capabilities: &Capabilities, record: Record) -> Result<Self> {
        let capabilities = whole(capabilities)?;
        Ok(Self { capabilities, record: Some(record), rest: Vec::new() })
    }

    pub(crate) fn session(&self) -> Option<&str> {
        self.record.as_ref().map(|record| record.session.as_str())
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.record.as_ref().map_or(0, |record| record.incarnation)
    }

    pub(crate) fn update(&mut self, capabilities: &Capabilities) -> Result<()> {
        self.capabilities = whole(capabilities)?;
        if let Some(record) = &mut self.record {
            record.updated = now();
        }
        Ok(())
    }

    pub(crate) fn into_member(self, id: MemberId) -> Member {
        let capabilities = Capabilities::from_msgpack(self.capabilities);
        let mut member = Member::new(id, capabilities);
        if let Some(record) = self.record {
            let time = |ms| Some(SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
            member.incarnation = record.incarnation;
            (member.joined_at, member.updated_at) = (time(record.joined), time(record.updated));
        }
        member
    }

    fn read(value: &[u8]) -> Result<Self> {
        let nil = msgpack::NIL.to_vec();
        let mut entry = Self { capabilities: nil, record: None, rest: Vec::new() };
        for (key, value) in msgpack::map(value).ok_or_else(odd)? {
            match msgpack::bytes(key) {
                Some(CAPABILITIES) => entry.capabilities = value.to_vec(),
                Some(RECORD) => entry.record = Record::read(value),
                _ => entry.rest.push((key.to_vec(), value.to_vec())),
            }
        }
        Ok(entry)
    }

    fn write(&self, to: &mut Vec<u8>) -> Result<()> {
        msgpack::write_map(1 + usize::from(self.record.is_some()) + self.rest.len(), to);
        msgpack::write_bytes(CAPABILITIES, to)?;
        to.extend(&self.capabilities);
        if let Some(record) = &self.record {
            msgpack::write_bytes(RECORD, to)?;
            record.write(to)?;
        }
        for (key, value) in &self.rest {
            to.extend([&key[..], value].concat());
        }
        Ok(())
    }
}

impl Record {
    /// A membership that begins now.
    pub(crate) fn new(session: &str, incarnation: u64) -> Self {
        let now = now();
        Self { session: session.to_owned(), incarnation, joined: now, updated: now }
    }

    fn read(value: &[u8]) -> Option<Self> {
        let [session, incarnation, joined, updated] = msgpack::array(value)?[..] else {
            return None;
        };
        Some(Self {
            session: String::from_utf8(msgpack::bytes(session)?.to_vec()).ok()?,
            incarnation: msgpack::number(incarnation)?,
            joined: msgpack::number(joined)?,
            updated: msgpack::number(updated)?,
        })
    }

    fn write(&self, to: &mut Vec<u8>) -> Result<()> {
        msgpack::write_array(4, to);
        msgpack::write_bytes(self.session.as_bytes(), to)?;
        for number in [self.incarnation, self.joined, self.updated] {
            msgpack::write_number(number, to)?;
        }
        Ok(())
    }
}

/// The capabilities as they are stored: one value, or the whole group would be unreadable. Empty
/// bytes, by which the original up to 8.1 said "none", stay that.
fn whole(capabilities: &Capabilities) -> Result<Vec<u8>> {
    match msgpack::split(capabilities.as_msgpack()) {
        Some((value, [])) => Ok(value.to_vec()),
        _ => {
            Err(Error::new(ErrorKind::Serialization, "the capabilities are not one msgpack value"))
        }
    }
}

fn now() -> u64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
    u64::try_from(now).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(value: &[u8]) -> Item {
        Item { cas: 1, flags: MSGPACK, value: value.to_vec(), left: None }
    }

    /// `{b"m1": {b"capabilities": {"weight": 2}}, b"m2": {b"capabilities": None}}`, as the original
    /// wrote it.
    const PYTHON: &[u8] = b"\x82\xc4\x02m1\x81\xc4\x0ccapabilities\x81\xa6weight\x02\
        \xc4\x02m2\x81\xc4\x0ccapabilities\xc0";

    #[test]
    fn a_group_of_the_original_is_read_and_written_alike() {
        assert_eq!(PYTHON.len(), 49);
        let roster = Roster::read(&item(PYTHON)).unwrap().unwrap();
        assert_eq!(roster.write().unwrap(), PYTHON);
        let members = roster.into_members();
        assert_eq!(members[0].id, "m1".into());
        assert_eq!(members[0].capabilities.as_msgpack(), b"\x81\xa6weight\x02");
        assert!(members[1].capabilities.is_none() && members[1].incarnation == 0);
        assert_eq!(Roster::default().write().unwrap(), [0x80]);
        assert_eq!(Roster::read(&item(&[0xc0])).unwrap(), None);
    }

    #[test]
    fn records_live_in_the_members_own_map() {
        let mut roster = Roster::read(&item(PYTHON)).unwrap().unwrap();
        let capabilities = Capabilities::encode(&7).unwrap();
        let record = Record::new("s", u64::MAX);
        roster.insert(&"m3".into(), Entry::new(&capabilities, record.clone()).unwrap());
        let written = roster.write().unwrap();
        assert!(written.starts_with(&[0x83]) && written[1..].starts_with(&PYTHON[1..]));
        let read = Roster::read(&item(&written)).unwrap().unwrap();
        assert_eq!(read, roster);
        let entry = read.of_session(&"m3".into(), "s").unwrap();
        assert_eq!((entry.incarnation(), entry.record.as_ref()), (u64::MAX, Some(&record)));
        assert!(read.of_session(&"m3".into(), "t").is_none());
        assert!(read.of_session(&"m1".into(), "s").is_none());
    }

    #[test]
    fn capabilities_are_written_as_they_were_given() {
        for given in [&b"\xc0"[..], b"\xc4\x00", b"\x81\xa1u\xd4\x00x"] {
            let capabilities = Capabilities::from_msgpack(given);
            let entry = Entry::new(&capabilities, Record::new("s", 1)).unwrap();
            assert_eq!(entry.into_member("m".into()).capabilities.as_msgpack(), given);
        }
    }

    #[test]
    fn capabilities_that_nobody_can_read_hide_no_member() {
        let mut deep = vec![0x91; 100_000];
        deep.push(0xc0);
        for odd in [&deep[..], b"\xc1", b"\xa1\xff", b"\xc7\x00\x09"] {
            let mut group = PYTHON.to_vec();
            group[0] = 0x83;
            group.extend(b"\xc4\x01x\x81\xc4\x0ccapabilities");
            group.extend(odd);
            let roster = Roster::read(&item(&group)).unwrap().unwrap();
            assert_eq!(roster.write().unwrap(), group);
            let members = roster.into_members();
            assert_eq!(members.len(), 3);
            assert_eq!(members[2].capabilities.as_msgpack(), odd);
        }
        // More than one value would shift all that follows.
        for refused in [&b"\xc0\xc0"[..], b"\x91", b"\xda"] {
            let capabilities = Capabilities::from_msgpack(refused);
            assert!(Entry::new(&capabilities, Record::new("s", 1)).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn what_nobody_knows_is_kept() {
        let odd = b"\x81\xc4\x01m\x82\xc4\x0ccapabilities\xc4\x00\xa1x\x01";
        let mut roster = Roster::read(&item(odd)).unwrap().unwrap();
        assert_eq!(roster.write().unwrap(), odd);
        roster.remove(&"m".into());
        assert!(roster.is_empty());
    }

    #[test]
    fn something_else_is_refused() {
        for bytes in [&b"\x01"[..], b"\x81\x01\x02", b"\x81\xc4\x01m\x01", b"\xc4"] {
            assert!(Roster::read(&item(bytes)).is_err(), "{bytes:?}");
        }
        assert!(Roster::read(&Item { flags: 1, ..item(PYTHON) }).is_err());
    }
}
