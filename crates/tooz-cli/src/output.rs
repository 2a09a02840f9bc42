//! What the command prints: data on standard output, as text or JSON, and the rest on standard
//! error.
//!
//! # Capabilities as JSON
//!
//! A peer may have stored anything that msgpack can express. What JSON cannot express becomes an
//! object with one key that begins with a dollar sign:
//!
//! | stored | printed |
//! |---|---|
//! | bytes, text that is not UTF-8 | `{"$bytes": "00ff"}` |
//! | a number that is not finite | `{"$float": "NaN"}` |
//! | a map with keys that are not text | `{"$map": [[key, value], …]}` |
//! | Python's UUID, datetime, date | `{"$uuid": "…"}`, `{"$datetime": "…"}`, `{"$date": "…"}` |
//! | Python's set, frozenset | `{"$set": […]}`, `{"$frozenset": […]}` |
//! | another extension type | `{"$ext": type, "$bytes": "…"}` |
//! | what is not msgpack | `{"$invalid": "…"}` with the bytes |

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::io::{self, Write as _};
use std::sync::OnceLock;

use rmpv::Value;
use serde_json::{Map, json};
use tooz::{Capabilities, ErrorKind, Member, MemberId};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime as Clock};

use crate::signals::Interrupted;

/// How much is printed on standard error, and how. Set once, before anything is printed.
static VOICE: OnceLock<Voice> = OnceLock::new();

/// What is printed on standard error besides errors.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct Voice {
    /// Prints more on standard error: what is going on; given twice, each step. RUST_LOG filters by
    /// module instead
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    verbose: u8,

    /// Prints only errors on standard error
    #[arg(short, long, global = true)]
    quiet: bool,

    /// Prints data as JSON, a stream as one object per line, and an error as an object on standard
    /// error
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl Voice {
    /// We print the session's events in words of our own.
    const DEFAULT: &str = "error,tooz=warn,tooz::session=error";

    /// Applies this from now on. What the libraries log goes to standard error too.
    pub(crate) fn use_from_now_on(self) {
        let asked = std::env::var("RUST_LOG").ok().filter(|asked| !asked.is_empty());
        let filter = match (self.quiet, self.verbose) {
            (true, _) => "error",
            (false, 0) => asked.as_deref().unwrap_or(Self::DEFAULT),
            (false, 1) => "warn,tooz=info",
            (false, _) => "info,tooz=debug",
        };
        let filter = EnvFilter::try_new(filter).unwrap_or_else(|error| {
            note(&format!("RUST_LOG is not understood: {error}"));
            EnvFilter::new(Self::DEFAULT)
        });
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_ansi(false)
            .init();
        // This is called once.
        let _ = VOICE.set(self);
    }

    fn used() -> Self {
        VOICE.get().copied().unwrap_or_default()
    }
}

/// How data is printed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
}

impl Output {
    /// Prints a line and flushes it: readers of a stream want it now.
    pub(crate) fn line(self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}")?;
        stdout.flush()
    }

    /// Prints one JSON value per line.
    pub(crate) fn value(self, value: &serde_json::Value) -> io::Result<()> {
        self.line(&value.to_string())
    }
}

/// Prints what is for a program to read, as it is.
pub(crate) fn raw(text: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text)?;
    stdout.flush()
}

/// Prints a note on standard error, in one line, unless only errors are wanted.
pub(crate) fn note(text: &str) {
    if !Voice::used().quiet {
        say(text);
    }
}

fn say(text: &str) {
    // If standard error is gone, there is nobody to tell.
    let _ = writeln!(io::stderr(), "tooz: {}", text.replace(['\n', '\r'], " "));
}

/// This moment, for people and their logs: seconds of UTC.
pub(crate) fn now() -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = Clock.format_time(&mut Writer::new(&mut text));
    text.truncate("2026-01-01T00:00:00".len());
    text + "Z"
}

/// Prints on standard error what went wrong: in one line, or as an object if data are JSON.
///
/// The object has `kind`, the name of an [`ErrorKind`], or `Usage` or `Other`, and `message`, the
/// whole text; and, if they are known, `driver`, `address`, `operation` and `advice`, which is what
/// to check.
pub(crate) fn error(kind: &str, text: &str, about: Option<&tooz::Error>) {
    let advice = about.and_then(tooz::Error::advice);
    if !Voice::used().json {
        return match advice {
            Some(advice) => say(&format!("{text}; {advice}")),
            None => say(text),
        };
    }
    let mut object = json!({"kind": kind, "message": text});
    let known = [
        ("driver", about.and_then(tooz::Error::backend)),
        ("address", about.and_then(|error| error.context("server"))),
        ("operation", about.and_then(tooz::Error::operation)),
        ("advice", advice),
    ];
    for (name, value) in known {
        if let Some(value) = value {
            object[name] = json!(value);
        }
    }
    let _ = writeln!(io::stderr(), "{}", json!({"error": object}));
}

/// The same for a problem that is not an error of the library.
pub(crate) fn problem(kind: ErrorKind, text: &str) {
    error(&format!("{kind:?}"), text, None);
}

/// Prints a usage error, or the help, in the parser's words; returns the exit code.
pub(crate) fn usage(problem: &clap::Error) -> u8 {
    let asked_for_json = std::env::args_os().any(|argument| argument == "--json");
    if problem.use_stderr() && asked_for_json {
        // The voice is not parsed yet.
        let _ = VOICE.set(Voice { json: true, ..Voice::default() });
        let text = problem.render().to_string();
        let text = text.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default();
        error("Usage", text, None);
    } else {
        // If nobody reads it, there is nobody to tell.
        let _ = problem.print();
    }
    u8::try_from(problem.exit_code()).unwrap_or(2)
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}

/// Reports what ended the command, and gives the exit code.
pub(crate) fn failure(error: &anyhow::Error) -> u8 {
    if let Some(interrupted) = error.downcast_ref::<Interrupted>() {
        return interrupted.die();
    }
    // A reader that has had enough, like head, ends the command silently, as SIGPIPE would.
    if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) {
        return 128 + 13;
    }
    let about = error.downcast_ref::<tooz::Error>();
    let kind = about.map_or("Other".to_owned(), |about| format!("{:?}", about.kind()));
    self::error(&kind, &format!("{error:#}"), about);
    1
}

/// A member for JSON.
pub(crate) fn member(member: &Member) -> serde_json::Value {
    json!({"member": id(&member.id), "capabilities": capabilities(&member.capabilities)})
}

/// A member for people.
pub(crate) fn member_text(member: &Member) -> String {
    match member.capabilities.is_none() {
        true => member.id.to_string(),
        false => format!("{}  {}", member.id, capabilities(&member.capabilities)),
    }
}

/// A member id for JSON: its text, escaped if it is not UTF-8.
pub(crate) fn id(id: &MemberId) -> String {
    id.as_str().map_or_else(|| id.to_string(), str::to_owned)
}

/// Capabilities as JSON.
pub(crate) fn capabilities(capabilities: &Capabilities) -> serde_json::Value {
    match capabilities.to_value() {
        Ok(value) => from_msgpack(&value),
        Err(_) => json!({"$invalid": hex(capabilities.as_msgpack())}),
    }
}

fn from_msgpack(value: &Value) -> serde_json::Value {
    match value {
        Value::Nil => serde_json::Value::Null,
        Value::Boolean(flag) => json!(flag),
        Value::Integer(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => json!(number),
            (None, number) => json!(number),
        },
        Value::F32(number) => float(f64::from(*number)),
        Value::F64(number) => float(*number),
        Value::String(text) => match text.as_str() {
            Some(text) => json!(text),
            None => bytes(text.as_bytes()),
        },
        Value::Binary(data) => bytes(data),
        Value::Array(items) => items.iter().map(from_msgpack).collect(),
        Value::Map(pairs) => map(pairs),
        Value::Ext(kind, data) => extension(*kind, data),
    }
}

fn float(number: f64) -> serde_json::Value {
    match number.is_finite() {
        true => json!(number),
        false => json!({"$float": number.to_string()}),
    }
}

fn bytes(data: &[u8]) -> serde_json::Value {
    json!({"$bytes": hex(data)})
}

fn map(pairs: &[(Value, Value)]) -> serde_json::Value {
    let mut names = BTreeSet::new();
    // Checked before anything is converted: otherwise nested maps would be converted twice per level.
    if pairs.iter().all(|(key, _)| key.as_str().is_some_and(|key| names.insert(key))) {
        let named =
            |(key, value): &(Value, Value)| Some((key.as_str()?.to_owned(), from_msgpack(value)));
        return pairs.iter().filter_map(named).collect::<Map<_, _>>().into();
    }
    let pair = |(key, value): &(Value, Value)| json!([from_msgpack(key), from_msgpack(value)]);
    json!({"$map": pairs.iter().map(pair).collect::<Vec<_>>()})
}

/// The extension types of Python's oslo.serialization.
fn extension(kind: i8, data: &[u8]) -> serde_json::Value {
    let known = match kind {
        0 => uuid(data).map(|text| json!({"$uuid": text})),
        1 => date(data).map(|date| json!({"$datetime": date})),
        4 => array(data).map(|items| json!({"$set": items})),
        5 => array(data).map(|items| json!({"$frozenset": items})),
        7 => date(data).map(|date| json!({"$date": date})),
        _ => None,
    };
    known.unwrap_or_else(|| json!({"$ext": kind, "$bytes": hex(data)}))
}

/// 32 hexadecimal digits, with the usual hyphens.
fn uuid(data: &[u8]) -> Option<String> {
    let digits = std::str::from_utf8(data).ok()?;
    if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]);
    Some(parts.join("-"))
}

/// A map of the parts of a date, with or without a time, in the style of ISO 8601.
fn date(data: &[u8]) -> Option<String> {
    let value = nested(data)?;
    let pairs = value.as_map()?;
    let part = |name: &str| {
        let named = |key: &Value| match key {
            Value::Binary(key) => key == name.as_bytes(),
            key => key.as_str() == Some(name),
        };
        pairs.iter().find(|(key, _)| named(key)).map(|(_, value)| value)
    };
    let number = |name| part(name).and_then(Value::as_u64);
    let day = format!("{:04}-{:02}-{:02}", number("year")?, number("month")?, number("day")?);
    let Some(hour) = number("hour") else { return Some(day) };
    let (minute, second) = (number("minute")?, number("second")?);
    let micros = number("microsecond").unwrap_or(0);
    let zone = match part("tz").and_then(Value::as_str) {
        Some("UTC") => "Z".to_owned(),
        Some(zone) => format!("[{zone}]"),
        None => String::new(),
    };
    Some(format!("{day}T{hour:02}:{minute:02}:{second:02}.{micros:06}{zone}"))
}

fn array(data: &[u8]) -> Option<serde_json::Value> {
    nested(data)?.as_array().map(|items| items.iter().map(from_msgpack).collect())
}

fn nested(mut data: &[u8]) -> Option<Value> {
    let value =
        rmpv::decode::read_value_with_max_depth(&mut data, Capabilities::READ_DEPTH).ok()?;
    data.is_empty().then_some(value)
}

fn hex(data: &[u8]) -> String {
    data.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_in_maps_are_converted_once() {
        // In each the next map first, and then a key that is no text.
        let (first, last) = ([0x82, 0xa1, b'a'], [0xc4, 0x01, b'k', 0xc0]);
        let stored = [first.repeat(30), vec![0xc0], last.repeat(30)].concat();
        let text = shown(&stored);
        assert_eq!(text.matches("$map").count(), 30, "{text}");
    }

    fn shown(stored: &[u8]) -> String {
        capabilities(&Capabilities::from_msgpack(stored)).to_string()
    }

    fn ext(kind: i8, data: &[u8]) -> Vec<u8> {
        let mut stored = Vec::new();
        rmpv::encode::write_value(&mut stored, &Value::Ext(kind, data.to_vec())).unwrap();
        stored
    }

    #[test]
    fn what_json_can_hold_stays_as_it_is() {
        let value = json!({"a": [1, -2, 2.5, true, null, "ü"], "b": {}});
        let stored = Capabilities::encode(&value).unwrap();
        assert_eq!(capabilities(&stored), value);
        assert_eq!(shown(&[0xc0]), "null");
        assert_eq!(shown(&[0xc4, 0]), "null", "as the original wrote none up to 8.1");
    }

    #[test]
    fn the_rest_is_an_object_with_a_dollar_sign() {
        assert_eq!(shown(b"\xc4\x02\x00\xff"), r#"{"$bytes":"00ff"}"#);
        assert_eq!(shown(b"\xa1\xff"), r#"{"$bytes":"ff"}"#);
        assert_eq!(shown(b"\xcb\x7f\xf0\0\0\0\0\0\0"), r#"{"$float":"inf"}"#);
        assert_eq!(shown(b"\x81\x01\x02"), r#"{"$map":[[1,2]]}"#);
        assert_eq!(shown(b"\x82\xa1a\x01\xa1a\x02"), r#"{"$map":[["a",1],["a",2]]}"#);
        assert_eq!(shown(b"\xff\xff"), r#"{"$invalid":"ffff"}"#);
        assert_eq!(shown(&ext(9, b"\x01")), r#"{"$bytes":"01","$ext":9}"#);
    }

    #[test]
    fn pythons_extension_types_are_readable() {
        let uuid = ext(0, b"0123456789abcdef0123456789abcdef");
        assert_eq!(shown(&uuid), r#"{"$uuid":"01234567-89ab-cdef-0123-456789abcdef"}"#);
        assert_eq!(shown(&ext(0, b"short")), r#"{"$bytes":"73686f7274","$ext":0}"#);
        assert_eq!(shown(&ext(4, b"\x92\x01\x02")), r#"{"$set":[1,2]}"#);
        let day = b"\x83\xa3day\x02\xa5month\x0b\xa4year\xcd\x07\xd0";
        assert_eq!(shown(&ext(7, day)), r#"{"$date":"2000-11-02"}"#);
        let mut moment = Vec::new();
        let parts = [("day", 2), ("month", 1), ("year", 2024), ("hour", 3), ("minute", 4)];
        let parts = parts.into_iter().chain([("second", 5), ("microsecond", 6)]);
        let mut parts: Vec<_> = parts.map(|(name, n)| (name.into(), n.into())).collect();
        parts.push(("tz".into(), "UTC".into()));
        rmpv::encode::write_value(&mut moment, &Value::Map(parts)).unwrap();
        assert_eq!(shown(&ext(1, &moment)), r#"{"$datetime":"2024-01-02T03:04:05.000006Z"}"#);
    }

    #[test]
    fn an_error_is_one_line_with_its_causes() {
        let error = tooz::Error::invalid("outer").caused_by(io::Error::other("inner"));
        assert_eq!(chain(&error), "outer: inner");
        assert_eq!(id(&b"a\xff".into()), "a\\xff");
        assert_eq!(id(&"büro".into()), "büro");
    }
}
