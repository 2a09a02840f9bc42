//! msgpack as far as it is needed here, without recursion: what members publish is carried and not
//! read, so that one of them cannot make a group unreadable, or a stack too small.

use rmpv::Value;
use tooz_core::{Error, ErrorKind, Result};

/// What an item that says "none" holds.
pub(crate) const NIL: &[u8] = &[0xc0];

/// The first value of `bytes`, and what is behind it; `None` if it has no end there.
pub(crate) fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut end, mut values) = (0_usize, 1_usize);
    while values > 0 {
        let (size, items) = shape(bytes.get(end..)?)?;
        end = end.checked_add(size)?;
        values = (values - 1).checked_add(items)?;
    }
    bytes.split_at_checked(end)
}

/// How many bytes a value has without the values in it, and how many these are.
fn shape(bytes: &[u8]) -> Option<(usize, usize)> {
    let (marker, rest) = bytes.split_first()?;
    // A length in so many bytes.
    let length = |width: usize| {
        let digits = rest.get(..width)?;
        Some(digits.iter().fold(0_usize, |length, digit| length << 8 | usize::from(*digit)))
    };
    let small = |mask: u8| usize::from(marker & mask);
    Some(match marker {
        0x80..=0x8f => (1, small(0x0f) * 2),
        0x90..=0x9f => (1, small(0x0f)),
        0xa0..=0xbf => (1 + small(0x1f), 0),
        0xc4 | 0xd9 => (2 + length(1)?, 0),
        0xc5 | 0xda => (3 + length(2)?, 0),
        0xc6 | 0xdb => (5_usize.checked_add(length(4)?)?, 0),
        0xc7 => (3 + length(1)?, 0),
        0xc8 => (4 + length(2)?, 0),
        0xc9 => (6_usize.checked_add(length(4)?)?, 0),
        0xcc | 0xd0 => (2, 0),
        0xcd | 0xd1 | 0xd4 => (3, 0),
        0xd5 => (4, 0),
        0xca | 0xce | 0xd2 => (5, 0),
        0xd6 => (6, 0),
        0xcb | 0xcf | 0xd3 => (9, 0),
        0xd7 => (10, 0),
        0xd8 => (18, 0),
        0xdc => (3, length(2)?),
        0xdd => (5, length(4)?),
        0xde => (3, length(2)?.checked_mul(2)?),
        0xdf => (5, length(4)?.checked_mul(2)?),
        // Small numbers, nil, truth values, and the one that nothing uses.
        _ => (1, 0),
    })
}

/// The values in an array.
pub(crate) fn array(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    matches!(bytes.first()?, 0x90..=0x9f | 0xdc | 0xdd).then(|| items(bytes))?
}

/// The keys and values of a map.
pub(crate) fn map(bytes: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let items = matches!(bytes.first()?, 0x80..=0x8f | 0xde | 0xdf).then(|| items(bytes))??;
    Some(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

fn items(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let (head, count) = shape(bytes)?;
    // Never reserves what a peer merely announces.
    let (mut items, mut rest) = (Vec::new(), bytes.get(head..)?);
    for _ in 0..count {
        let (item, behind) = split(rest)?;
        items.push(item);
        rest = behind;
    }
    Some(items)
}

/// Bytes, or the bytes of a text: Python writes the first, and reads both.
pub(crate) fn bytes(value: &[u8]) -> Option<&[u8]> {
    let head = match value.first()? {
        0xa0..=0xbf => 1,
        0xc4 | 0xd9 => 2,
        0xc5 | 0xda => 3,
        0xc6 | 0xdb => 5,
        _ => return None,
    };
    value.get(head..)
}

/// A number that is not negative.
pub(crate) fn number(value: &[u8]) -> Option<u64> {
    match value {
        [small @ 0..=0x7f] => Some(u64::from(*small)),
        [0xcc..=0xcf, digits @ ..] => {
            Some(digits.iter().fold(0, |number, digit| number << 8 | u64::from(*digit)))
        }
        _ => None,
    }
}

// ---- Writing.

pub(crate) fn write_bytes(bytes: &[u8], to: &mut Vec<u8>) -> Result<()> {
    write(&Value::from(bytes), to)
}

pub(crate) fn write_number(number: u64, to: &mut Vec<u8>) -> Result<()> {
    write(&Value::from(number), to)
}

fn write(value: &Value, to: &mut Vec<u8>) -> Result<()> {
    rmpv::encode::write_value(to, value).map_err(|error| {
        Error::new(ErrorKind::Serialization, "a value cannot be encoded").caused_by(error)
    })
}

/// What stands before as many pairs.
pub(crate) fn write_map(pairs: usize, to: &mut Vec<u8>) {
    write_head(pairs, [0x80, 0xde, 0xdf], to);
}

/// What stands before as many values.
pub(crate) fn write_array(values: usize, to: &mut Vec<u8>) {
    write_head(values, [0x90, 0xdc, 0xdd], to);
}

fn write_head(count: usize, [small, medium, large]: [u8; 3], to: &mut Vec<u8>) {
    // An item of a server has never as many as 32 bits count.
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    match (u8::try_from(count), u16::try_from(count)) {
        (Ok(few @ 0..=15), _) => to.push(small | few),
        (_, Ok(count)) => to.extend([&[medium][..], &count.to_be_bytes()].concat()),
        _ => to.extend([&[large][..], &count.to_be_bytes()].concat()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_value_has_its_length() {
        let values = [
            Value::Nil,
            Value::from(true),
            Value::from(5),
            Value::from(-5),
            Value::from(200),
            Value::from(-200),
            Value::from(60_000),
            Value::from(-60_000),
            Value::from(u64::MAX),
            Value::from(i64::MIN),
            Value::from(0.5_f32),
            Value::from(0.5_f64),
            Value::from("x"),
            Value::from("x".repeat(40)),
            Value::from("x".repeat(300)),
            Value::from("x".repeat(70_000)),
            Value::from(&b"x"[..]),
            Value::from(vec![1_u8; 300]),
            Value::from(vec![1_u8; 70_000]),
            Value::Array(vec![Value::from(1); 3]),
            Value::Array(vec![Value::from("y"); 20]),
            Value::Array(vec![Value::Nil; 70_000]),
            Value::Map(vec![(Value::from("k"), Value::Array(vec![Value::Nil])); 3]),
            Value::Map(vec![(Value::from("k"), Value::Nil); 20]),
            Value::Map(vec![(Value::from("k"), Value::Nil); 70_000]),
        ];
        let exts = [1, 2, 4, 8, 16, 3, 300, 70_000].map(|size| Value::Ext(4, vec![0; size]));
        for value in values.iter().chain(&exts) {
            let mut encoded = Vec::new();
            write(value, &mut encoded).unwrap();
            let whole = encoded.len();
            encoded.extend(b"behind");
            assert_eq!(split(&encoded).map(|(value, _)| value.len()), Some(whole), "{value:.40}");
            assert!(split(&encoded[..whole - 1]).is_none(), "{value:.40}");
        }
    }

    #[test]
    fn heads_are_those_of_the_library() {
        for count in [0, 15, 16, 65_535, 65_536] {
            for (value, write) in [
                (Value::Array(vec![Value::Nil; count]), write_array as fn(usize, &mut Vec<u8>)),
                (Value::Map(vec![(Value::Nil, Value::Nil); count]), write_map),
            ] {
                let (mut theirs, mut ours) = (Vec::new(), Vec::new());
                super::write(&value, &mut theirs).unwrap();
                write(count, &mut ours);
                assert!(theirs.starts_with(&ours), "{count}");
            }
        }
    }

    #[test]
    fn promises_that_are_not_kept_take_nothing() {
        for bytes in [
            &b"\xdf\xff\xff\xff\xff"[..],
            b"\xdd\xff\xff\xff\xff\xc0",
            b"\xc6\xff\xff\xff\xff",
            b"",
        ] {
            assert!(split(bytes).is_none() && map(bytes).is_none() && array(bytes).is_none());
        }
    }
}
