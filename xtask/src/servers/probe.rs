//! Asks a server over TCP whether it serves yet.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A server that is still starting may accept a connection and then never answer nor close it.
const LIMIT: Duration = Duration::from_secs(1);

/// Whether the server on `port` answers `request` with something that contains `expected`.
pub(super) fn answers(port: u16, request: &[u8], expected: &[u8]) -> bool {
    exchange(port, request, expected).unwrap_or(false)
}

fn exchange(port: u16, request: &[u8], expected: &[u8]) -> std::io::Result<bool> {
    let limit = Instant::now() + LIMIT;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if answer.windows(expected.len()).any(|part| part == expected) {
            return Ok(true);
        }
        let left = limit.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk)? {
            0 => return Ok(false),
            read => answer.extend_from_slice(&chunk[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    #[test]
    fn an_answer_in_pieces_counts_and_a_silent_server_does_not() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (done, asked) = std::sync::mpsc::channel::<()>();
        let server = thread::spawn(move || {
            let (mut first, _) = listener.accept().unwrap();
            first.write_all(b"+PO").unwrap();
            first.flush().unwrap();
            thread::sleep(Duration::from_millis(50));
            first.write_all(b"NG\r\n").unwrap();
            let (silent, _) = listener.accept().unwrap();
            let _ = asked.recv();
            drop(silent);
        });
        assert!(answers(port, b"PING\r\n", b"+PONG"));
        // Would never return if it waited for the silent server.
        assert!(!answers(port, b"PING\r\n", b"+PONG"));
        drop(done);
        server.join().unwrap();
        assert!(!answers(port, b"PING\r\n", b"+PONG"), "nobody listens any more");
    }
}
