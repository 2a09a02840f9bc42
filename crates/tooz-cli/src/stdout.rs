//! Standard output, and its reader's end.

use std::future::pending;
use std::io;
use std::os::fd::AsFd as _;
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::oneshot;

/// Waits until nobody reads standard output any more, which a stream without events would not
/// notice, and returns the error that the next write would. A file always has a reader.
pub(crate) async fn reader_gone() -> io::Error {
    let (sender, gone) = oneshot::channel();
    let watch = move || {
        if wait().is_ok() {
            // There may be nobody left who wants to know.
            let _ = sender.send(());
        }
    };
    // Without the thread, the next write finds out.
    let _ = thread::Builder::new().name("reader".into()).spawn(watch);
    match gone.await {
        Ok(()) => io::ErrorKind::BrokenPipe.into(),
        Err(_cannot_tell) => pending().await,
    }
}

fn wait() -> nix::Result<()> {
    let stdout = io::stdout();
    // With no events asked for, poll only reports errors and the end.
    let mut polled = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    loop {
        match poll(&mut polled, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
    match polled[0].revents().is_some_and(|events| events.intersects(gone)) {
        true => Ok(()),
        false => Err(Errno::EBADF),
    }
}
