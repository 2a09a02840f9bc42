use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Reads along with a stream, and says where its peer has sent too much.
pub trait Follow {
    /// Looks at what came next. After an error it is not called again.
    fn follow(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// A stream that breaks where `F` refuses what comes on it, for client libraries without a limit of
/// their own. What was refused does not reach the reader.
#[derive(Debug)]
pub struct Bounded<S, F> {
    stream: S,
    follower: F,
}

impl<S, F: Default> Bounded<S, F> {
    /// A stream from its beginning.
    pub fn new(stream: S) -> Self {
        Self { stream, follower: F::default() }
    }
}

impl<S: AsyncRead + Unpin, F: Follow + Unpin> AsyncRead for Bounded<S, F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let followed = self.follower.follow(&buffer.filled()[before..]);
        if followed.is_err() {
            buffer.set_filled(before);
        }
        Poll::Ready(followed)
    }
}

impl<S: AsyncWrite + Unpin, F: Unpin> AsyncWrite for Bounded<S, F> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Three bytes are the most.
    #[derive(Default)]
    struct Three(usize);

    impl Follow for Three {
        fn follow(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0 += bytes.len();
            if self.0 > 3 { Err(io::Error::other("more than three")) } else { Ok(()) }
        }
    }

    #[test]
    fn what_is_refused_does_not_reach_the_reader() {
        let mut stream = Bounded::<_, Three>::new(&b"abcdef"[..]);
        let mut read = |place: &mut [u8]| {
            let mut buffer = ReadBuf::new(place);
            let context = &mut Context::from_waker(Waker::noop());
            let polled = Pin::new(&mut stream).poll_read(context, &mut buffer);
            (polled, buffer.filled().to_vec())
        };
        let (polled, filled) = read(&mut [0; 3]);
        assert!(matches!(polled, Poll::Ready(Ok(()))));
        assert_eq!(filled, b"abc");
        let (polled, filled) = read(&mut [0; 3]);
        assert!(matches!(polled, Poll::Ready(Err(_))));
        assert!(filled.is_empty());
    }
}
