//! What becomes of requests when servers answer, break off, hang or are not there.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tooz_core::{ErrorKind, Outcome};
use tooz_http::{Endpoint, Http, LARGEST_ANSWER, Request, Settings};

const SHORT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(10);

/// What a server of these tests does with each request.
#[derive(Clone, Copy)]
enum Conduct {
    Answer(&'static str),
    /// Answers, and closes the connection.
    AnswerAndClose(&'static str),
    /// Answers all but `/poll`.
    HangOnPolls(&'static str),
    Break,
    Hang,
    /// Answers with more than anybody takes, without a line's end.
    TooMuch,
}

const OK: &str = "HTTP/1.1 200 OK\r\nX-Index: 7\r\nContent-Length: 4\r\n\r\ntrue";

/// A server on a port of its own, and the heads of the requests that it gets.
async fn server(conduct: Conduct) -> (Endpoint, UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::new("127.0.0.1", listener.local_addr().unwrap().port());
    let (seen, requests) = unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = seen.clone();
            tokio::spawn(async move {
                serve(stream, conduct, |head| drop(seen.send(head))).await;
            });
        }
    });
    (endpoint, requests)
}

async fn serve(mut stream: TcpStream, conduct: Conduct, seen: impl Fn(String)) {
    let mut head = Vec::new();
    loop {
        // The requests of these tests have no body.
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        let is_poll = text.contains(" /poll ");
        seen(text);
        head.clear();
        match conduct {
            Conduct::Answer(text) => stream.write_all(text.as_bytes()).await.unwrap(),
            Conduct::AnswerAndClose(text) => {
                return stream.write_all(text.as_bytes()).await.unwrap();
            }
            Conduct::HangOnPolls(text) if !is_poll => {
                stream.write_all(text.as_bytes()).await.unwrap();
            }
            Conduct::Break => return,
            Conduct::TooMuch => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let mebibyte = vec![b'x'; 1 << 20];
                for _ in 0..=LARGEST_ANSWER >> 20 {
                    if stream.write_all(&mebibyte).await.is_err() {
                        return;
                    }
                }
                return;
            }
            Conduct::HangOnPolls(_) | Conduct::Hang => std::future::pending().await,
        }
    }
}

/// A port at which nobody listens.
async fn nobody() -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Endpoint::new("127.0.0.1", listener.local_addr().unwrap().port())
}

fn client(endpoints: &[&Endpoint]) -> Http {
    Http::new(Settings::new(endpoints.iter().map(|e| (*e).clone()).collect())).unwrap()
}

#[tokio::test]
async fn an_answer_is_read_whole() {
    let (endpoint, mut requests) = server(Conduct::Answer(OK)).await;
    let http = client(&[&endpoint]);
    let response = http.send(&Request::put("/a").query("b", "c d")).await.unwrap();
    assert_eq!((response.status(), response.header("x-index")), (200, Some("7")));
    assert!(response.json::<bool>().unwrap());
    assert_eq!(requests.recv().await.unwrap().lines().next(), Some("PUT /a?b=c%20d HTTP/1.1"));
}

#[tokio::test]
async fn a_request_that_was_refused_goes_to_the_next_and_later_ones_begin_there() {
    let (dead, (alive, _requests)) = (nobody().await, server(Conduct::Answer(OK)).await);
    let http = client(&[&dead, &alive]);
    for _ in 0..2 {
        assert_eq!(http.send(&Request::put("/")).await.unwrap().endpoint(), 1);
    }
    let error = http.send(&Request::put("/").at(0)).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Connection, Outcome::NotApplied));
    assert_eq!(error.context("server"), Some(&dead.to_string()[..]));
    assert!(error.to_string().contains("could not connect"), "{error}");
    let cause = error.cause::<std::io::Error>().map(std::io::Error::kind);
    assert_eq!(cause, Some(std::io::ErrorKind::ConnectionRefused));
}

#[tokio::test]
async fn a_write_that_may_have_been_applied_is_not_repeated() {
    for (conduct, kind) in
        [(Conduct::Break, ErrorKind::Connection), (Conduct::Hang, ErrorKind::TimedOut)]
    {
        let (bad, _) = server(conduct).await;
        let (good, mut requests) = server(Conduct::Answer(OK)).await;
        let http = client(&[&bad, &good]);
        let error = http.send(&Request::put("/first").within(SHORT)).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (kind, Outcome::Unknown));
        // The next request begins elsewhere.
        http.send(&Request::put("/second").within(LONG)).await.unwrap();
        assert!(requests.recv().await.unwrap().starts_with("PUT /second"));
    }
}

#[tokio::test]
async fn a_read_goes_on_after_any_failure() {
    let (bad, _first) = server(Conduct::Break).await;
    let (good, _second) = server(Conduct::Answer(OK)).await;
    let response = client(&[&bad, &good]).send(&Request::get("/")).await.unwrap();
    assert_eq!(response.endpoint(), 1);
}

#[tokio::test]
async fn one_unknown_attempt_makes_the_whole_unknown() {
    let ((bad, _first), dead) = (server(Conduct::Break).await, nobody().await);
    let request = Request::put("/").repeatable();
    let error = client(&[&bad, &dead]).send(&request).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
}

#[tokio::test]
async fn a_long_poll_holds_up_nobody() {
    let (endpoint, mut requests) = server(Conduct::HangOnPolls(OK)).await;
    let http = client(&[&endpoint]);
    let poll = async { http.send(&Request::get("/poll").within(LONG)).await };
    let others = async {
        assert!(requests.recv().await.unwrap().starts_with("GET /poll"));
        http.send(&Request::get("/now")).await.unwrap();
    };
    tokio::select! {
        _ = poll => panic!("nobody answered the poll"),
        () = others => {}
    }
}

/// Each would cost its own request the time to find out.
#[tokio::test]
async fn one_dead_connection_makes_all_suspect() {
    let silent = Arc::new(AtomicBool::new(false));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::new("127.0.0.1", listener.local_addr().unwrap().port());
    let is_silent = silent.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (is_silent, born_silent) = (is_silent.clone(), is_silent.load(SeqCst));
            tokio::spawn(async move {
                let mut head = vec![0; 1024];
                while stream.read(&mut head).await.is_ok_and(|read| read > 0) {
                    // Those that come when others are dead are well.
                    if is_silent.load(SeqCst) && !born_silent {
                        return std::future::pending().await;
                    }
                    // So slow that another one that asks at the same time has its own connection.
                    tokio::time::sleep(SHORT).await;
                    stream.write_all(OK.as_bytes()).await.unwrap();
                }
            });
        }
    });
    let http = client(&[&endpoint]);
    let request = Request::get("/").within(LONG);
    let (a, b, c) = tokio::join!(http.send(&request), http.send(&request), http.send(&request));
    assert!(a.and(b).and(c).is_ok());
    silent.store(true, SeqCst);
    let error = http.send(&request.clone().within(SHORT)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    http.send(&request).await.unwrap();
}

#[tokio::test]
async fn a_body_comes_line_by_line() {
    let (endpoint, _requests) = server(Conduct::AnswerAndClose(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\none\r\n6\r\n\n\ntwo\n\r\n5\r\nthree\r\n0\r\n\r\n",
    ))
    .await;
    let mut lines = client(&[&endpoint]).open(&Request::post("/watch")).await.unwrap();
    let mut read = Vec::new();
    while let Some(line) = lines.next().await.unwrap() {
        read.push(line);
    }
    assert_eq!(read, ["one", "two", "three"]);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_an_error() {
    let (endpoint, _requests) = server(Conduct::AnswerAndClose(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n",
    ))
    .await;
    let mut lines = client(&[&endpoint]).open(&Request::post("/watch")).await.unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap(), "one");
    assert_eq!(lines.next().await.unwrap_err().kind(), ErrorKind::Connection);
}

#[tokio::test]
async fn a_status_tells_what_became_of_the_request() {
    for (status, kind, outcome) in [
        ("403 Forbidden", ErrorKind::Authentication, Outcome::NotApplied),
        ("404 Not Found", ErrorKind::Backend, Outcome::NotApplied),
        ("429 Too Many Requests", ErrorKind::Connection, Outcome::NotApplied),
        ("500 Internal Server Error", ErrorKind::Connection, Outcome::Unknown),
        ("504 Gateway Timeout", ErrorKind::TimedOut, Outcome::Unknown),
    ] {
        let text = format!("HTTP/1.1 {status}\r\nContent-Length: 9\r\n\r\n no luck\n");
        let (endpoint, _requests) = server(Conduct::Answer(text.leak())).await;
        let error = client(&[&endpoint]).send(&Request::put("/")).await;
        let error = error.unwrap().success().unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (kind, outcome), "{status}");
        assert_eq!(error.context("answer"), Some("no luck"));
    }
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let (endpoint, _requests) = server(Conduct::TooMuch).await;
    let http = client(&[&endpoint]);
    let error = http.send(&Request::get("/")).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Backend, Outcome::Unknown));
    assert!(error.to_string().contains("64 MiB"), "{error}");
    let mut lines = http.open(&Request::get("/")).await.unwrap();
    let error = lines.next().await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backend);
    assert!(error.to_string().contains("64 MiB"), "{error}");
}
