//! How large an answer may be. The client library has no limit of its own: it keeps what comes, and
//! a small value takes many times its length.

use std::io;
use std::mem::size_of;

use tooz_core::kit;

/// How much memory the values of one answer may take: more than any proper answer takes
/// (10,000 members with 6 KiB of capabilities each), and no danger to a process.
const LARGEST: usize = 64 << 20;

/// How long a line may be: the client searches it for its end from the start each time.
const LONGEST_LINE: usize = 64 << 10;

const TOO_LARGE: &str = "the answer is larger than 64 MiB";
const TOO_LONG: &str = "the answer has a line of more than 64 KiB";

/// Why an answer was refused, in the words of the error.
pub(crate) const REFUSALS: [&str; 2] = [TOO_LARGE, TOO_LONG];

/// What a value takes besides its bytes.
const VALUE: usize = size_of::<redis::Value>();

/// More digits than a number can have.
const LONGEST_NUMBER: usize = 32;

/// A stream that breaks when an answer on it becomes too large, or announces that it will.
pub(crate) type Bounded<S> = kit::Bounded<S, Answer>;

/// The answer that is being read, and the stream's position in it.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    at: At,
    /// How many of its values have not ended yet.
    open: usize,
    /// The memory that they take, and those before them.
    size: usize,
}

#[derive(Debug, Default)]
enum At {
    /// The first byte of a value, which tells its kind.
    #[default]
    Kind,
    /// The line with the length of a value of that kind.
    Length(u8, Vec<u8>),
    /// A line that is the value: its length so far, and whether its last byte was a carriage return.
    Line(usize, bool),
    /// This many bytes before the end of the value.
    Bytes(usize),
}

impl kit::Follow for Answer {
    fn follow(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some((&byte, rest)) = bytes.split_first() {
            let mut read = 1;
            match &mut self.at {
                At::Kind => {
                    if self.open == 0 {
                        *self = Self { open: 1, size: VALUE, ..Self::default() };
                    }
                    self.at = match byte {
                        b'$' | b'!' | b'=' | b'*' | b'%' | b'|' | b'~' | b'>' => {
                            At::Length(byte, Vec::new())
                        }
                        // The client refuses what is not a kind at all.
                        _ => At::Line(0, false),
                    };
                }
                At::Length(kind, line) => {
                    line.push(byte);
                    if let Some(number) = line.strip_suffix(b"\r\n") {
                        let number = std::str::from_utf8(number).ok();
                        let length = number.and_then(|number| number.trim().parse().ok());
                        let kind = *kind;
                        self.announced(kind, length.ok_or_else(malformed)?)?;
                    } else if line.len() > LONGEST_NUMBER {
                        return Err(malformed());
                    }
                }
                At::Line(length, returned) => {
                    let ended = *returned && byte == b'\n';
                    (*length, *returned) = (*length + 1, byte == b'\r');
                    if *length > LONGEST_LINE {
                        return Err(refused(TOO_LONG));
                    }
                    self.grow(1)?;
                    if ended {
                        self.ended();
                    }
                }
                At::Bytes(left) => {
                    read = bytes.len().min(*left);
                    *left -= read;
                    if *left == 0 {
                        self.ended();
                    }
                }
            }
            bytes = rest.get(read - 1..).unwrap_or_default();
        }
        Ok(())
    }
}

impl Answer {
    /// A value says how long it is, or how many values it contains.
    fn announced(&mut self, kind: u8, length: i64) -> io::Result<()> {
        let values = match (kind, usize::try_from(length)) {
            (b'$' | b'!' | b'=', Ok(bytes)) => {
                self.grow(bytes)?;
                self.at = At::Bytes(bytes + b"\r\n".len());
                return Ok(());
            }
            (b'%', Ok(pairs)) => pairs.saturating_mul(2),
            // It comes before the value that it belongs to.
            (b'|', Ok(pairs)) => pairs.saturating_mul(2).saturating_add(1),
            (_, Ok(values)) => values,
            // There is none.
            (b'$' | b'*' | b'~' | b'>', Err(_)) => 0,
            (_, Err(_)) => return Err(malformed()),
        };
        self.grow(values.saturating_mul(VALUE))?;
        self.open += values;
        self.ended();
        Ok(())
    }

    fn grow(&mut self, by: usize) -> io::Result<()> {
        self.size = self.size.saturating_add(by);
        if self.size > LARGEST {
            return Err(refused(TOO_LARGE));
        }
        Ok(())
    }

    /// A value is complete, but the values in it may still be to come.
    fn ended(&mut self) {
        self.at = At::Kind;
        self.open -= 1;
    }
}

fn malformed() -> io::Error {
    refused("the answer lacks a length")
}

fn refused(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, why)
}

#[cfg(test)]
mod tests {
    use tooz_core::kit::Follow as _;

    use super::*;

    /// One of each kind.
    const WHOLE: &[&[u8]] = &[
        b"+OK\r\n",
        b"+a\rb\nc\r\n",
        b"-ERR no\r\n",
        b":-12\r\n",
        b"$0\r\n\r\n",
        b"$4\r\n\r\n*9\r\n",
        b"$-1\r\n",
        b"*0\r\n",
        b"*-1\r\n",
        b"*3\r\n:1\r\n*2\r\n$1\r\na\r\n_\r\n+x\r\n",
        b"%2\r\n+a\r\n:1\r\n+b\r\n%1\r\n+c\r\n~1\r\n#t\r\n",
        b"|1\r\n+ttl\r\n:9\r\n$2\r\nab\r\n",
        b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n",
        b"!5\r\nERR a\r\n",
        b"=6\r\ntxt:ab\r\n",
        b"(123456789012345678901234567890\r\n",
        b",1.5\r\n",
    ];

    #[test]
    fn whole_answers_of_every_kind_end_where_the_client_ends_them() {
        for answer in WHOLE {
            redis::parse_redis_value(answer).unwrap();
            // In one piece, and byte by byte.
            for step in [answer.len(), 1] {
                let mut following = Answer::default();
                for (n, piece) in answer.chunks(step).enumerate() {
                    assert!(n == 0 || following.open > 0, "{answer:?} ended before its end");
                    following.follow(piece).unwrap();
                }
                assert_eq!(following.open, 0, "{:?}", String::from_utf8_lossy(answer));
            }
        }
        let mut following = Answer::default();
        following.follow(&WHOLE.concat()).unwrap();
        assert_eq!(following.open, 0);
    }

    #[test]
    fn an_answer_is_refused_where_it_becomes_too_large() {
        let fitting = LARGEST / VALUE - 1;
        for (text, fits) in [
            (format!("${}\r\n", LARGEST - VALUE), true),
            (format!("${}\r\n", LARGEST - VALUE + 1), false),
            (format!("*{fitting}\r\n"), true),
            (format!("*{}\r\n", fitting + 1), false),
            (format!("*2\r\n*{}\r\n", fitting - 2), true),
            (format!("*2\r\n*{}\r\n", fitting - 1), false),
            (format!("%{}\r\n", fitting / 2 + 1), false),
            (format!("|{}\r\n", i64::MAX), false),
            (format!("*{}\r\n", i64::MAX), false),
            (format!(">{}\r\n", i64::MAX), false),
            (format!("!{}\r\n", i64::MAX), false),
            (format!("+{}", "x".repeat(LONGEST_LINE)), true),
            (format!("+{}", "x".repeat(LONGEST_LINE + 1)), false),
            (format!("*{}", " ".repeat(LARGEST)), false),
            ("*?\r\n".to_owned(), false),
            ("%-1\r\n".to_owned(), false),
            ("=-1\r\n".to_owned(), false),
        ] {
            let start: String = text.chars().take(40).collect();
            assert_eq!(Answer::default().follow(text.as_bytes()).is_ok(), fits, "{start}");
        }
    }

    #[test]
    fn each_answer_has_the_whole_limit() {
        let mut following = Answer::default();
        let answer = [b"$1048576\r\n", &vec![b'x'; 1 << 20][..], b"\r\n"].concat();
        for _ in 0..=LARGEST >> 20 {
            following.follow(&answer).unwrap();
        }
    }
}
