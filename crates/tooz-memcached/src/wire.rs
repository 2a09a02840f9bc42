//! Requests and answers as they are on the wire. No I/O but reading from a buffer.
//!
//! Writing is done by the classic commands on every server: on a full server the meta command `ms`
//! removes the item that it fails to replace, and that may be the lock of somebody else.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};
use tooz_core::{Error, Result};

use crate::errors;

/// memcached takes a time above 30 days for a date.
pub(crate) const LONGEST_TIME: Duration = Duration::from_secs(29 * 24 * 3600);

/// The longest value that is read: an item has at most 1 MB unless the server's option -I says
/// otherwise, and nothing of ours needs more.
const LONGEST_VALUE: usize = 16 << 20;

/// The longest line that is read. No line of a server is a quarter as long.
const LONGEST_LINE: u64 = 16 << 10;

/// How many statistics and how many keys an answer may have.
const MOST_STATS: usize = 1 << 10;
const MOST_KEYS: usize = 1 << 20;

/// The flags of the original: raw bytes, or msgpack.
pub(crate) const RAW: u32 = 1;
pub(crate) const MSGPACK: u32 = 2;

/// A time to live in seconds; 0 is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seconds(pub(crate) u64);

impl Seconds {
    pub(crate) const FOR_EVER: Self = Self(0);

    /// No less than `time`: the server counts whole seconds and may begin in the middle of one.
    pub(crate) fn at_least(time: Duration) -> Self {
        Self(time.as_millis().div_ceil(1000) as u64 + 1)
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Request {
    /// The item, whose time to live starts again if one is given.
    Get(Vec<u8>, Option<Seconds>),
    /// The item without its value, where the protocol can.
    Look(Vec<u8>),
    Store(Store),
    /// Lets an item of a CAS id live on, and gives it the next CAS id: what is stored is what it
    /// holds. Where there are meta commands it is marked instead, which needs no memory.
    Renew(Store),
    /// Removes the item of this CAS id.
    Delete(Vec<u8>, u64),
    /// Whether there are meta commands.
    Meta,
    Version,
    Stats(&'static str),
    /// Every key on the server, by its hash table: the queues by age are reordered all the time. Must
    /// be sent alone.
    Keys,
}

#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub(crate) key: Vec<u8>,
    pub(crate) how: How,
    pub(crate) flags: u32,
    pub(crate) ttl: Seconds,
    pub(crate) value: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// Whatever is there.
    Set,
    /// If nothing is there.
    Add,
    /// If the item of this CAS id is there.
    Swap(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) cas: u64,
    pub(crate) flags: u32,
    pub(crate) value: Vec<u8>,
    /// How many seconds it had to live before the request; `None` for ever, or where the protocol
    /// does not say.
    pub(crate) left: Option<u64>,
}

/// What became of a store or a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Done,
    /// Something else is there.
    Refused,
    /// Nothing is there.
    Missing,
}

#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Item(Option<Item>),
    Change(Change),
    Meta(bool),
    Version(String),
    Stats(BTreeMap<String, String>),
    Keys(Vec<Vec<u8>>),
    /// The server's error.
    Failed(String),
}

/// The replies to so many requests.
pub(crate) fn each<const N: usize>(replies: Vec<Reply>) -> Result<[Reply; N]> {
    replies.try_into().map_err(|_| Error::unexpected_answer())
}

impl Reply {
    pub(crate) fn item(self) -> Result<Option<Item>> {
        match self {
            Self::Item(item) => Ok(item),
            Self::Failed(text) => Err(errors::server_said(&text)),
            _ => Err(Error::unexpected_answer()),
        }
    }

    pub(crate) fn change(&self) -> Result<Change> {
        match self {
            Self::Change(change) => Ok(*change),
            Self::Failed(text) => Err(errors::server_said(text)),
            _ => Err(Error::unexpected_answer()),
        }
    }

    /// The server's error, if it is one.
    pub(crate) fn error(&self) -> Option<Error> {
        match self {
            Self::Failed(text) => Some(errors::server_said(text)),
            _ => None,
        }
    }
}

impl Request {
    pub(crate) fn get(key: &[u8]) -> Self {
        Self::Get(key.to_vec(), None)
    }

    pub(crate) fn store(key: &[u8], how: How, flags: u32, ttl: Seconds, value: Vec<u8>) -> Self {
        Self::Store(Store { key: key.to_vec(), how, flags, ttl, value })
    }

    /// Whether carrying it out twice is the same as once, and a lost answer no loss.
    pub(crate) fn only_reads(&self) -> bool {
        !matches!(self, Self::Store(_) | Self::Renew(_) | Self::Delete(..))
    }

    pub(crate) fn write(&self, meta: bool, to: &mut Vec<u8>) {
        match self {
            Self::Get(key, touch) if meta => {
                push(to, &[b"mg ", key, b" c f t v"]);
                if let Some(Seconds(ttl)) = touch {
                    push(to, &[b" T", ttl.to_string().as_bytes()]);
                }
            }
            Self::Get(key, Some(Seconds(ttl))) => {
                push(to, &[b"gats ", ttl.to_string().as_bytes(), b" ", key]);
            }
            Self::Look(key) if meta => push(to, &[b"mg ", key, b" c t"]),
            Self::Get(key, None) | Self::Look(key) => push(to, &[b"gets ", key]),
            // "Stale" means nothing to anybody here, and the next store ends it.
            Self::Renew(Store { key, how: How::Swap(cas), ttl, .. }) if meta => {
                let (cas, ttl) = (cas.to_string(), ttl.0.to_string());
                push(to, &[b"md ", key, b" C", cas.as_bytes(), b" I T", ttl.as_bytes()]);
            }
            Self::Store(store) | Self::Renew(store) => return store.write(to),
            Self::Delete(key, cas) if meta => {
                push(to, &[b"md ", key, b" C", cas.to_string().as_bytes()]);
            }
            // An item that has expired already.
            Self::Delete(key, cas) => {
                push(to, &[b"cas ", key, b" 1 -1 0 ", cas.to_string().as_bytes(), b"\r\n"]);
            }
            Self::Meta => push(to, &[b"mn"]),
            Self::Version => push(to, &[b"version"]),
            Self::Stats("") => push(to, &[b"stats"]),
            Self::Stats(of) => push(to, &[b"stats ", of.as_bytes()]),
            Self::Keys => push(to, &[b"lru_crawler metadump hash"]),
        }
        to.extend(b"\r\n");
    }
}

impl Store {
    fn write(&self, to: &mut Vec<u8>) {
        let command: &[u8] = match self.how {
            How::Set => b"set ",
            How::Add => b"add ",
            How::Swap(_) => b"cas ",
        };
        let numbers = format!(" {} {} {}", self.flags, self.ttl.0, self.value.len());
        push(to, &[command, &self.key, numbers.as_bytes()]);
        if let How::Swap(cas) = self.how {
            push(to, &[b" ", cas.to_string().as_bytes()]);
        }
        push(to, &[b"\r\n", &self.value, b"\r\n"]);
    }
}

fn push(to: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        to.extend_from_slice(part);
    }
}

// ---- Answers.

/// What kind of answer a request has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    MetaItem,
    ClassicItem,
    Change,
    Meta,
    Version,
    Stats,
    Keys,
}

impl Request {
    pub(crate) fn expects(&self, meta: bool) -> Expected {
        match self {
            Self::Get(..) | Self::Look(_) if meta => Expected::MetaItem,
            Self::Get(..) | Self::Look(_) => Expected::ClassicItem,
            Self::Store(_) | Self::Renew(_) | Self::Delete(..) => Expected::Change,
            Self::Meta => Expected::Meta,
            Self::Version => Expected::Version,
            Self::Stats(_) => Expected::Stats,
            Self::Keys => Expected::Keys,
        }
    }
}

/// Reads one answer. An error means that the rest of the stream no longer makes sense.
pub(crate) async fn read(
    from: &mut (impl AsyncBufRead + Unpin),
    expected: Expected,
) -> io::Result<Reply> {
    let line = line(from).await?;
    let words: Vec<&str> = line.split(' ').collect();
    if let ["ERROR" | "CLIENT_ERROR" | "SERVER_ERROR", what @ ..] = &words[..] {
        return Ok(match expected {
            // A command that it does not know.
            Expected::Meta if what.is_empty() => Reply::Meta(false),
            _ => Reply::Failed(line),
        });
    }
    match (expected, &words[..]) {
        (Expected::MetaItem, ["EN"]) => Ok(Reply::Item(None)),
        (Expected::MetaItem, ["HD", flags @ ..]) => meta_item(flags, Vec::new()),
        (Expected::MetaItem, ["VA", size, flags @ ..]) => {
            let value = value(from, size).await?;
            meta_item(flags, value)
        }
        (Expected::ClassicItem, ["END"]) => Ok(Reply::Item(None)),
        (Expected::ClassicItem, ["VALUE", _, flags, size, cas]) => {
            let (flags, cas) = (number(flags)?, number(cas)?);
            let value = value(from, size).await?;
            match self::line(from).await?.as_str() {
                "END" => Ok(Reply::Item(Some(Item { cas, flags, value, left: None }))),
                other => Err(odd(other)),
            }
        }
        (Expected::Change, ["STORED" | "HD" | "DELETED"]) => Ok(Reply::Change(Change::Done)),
        (Expected::Change, ["NOT_STORED" | "EXISTS" | "EX" | "NS"]) => {
            Ok(Reply::Change(Change::Refused))
        }
        (Expected::Change, ["NOT_FOUND" | "NF"]) => Ok(Reply::Change(Change::Missing)),
        (Expected::Meta, ["MN"]) => Ok(Reply::Meta(true)),
        (Expected::Version, ["VERSION", version @ ..]) => Ok(Reply::Version(version.join(" "))),
        (Expected::Stats, _) => stats(from, line).await,
        (Expected::Keys, _) => all_keys(from, line).await,
        _ => Err(odd(&line)),
    }
}

fn meta_item(words: &[&str], value: Vec<u8>) -> io::Result<Reply> {
    let mut item = Item { cas: 0, flags: 0, value, left: None };
    for word in words {
        match word.split_at_checked(1) {
            Some(("c", cas)) => item.cas = number(cas)?,
            Some(("f", flags)) => item.flags = number(flags)?,
            Some(("t", left)) => item.left = left.parse().ok(),
            // Renewed, and who has seen that.
            Some(("W" | "X" | "Z", "")) => {}
            _ => return Err(odd(word)),
        }
    }
    Ok(Reply::Item(Some(item)))
}

async fn stats(from: &mut (impl AsyncBufRead + Unpin), first: String) -> io::Result<Reply> {
    let (mut stats, mut line, mut lines) = (BTreeMap::new(), first, 0);
    while line != "END" {
        lines += 1;
        if lines > MOST_STATS {
            return Err(odd("more statistics than there are"));
        }
        let stat = line.strip_prefix("STAT ").ok_or_else(|| odd(&line))?;
        let (name, value) = stat.split_once(' ').unwrap_or((stat, ""));
        stats.insert(name.to_owned(), value.to_owned());
        line = self::line(from).await?;
    }
    Ok(Reply::Stats(stats))
}

async fn all_keys(from: &mut (impl AsyncBufRead + Unpin), first: String) -> io::Result<Reply> {
    let (mut keys, mut line) = (Vec::new(), first);
    while line != "END" {
        if line.starts_with("BUSY") {
            return Ok(Reply::Failed(line));
        }
        if keys.len() >= MOST_KEYS {
            return Err(odd("too many keys"));
        }
        let key = line.strip_prefix("key=").and_then(|rest| rest.split(' ').next());
        keys.push(percent_decode(key.ok_or_else(|| odd(&line))?));
        line = self::line(from).await?;
    }
    Ok(Reply::Keys(keys))
}

fn percent_decode(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        let digits = (byte == b'%').then(|| [bytes.next(), bytes.next()].map(hex));
        decoded.push(match digits {
            Some([Some(high), Some(low)]) => high << 4 | low,
            _ => byte,
        });
    }
    decoded
}

fn hex(digit: Option<u8>) -> Option<u8> {
    char::from(digit?).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

async fn line(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<String> {
    let mut line = Vec::new();
    let read = from.take(LONGEST_LINE).read_until(b'\n', &mut line).await?;
    if line.pop() != Some(b'\n') {
        return Err(match read as u64 == LONGEST_LINE {
            true => odd("a line without an end"),
            false => io::ErrorKind::UnexpectedEof.into(),
        });
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    // Keys are the only part of a line that need not be text, and nobody reads them from there.
    Ok(String::from_utf8_lossy(&line).into_owned())
}

async fn value(from: &mut (impl AsyncBufRead + Unpin), size: &str) -> io::Result<Vec<u8>> {
    let size: usize = number(size)?;
    if size > LONGEST_VALUE {
        return Err(odd("a value that is too long"));
    }
    // It takes memory as it comes, and not as it is promised.
    let mut value = Vec::new();
    if from.take(size as u64 + 2).read_to_end(&mut value).await? < size + 2 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if !value.ends_with(b"\r\n") {
        return Err(odd("a value without an end"));
    }
    value.truncate(size);
    Ok(value)
}

fn number<T: std::str::FromStr>(text: &str) -> io::Result<T> {
    text.parse().map_err(|_| odd(text))
}

fn odd(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not an answer of memcached: {what:?}"))
}

#[cfg(test)]
mod tests {
    use tokio::io::BufReader;

    use super::*;

    fn written(request: &Request, meta: bool) -> String {
        let mut bytes = Vec::new();
        request.write(meta, &mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    async fn read_all(mut bytes: &[u8], expected: Expected) -> io::Result<Reply> {
        let reply = read(&mut bytes, expected).await?;
        assert!(bytes.is_empty(), "{} bytes are left", bytes.len());
        Ok(reply)
    }

    #[test]
    fn requests_of_both_protocols() {
        let get = Request::Get(b"k".to_vec(), Some(Seconds(5)));
        assert_eq!(written(&get, true), "mg k c f t v T5\r\n");
        assert_eq!(written(&get, false), "gats 5 k\r\n");
        assert_eq!(written(&Request::Look(b"k".to_vec()), true), "mg k c t\r\n");
        assert_eq!(written(&Request::get(b"k"), false), "gets k\r\n");
        let delete = Request::Delete(b"k".to_vec(), 7);
        assert_eq!(written(&delete, true), "md k C7\r\n");
        assert_eq!(written(&delete, false), "cas k 1 -1 0 7\r\n\r\n");
        let swap = Request::store(b"k", How::Swap(7), RAW, Seconds(3), b"abc".to_vec());
        assert_eq!(written(&swap, true), "cas k 1 3 3 7\r\nabc\r\n");
    }

    #[test]
    fn a_renewal_needs_no_memory_where_there_are_meta_commands() {
        let swap = Request::store(b"k", How::Swap(7), RAW, Seconds(3), b"abc".to_vec());
        let Request::Store(store) = swap else { panic!() };
        let renew = Request::Renew(store);
        assert_eq!(written(&renew, true), "md k C7 I T3\r\n");
        assert_eq!(written(&renew, false), "cas k 1 3 3 7\r\nabc\r\n");
    }

    #[tokio::test]
    async fn answers_without_end_are_given_up() {
        // A server that never stops: each of these would take all memory.
        let line = tokio::io::repeat(b'x');
        let stats = Endless(b"STAT name value\r\n");
        let keys = Endless(b"key=k exp=1\r\n");
        let value = Endless(b"VA 999999999 c1\r\n");
        assert!(read(&mut BufReader::new(line), Expected::Change).await.is_err());
        assert!(read(&mut BufReader::new(value), Expected::MetaItem).await.is_err());
        assert!(read(&mut BufReader::new(keys), Expected::Keys).await.is_err());
        assert!(read(&mut BufReader::new(stats), Expected::Stats).await.is_err());
    }

    /// The same bytes again and again.
    struct Endless(&'static [u8]);

    impl tokio::io::AsyncRead for Endless {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            for _ in 0..(buffer.remaining() / self.0.len()) {
                buffer.put_slice(self.0);
            }
            std::task::Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn an_item_lives_no_shorter_than_it_is_said_to() {
        assert_eq!(Seconds::at_least(Duration::from_secs(2)), Seconds(3));
        assert_eq!(Seconds::at_least(Duration::from_millis(2001)), Seconds(4));
    }

    #[tokio::test]
    async fn answers_of_both_protocols() {
        let item = |left| Item { cas: 9, flags: 1, value: b"a\r\n".to_vec(), left };
        let meta = read_all(b"VA 3 c9 f1 t4\r\na\r\n\r\n", Expected::MetaItem).await.unwrap();
        assert_eq!(meta.item().unwrap(), Some(item(Some(4))));
        let classic = b"VALUE k 1 3 9\r\na\r\n\r\nEND\r\n";
        let classic = read_all(classic, Expected::ClassicItem).await.unwrap();
        assert_eq!(classic.item().unwrap(), Some(item(None)));
        for (answer, change) in [
            (&b"STORED\r\n"[..], Change::Done),
            (b"HD\r\n", Change::Done),
            (b"EXISTS\r\n", Change::Refused),
            (b"NF\r\n", Change::Missing),
        ] {
            let reply = read_all(answer, Expected::Change).await.unwrap();
            assert_eq!(reply.change().unwrap(), change);
        }
        let forever = read_all(b"HD c9 t-1\r\n", Expected::MetaItem).await.unwrap();
        assert_eq!(forever.item().unwrap().unwrap().left, None);
        let keys = read_all(b"key=a%20b exp=1\r\nEND\r\n", Expected::Keys).await.unwrap();
        assert!(matches!(keys, Reply::Keys(keys) if keys == [b"a b"]));
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error() {
        for (bytes, expected) in [
            (&b"HELLO\r\n"[..], Expected::Change),
            (b"VA x c1\r\n", Expected::MetaItem),
            (b"VA 1 c1\r\nabc", Expected::MetaItem),
            (b"VA 99999999999 c1\r\n", Expected::MetaItem),
            (b"STORED", Expected::Change),
        ] {
            assert!(read(&mut { bytes }, expected).await.is_err(), "{bytes:?}");
        }
        let refused = read(&mut &b"SERVER_ERROR out of memory\r\n"[..], Expected::Change).await;
        let error = refused.unwrap().change().unwrap_err();
        assert!(error.to_string().contains("the server is out of memory"), "{error}");
    }
}
