//! How large an answer may be. The client library has no limit of its own: it keeps what comes
//! until the server says that the answer has ended.

use std::{fmt, io};

use tooz_core::kit;

/// How much memory the messages of one answer may take: more than any right answer takes, since a
/// larger one costs the session, and no danger to a process.
const LARGEST: usize = 256 << 20;

/// Why a stream broke.
#[derive(Debug)]
pub(crate) struct TooLarge;

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the answer is larger than {} MiB", LARGEST >> 20)
    }
}

impl std::error::Error for TooLarge {}

/// What the client keeps of a message beside its bytes, at the least.
const MESSAGE: usize = 128;

/// A kind and a length, which counts itself and not the kind.
const HEADER: usize = 5;

/// A stream that breaks when an answer on it becomes too large, or is announced to.
pub(crate) type Bounded<S> = kit::Bounded<S, Answer>;

/// The answer that is being read, and where in it the stream is.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// What has come of a header.
    header: Vec<u8>,
    /// How many bytes of a message are still to come.
    left: usize,
    /// What its messages take.
    size: usize,
}

impl kit::Follow for Answer {
    fn follow(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let read = bytes.len().min(self.left);
                self.left -= read;
                bytes = &bytes[read..];
                continue;
            }
            let read = bytes.len().min(HEADER - self.header.len());
            self.header.extend_from_slice(&bytes[..read]);
            bytes = &bytes[read..];
            if let [kind, length @ ..] = &self.header[..]
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                let kind = *kind;
                self.header.clear();
                self.announced(kind, u32::from_be_bytes(length))?;
            }
        }
        Ok(())
    }
}

impl Answer {
    fn announced(&mut self, kind: u8, length: u32) -> io::Result<()> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        // The client refuses what is shorter than its own length.
        self.left = length.saturating_sub(HEADER - 1);
        let size = length.saturating_add(MESSAGE);
        let size = match kind {
            // Notices, notifications and parameters belong to no answer.
            b'N' | b'A' | b'S' => size,
            _ => {
                self.size = self.size.saturating_add(size);
                self.size
            }
        };
        if size > LARGEST {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, TooLarge));
        }
        // Ready for the next query.
        if kind == b'Z' {
            self.size = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tooz_core::kit::{Follow as _, find_cause};

    use super::*;

    fn message(kind: u8, length: usize) -> Vec<u8> {
        let announced = u32::try_from(length + 4).unwrap().to_be_bytes();
        [&[kind][..], &announced, &vec![b'x'; length]].concat()
    }

    fn announcement(kind: u8, length: u32) -> Vec<u8> {
        [&[kind][..], &length.to_be_bytes()].concat()
    }

    #[test]
    fn an_answer_ends_where_the_server_is_ready() {
        let answer = [message(b'T', 9), message(b'D', 0), message(b'D', 300), message(b'Z', 1)];
        // In one piece, and byte by byte.
        for step in [usize::MAX, 1] {
            let mut following = Answer::default();
            let (rows, ready) = (answer[..3].concat(), &answer[3]);
            rows.chunks(step.min(rows.len())).for_each(|piece| following.follow(piece).unwrap());
            assert_eq!((following.left, following.size), (0, 309 + 3 * (4 + MESSAGE)));
            ready.chunks(step.min(ready.len())).for_each(|piece| following.follow(piece).unwrap());
            assert_eq!((following.left, following.size), (0, 0));
        }
    }

    #[test]
    fn an_answer_is_refused_where_it_becomes_too_large() {
        let largest = u32::try_from(LARGEST - MESSAGE).unwrap();
        for kind in [b'D', b'A', b'Z'] {
            assert!(Answer::default().follow(&announcement(kind, largest)).is_ok());
            let error = Answer::default().follow(&announcement(kind, largest + 1)).unwrap_err();
            assert!(find_cause::<TooLarge>(&error).is_some());
            assert!(Answer::default().follow(&announcement(kind, u32::MAX)).is_err());
        }
        let mut following = Answer::default();
        let rows = LARGEST / (MESSAGE + 4);
        let row = message(b'D', 0);
        (0..rows).for_each(|_| following.follow(&row).unwrap());
        assert!(following.follow(&row).is_err(), "many small rows are a large answer");
    }

    #[test]
    fn each_answer_has_the_whole_limit_and_what_comes_unasked_is_none() {
        let mut following = Answer::default();
        let answer = [message(b'D', 1 << 20), message(b'A', 1 << 20), message(b'Z', 1)].concat();
        for _ in 0..=LARGEST >> 20 {
            following.follow(&answer).unwrap();
        }
        assert_eq!(following.size, 0);
    }
}
