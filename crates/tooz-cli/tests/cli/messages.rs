//! What is said when a server is not there, or is none: nothing twice, and always where.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Done, Place, Running, run, tooz, until};

/// How a URL of each driver that needs a server begins, and goes on behind the host.
const DRIVERS: [(&str, &str); 9] = [
    ("zookeeper://", ""),
    ("redis://", ""),
    ("memcached://", ""),
    ("etcd://", ""),
    ("etcd3://", ""),
    ("etcd3+http://", ""),
    ("consul://", ""),
    ("postgresql://user:hunter2@", "/db"),
    ("mysql://user:hunter2@", "/db"),
];

/// Within this time it is said that nothing answers: 5 s, and what a loaded machine adds.
const TOLD: Duration = Duration::from_secs(8);

/// A server with something wrong. Its sockets live as long as it.
struct Fault {
    address: String,
    _sockets: Vec<Socket>,
}

#[allow(dead_code, reason = "they are only kept open")]
enum Socket {
    Listener(TcpListener),
    Stream(TcpStream),
}

impl Fault {
    fn at(listener: &TcpListener) -> String {
        listener.local_addr().unwrap().to_string()
    }

    /// Nothing listens there.
    fn closed() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { address: Self::at(&listener), _sockets: Vec::new() }
    }

    fn unknown() -> Self {
        Self { address: "no-such-host.invalid:2379".to_owned(), _sockets: Vec::new() }
    }

    /// The system accepts connections, and nobody reads or answers.
    fn silent() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { address: Self::at(&listener), _sockets: vec![Socket::Listener(listener)] }
    }

    /// The queue of connections is full, so that further ones get no answer at all.
    fn black_hole() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        socket2::SockRef::from(&listener).listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut sockets = vec![Socket::Listener(listener)];
        // Until one is not answered any more.
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            sockets.push(Socket::Stream(stream));
        }
        Self { address: address.to_string(), _sockets: sockets }
    }

    /// Answers whatever is asked with these bytes, and ends the connection.
    fn answers(with: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Self::at(&listener);
        // It ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer(stream, with));
            }
        });
        Self { address, _sockets: Vec::new() }
    }
}

fn answer(mut stream: TcpStream, with: &[u8]) -> std::io::Result<()> {
    // Some clients wait for the server's first word.
    stream.set_read_timeout(Some(Duration::from_millis(300)))?;
    let _ = stream.read(&mut [0; 4096]);
    stream.write_all(with)?;
    stream.shutdown(Shutdown::Write)?;
    // What is unread at the end would take the answer away by a reset.
    while stream.read(&mut [0; 4096])? > 0 {}
    Ok(())
}

/// Runs `tooz ARGUMENTS` on each driver at once, against a server with that fault.
fn on_each_driver(fault: &Fault, arguments: &'static [&str]) -> Vec<(String, Done, Duration)> {
    let start = |(scheme, path): &(&str, &str)| -> JoinHandle<_> {
        let url = format!("{scheme}{}{path}", fault.address);
        std::thread::spawn(move || {
            let begun = Instant::now();
            let done = run(tooz(arguments).env("TOOZ_URL", &url));
            (url, done, begun.elapsed())
        })
    };
    let runs: Vec<_> = DRIVERS.iter().map(start).collect();
    runs.into_iter().map(|run| run.join().unwrap()).collect()
}

/// Nothing is said twice: no part between colons, and the words of a refusal once.
fn says_it_once(message: &str) {
    let mut parts: Vec<_> = message.trim().split([':', ';']).map(str::trim).collect();
    parts.sort_unstable();
    let all = parts.len();
    parts.dedup_by(|a, b| a.eq_ignore_ascii_case(b));
    assert_eq!(parts.len(), all, "said twice: {message}");
    let lower = message.to_lowercase();
    for words in ["refused", "lookup address", "in time", "could not connect", "server answered"] {
        assert!(lower.matches(words).count() <= 1, "{words:?} twice: {message}");
    }
}

/// What holds of every error of a connection.
fn check(fault: &Fault, (url, done, _): &(String, Done, Duration)) {
    let Done { code, out, err } = done;
    assert_eq!((*code, out.as_str()), (1, ""), "{url}: {done:?}");
    assert_eq!(err.lines().count(), 1, "{url}: {err}");
    assert!(err.starts_with("tooz: start on "), "{url}: {err}");
    assert_eq!(err.matches(&format!(" at {}: ", fault.address)).count(), 1, "{url}: {err}");
    assert_eq!(err.matches(&fault.address).count(), 1, "{url}: {err}");
    assert!(!err.contains("hunter2"), "{url}: {err}");
    says_it_once(err);
}

/// The same, and the time of one where nothing answers.
fn check_in_time(fault: &Fault, run: &(String, Done, Duration)) {
    check(fault, run);
    assert!(run.2 < TOLD, "{run:?}");
}

#[test]
fn a_server_that_is_not_there_is_named_with_one_cause() {
    let fault = Fault::closed();
    for run in on_each_driver(&fault, &["groups"]) {
        check_in_time(&fault, &run);
        assert!(run.1.err.contains(": Connection refused (os error "), "{run:?}");
        assert!(run.1.err.contains("; is the server running"), "{run:?}");
    }
}

#[test]
fn a_host_that_is_unknown_is_named_with_one_cause() {
    let fault = Fault::unknown();
    for run in on_each_driver(&fault, &["groups"]) {
        check_in_time(&fault, &run);
        assert!(run.1.err.contains("lookup address"), "{run:?}");
        assert!(run.1.err.contains("; is the host's name right?"), "{run:?}");
    }
}

#[test]
fn a_server_that_says_nothing_is_told_in_time() {
    let fault = Fault::silent();
    on_each_driver(&fault, &["groups"]).iter().for_each(|run| check_in_time(&fault, run));
}

#[test]
#[cfg(target_os = "linux")]
fn a_server_that_takes_no_connection_is_told_in_time() {
    let fault = Fault::black_hole();
    on_each_driver(&fault, &["groups"]).iter().for_each(|run| check_in_time(&fault, run));
}

#[test]
fn a_server_of_another_kind_is_named() {
    let http =
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 11\r\nConnection: close\r\n\r\nBad Request";
    for rubbish in [&http[..], b"SSH-2.0-OpenSSH_9.2\r\n"] {
        let fault = Fault::answers(rubbish);
        on_each_driver(&fault, &["groups"]).iter().for_each(|run| check(&fault, run));
    }
}

#[test]
fn with_json_an_error_is_an_object() {
    let fault = Fault::closed();
    let commands: [&'static [&'static str]; 8] = [
        &["--json", "groups"],
        &["--json", "members", "g"],
        &["--json", "leader", "g"],
        &["--json", "watch", "g"],
        &["--json", "ring", "g", "key"],
        &["--json", "join", "g"],
        &["--json", "lock", "l", "--", "true"],
        &["--json", "elect", "g", "--", "true"],
    ];
    for arguments in commands {
        let done = run(tooz(arguments).env("TOOZ_URL", format!("redis://{}", fault.address)));
        let error = json_error(&done);
        assert_eq!((done.code, &error["kind"]), (1, &Value::from("Connection")), "{done:?}");
        assert_eq!((&error["driver"], &error["operation"]), (&"redis".into(), &"start".into()));
        assert_eq!(error["address"], *fault.address);
        assert!(error["message"].as_str().unwrap().contains("Connection refused"), "{done:?}");
        assert!(error["advice"].as_str().unwrap().contains("running"), "{done:?}");
    }
    let usage = run(&mut tooz(["--json", "lokc"]));
    assert_eq!((usage.code, &json_error(&usage)["kind"]), (2, &"Usage".into()));
    let place = Place::new();
    let unknown = place.run(["--json", "members", "nobody"]);
    assert_eq!(json_error(&unknown)["kind"], "GroupNotCreated", "{unknown:?}");
}

/// The object of an error, which is all that was said.
fn json_error(done: &Done) -> Value {
    let said: Value = serde_json::from_str(&done.err).unwrap_or_else(|e| panic!("{e}: {done:?}"));
    assert_eq!(said.as_object().unwrap().len(), 1, "{done:?}");
    said["error"].clone()
}

#[test]
fn a_wrong_option_names_the_driver_once() {
    for (scheme, path) in DRIVERS {
        let done = run(&mut tooz(["--url", &format!("{scheme}host:1{path}?tiemout=3"), "groups"]));
        assert!(done.err.contains("the option tiemout is unknown"), "{done:?}");
        says_it_once(&done.err);
    }
}

#[test]
fn a_wait_is_told_and_quiet_says_nothing_of_it() {
    let place = Place::new();
    let holder = place.start(&["lock", "a"], "echo ready; sleep 100");
    let arguments = ["lock", "a", "--wait", "3", "--", "true"];
    let told = place.run(arguments);
    assert!(told.err.contains("waiting for the lock a on file at /"), "{told:?}");
    assert!(told.err.contains(" since 20"), "{told:?}");
    let quiet = place.run(["--quiet"].iter().chain(&arguments));
    assert_eq!(quiet.code, 75, "{quiet:?}");
    assert_eq!(quiet.err, "tooz: the lock a is held by somebody else\n");
    drop(holder);
}

/// A server of Redis of its own, where tests with real servers were asked for.
struct Redis {
    port: u16,
    server: Child,
}

impl Redis {
    fn start() -> Option<Self> {
        if std::env::var_os("TOOZ_TEST_URL_REDIS").is_none() {
            eprintln!("not asked for: TOOZ_TEST_URL_REDIS is not set");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Some(Self { port, server: Self::spawn(port) })
    }

    fn spawn(port: u16) -> Child {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--maxmemory-policy", "allkeys-lru"]);
        command.args(["--port", &port.to_string()]).stdout(Stdio::null());
        let server = command.spawn().expect("redis-server is installed");
        until("it listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        server
    }

    fn tooz(&self, arguments: &[&str]) -> Command {
        let mut command = tooz(arguments);
        command.env("TOOZ_URL", format!("redis://127.0.0.1:{}", self.port));
        command
    }

    fn kill(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn trouble_and_recovery_are_told_with_what_where_and_since_when() {
    let Some(mut redis) = Redis::start() else { return };
    let mut holder = redis.tooz(&["lock", "a", "--", "sh", "-c", "echo ready; sleep 100"]);
    let mut holder = Running::start(&mut holder);
    assert_eq!(holder.line(), "ready");
    let mut waiter = redis.tooz(&["lock", "a", "--", "true"]);
    let mut waiter = waiter.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(waiter.stderr.take().unwrap()).lines();
    // The test's own limit would end it.
    let mut told = |what: &str| {
        let line = said.find(|line| line.as_ref().is_ok_and(|line| line.contains(what)));
        line.unwrap_or_else(|| panic!("never told: {what}")).unwrap()
    };
    let at = format!("redis at 127.0.0.1:{}", redis.port);
    // What the driver's page promises.
    told("WARN");
    assert!(told("waiting for the lock a").contains(&at));
    redis.kill();
    let killed = Instant::now();
    assert!(told("out of reach since 20").contains(&at));
    assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
    redis.server = Redis::spawn(redis.port);
    assert!(told(", after ").contains(&at));
    drop(holder);
    let _ = (waiter.kill(), waiter.wait());
}

#[test]
fn a_wait_of_seconds_takes_no_longer_where_the_server_goes_meanwhile() {
    let Some(mut redis) = Redis::start() else { return };
    let mut holder = redis.tooz(&["lock", "a", "--", "sh", "-c", "echo ready; sleep 100"]);
    let mut holder = Running::start(&mut holder);
    assert_eq!(holder.line(), "ready");
    let begun = Instant::now();
    let mut waiter = redis.tooz(&["lock", "a", "--wait", "4", "--", "true"]);
    let mut waiter = waiter.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(waiter.stderr.take().unwrap()).lines().map(|line| line.unwrap());
    said.find(|line| line.contains("waiting for")).unwrap();
    redis.kill();
    let rest: Vec<_> = said.collect();
    assert_eq!(waiter.wait().unwrap().code(), Some(1), "{rest:?}");
    assert!(begun.elapsed() < Duration::from_secs(7), "{:?}: {rest:?}", begun.elapsed());
    let error = rest.last().unwrap();
    assert!(error.contains("seconds=4,"), "{error}");
    // The address has numbers of its own.
    let beside = error.replace(&redis.port.to_string(), "PORT");
    assert!(!beside.contains("30"), "{error}");
    says_it_once(error);
}

#[test]
fn a_wrong_password_is_told_once_and_not_shown() {
    let Some(redis) = Redis::start() else { return };
    let url = format!("redis://user:hunter2@127.0.0.1:{}", redis.port);
    let done = run(redis.tooz(&["--json", "groups"]).env("TOOZ_URL", url));
    let error = json_error(&done);
    assert_eq!(error["kind"], "Authentication", "{done:?}");
    assert_eq!(error["address"], format!("127.0.0.1:{}", redis.port));
    assert!(!done.err.contains("hunter2"), "{done:?}");
    says_it_once(error["message"].as_str().unwrap());
}

#[test]
fn what_the_library_logs_is_shown_on_request() {
    let place = Place::new();
    let arguments = ["lock", "a", "--", "true"];
    assert_eq!(place.run(arguments).err, "");
    let verbose = place.run(["-v"].iter().chain(&arguments)).err;
    assert!(verbose.contains("INFO") && verbose.contains("coordinator started"), "{verbose}");
    let asked = run(place.tooz(arguments).env("RUST_LOG", "tooz_core=info")).err;
    assert!(asked.contains("coordinator started"), "{asked}");
    let wrong = run(place.tooz(arguments).env("RUST_LOG", "a=b=c"));
    assert!(wrong.code == 0 && wrong.err.contains("RUST_LOG is not understood"), "{wrong:?}");
}
