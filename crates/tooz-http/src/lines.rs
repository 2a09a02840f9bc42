use std::fmt;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tooz_core::{Moment, Result};

use crate::client::LARGEST_ANSWER;
use crate::error;

/// A response body that comes line by line, for as long as the server has something to say.
///
/// Dropping it closes the connection. It has no time limit of its own: put one around
/// [`next`](Self::next) where silence means trouble.
pub struct Lines {
    body: Incoming,
    rest: BytesMut,
    /// How much of `rest` has been searched.
    searched: usize,
    sent: Moment,
    endpoint: usize,
}

impl Lines {
    pub(crate) fn new(body: Incoming, sent: Moment, endpoint: usize) -> Self {
        Self { body, rest: BytesMut::new(), searched: 0, sent, endpoint }
    }

    /// The moment before the request was sent.
    pub fn sent(&self) -> Moment {
        self.sent
    }

    /// Which of the endpoints answers.
    pub fn endpoint(&self) -> usize {
        self.endpoint
    }

    /// The next line without its end, whatever the pieces in which it came; empty ones are left
    /// out. `None` at the end of the body. Dropping the future loses nothing. A line of more than
    /// [`LARGEST_ANSWER`] bytes is an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            while let Some(length) = self.rest[self.searched..].iter().position(|b| *b == b'\n') {
                let line = self.rest.split_to(self.searched + length + 1).freeze();
                self.searched = 0;
                let line = line.slice(..line.len() - 1);
                if !line.is_empty() {
                    return Ok(Some(line));
                }
            }
            self.searched = self.rest.len();
            if self.searched > LARGEST_ANSWER {
                return Err(error::too_large());
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.rest.extend_from_slice(&data);
                    }
                }
                Some(Err(e)) => return Err(error::broken(e)),
                None => {
                    self.searched = 0;
                    let last = self.rest.split().freeze();
                    return Ok(Some(last).filter(|line| !line.is_empty()));
                }
            }
        }
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
