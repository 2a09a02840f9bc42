//! What can go wrong, and what is known about it afterwards.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// A `Result` whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The class of an [`Error`], named after the original's exceptions where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The backend cannot do this. Returned before any I/O.
    NotImplemented,
    /// The backend could not be reached, or the connection broke.
    Connection,
    /// The backend refused the credentials or the permission.
    Authentication,
    /// No answer came in time.
    TimedOut,
    /// A lock or a term could not be acquired.
    LockAcquireFailed,
    /// A lock or a term is no longer held.
    LockLost,
    /// The coordinator's session ended, and with it everything that it held.
    SessionLost,
    /// The group does not exist.
    GroupNotCreated,
    /// The group already exists.
    GroupAlreadyExists,
    /// The group still has members.
    GroupNotEmpty,
    /// A member with this id is already in the group.
    MemberAlreadyExists,
    /// The member is not in the group.
    MemberNotJoined,
    /// The driver or the deployment lacks a required characteristic or feature.
    DriverChosenPoorly,
    /// Stored or given data could not be encoded or decoded.
    Serialization,
    /// An argument, a URL or an option is not acceptable.
    InvalidInput,
    /// No registered driver serves the URL's scheme.
    UnknownScheme,
    /// The coordinator is not started, is already started, or was stopped.
    NotRunning,
    /// The backend answered with an error that has no class of its own here.
    Backend,
    /// A defect in tooz or in a driver.
    Internal,
}

/// Whether the backend carried out the write that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Nothing was changed.
    NotApplied,
    /// The change was made, although the call failed.
    Applied,
    /// Nobody knows: the request was sent, and no answer came.
    Unknown,
}

/// An error of this library.
///
/// [`Display`](fmt::Display) gives one line: the operation, the driver and its server, what was wrong,
/// and the context. [`source`](StdError::source) is one more error: what the causes add to that, in
/// one line. So printing the whole chain, as anyhow's `{:#}` does, repeats nothing.
/// [`cause`](Self::cause) finds a cause by its type. No secret ever appears in any form of it.
#[derive(Clone)]
pub struct Error(Box<Repr>);

#[derive(Clone)]
struct Repr {
    kind: ErrorKind,
    message: String,
    operation: Option<&'static str>,
    backend: Option<&'static str>,
    context: Vec<(&'static str, String)>,
    outcome: Outcome,
    retryable: bool,
    source: Option<Source>,
}

/// The cause of an error.
#[derive(Clone)]
struct Source {
    error: Arc<dyn StdError + Send + Sync>,
    /// What it and its own causes say that is not said elsewhere. Libraries differ in whether an
    /// error's text includes that of its cause.
    text: String,
}

const SILENT: &str = "is it up, and does a firewall block the way?";

/// The context that has a place of its own in the text.
const SERVER: &str = "server";

impl Error {
    /// An error of `kind`; `message` says what was wrong and, for bad input, what would be right.
    ///
    /// It starts as [`Outcome::NotApplied`], and as retryable for [`ErrorKind::Connection`] and
    /// [`ErrorKind::TimedOut`].
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Repr {
            kind,
            message: message.into(),
            operation: None,
            backend: None,
            context: Vec::new(),
            outcome: Outcome::NotApplied,
            retryable: matches!(kind, ErrorKind::Connection | ErrorKind::TimedOut),
            source: None,
        }))
    }

    /// Shorthand for [`ErrorKind::InvalidInput`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    /// Shorthand for [`ErrorKind::NotImplemented`]: `what` names the feature.
    pub fn not_implemented(what: impl fmt::Display) -> Self {
        Self::new(ErrorKind::NotImplemented, format!("{what} is not available on this backend"))
    }

    /// A server's answer that does not fit the request.
    pub fn unexpected_answer() -> Self {
        Self::new(ErrorKind::Backend, "the server's answer makes no sense")
    }

    /// [`ErrorKind::GroupNotCreated`] for `group`.
    pub fn group_not_created(group: &crate::GroupId) -> Self {
        Self::new(ErrorKind::GroupNotCreated, "the group does not exist").with("group", group)
    }

    /// [`ErrorKind::GroupAlreadyExists`] for `group`.
    pub fn group_already_exists(group: &crate::GroupId) -> Self {
        Self::new(ErrorKind::GroupAlreadyExists, "the group already exists").with("group", group)
    }

    /// [`ErrorKind::GroupNotEmpty`] for `group`.
    pub fn group_not_empty(group: &crate::GroupId) -> Self {
        Self::new(ErrorKind::GroupNotEmpty, "the group still has members").with("group", group)
    }

    /// [`ErrorKind::MemberAlreadyExists`] for `member` of `group`.
    pub fn member_already_exists(group: &crate::GroupId, member: &crate::MemberId) -> Self {
        Self::new(ErrorKind::MemberAlreadyExists, "a member with this id is already in the group")
            .with("group", group)
            .with("member", member)
    }

    /// [`ErrorKind::MemberNotJoined`] for `member` of `group`.
    pub fn member_not_joined(group: &crate::GroupId, member: &crate::MemberId) -> Self {
        Self::new(ErrorKind::MemberNotJoined, "the member is not in the group")
            .with("group", group)
            .with("member", member)
    }

    /// Adds a piece of context, shown as `name=value`; `server`, an address, is shown beside the
    /// driver. If the name is already there, the innermost value stays. Never a secret.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        if self.context(name).is_none() {
            self.0.context.push((name, value.to_string()));
            self.say_causes_once();
        }
        self
    }

    /// Names the operation that failed. The innermost name stays.
    #[must_use]
    pub fn during(mut self, operation: &'static str) -> Self {
        self.0.operation.get_or_insert(operation);
        self
    }

    /// Names the driver it came from. The innermost name stays.
    #[must_use]
    pub fn on(mut self, backend: &'static str) -> Self {
        self.0.backend.get_or_insert(backend);
        self
    }

    /// Sets the underlying error. Nothing is said twice: an [`Error`] among the causes gives its
    /// context, operation and driver to this one, unless this one has its own.
    #[must_use]
    pub fn caused_by(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        let error: Arc<dyn StdError + Send + Sync> = Arc::new(source);
        for inner in causes(&*error).filter_map(|cause| cause.downcast_ref::<Self>()) {
            self.0.operation = self.0.operation.or(inner.0.operation);
            self.0.backend = self.0.backend.or(inner.0.backend);
            for (name, value) in &inner.0.context {
                self = self.with(name, value);
            }
        }
        self.0.source = Some(Source { error, text: String::new() });
        self.say_causes_once();
        self
    }

    /// Finds what the causes add to the error itself. The one place where that is decided: the parts
    /// between colons are compared, ignoring case.
    fn say_causes_once(&mut self) {
        let Some(source) = &self.0.source else { return };
        let values = self.0.context.iter().map(|(_, value)| value.as_str());
        let mut said: Vec<String> =
            values.chain(parts(&self.0.message)).map(str::to_lowercase).collect();
        let mut text = String::new();
        for cause in causes(&*source.error) {
            let own = match cause.downcast_ref::<Self>() {
                // Its context has already moved to the outer error.
                Some(error) => error.0.message.clone(),
                None => cause.to_string(),
            };
            for part in parts(&own) {
                if !said.contains(&part.to_lowercase()) {
                    said.push(part.to_lowercase());
                    text += if text.is_empty() { "" } else { ": " };
                    text += part;
                }
            }
        }
        if let Some(source) = &mut self.0.source {
            source.text = text;
        }
    }

    /// Says what became of the write.
    #[must_use]
    pub fn outcome_is(mut self, outcome: Outcome) -> Self {
        self.0.outcome = outcome;
        self
    }

    /// Overrides whether trying again can help.
    #[must_use]
    pub fn retryable(mut self, retryable: bool) -> Self {
        self.0.retryable = retryable;
        self
    }

    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The operation that failed, such as `acquire`.
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// The driver it came from, such as `redis`.
    pub fn backend(&self) -> Option<&'static str> {
        self.0.backend
    }

    /// The first cause of that type, if there is one: the error that [`caused_by`](Self::caused_by)
    /// was given, or one underneath.
    ///
    /// ```
    /// # use tooz_core::{Error, ErrorKind};
    /// let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    /// let error = Error::new(ErrorKind::Connection, "could not connect").caused_by(refused);
    /// let cause = error.cause::<std::io::Error>().map(std::io::Error::kind);
    /// assert_eq!(cause, Some(std::io::ErrorKind::ConnectionRefused));
    /// ```
    pub fn cause<T: StdError + 'static>(&self) -> Option<&T> {
        let source = self.0.source.as_ref()?;
        causes(&*source.error).find_map(|cause| match cause.downcast_ref::<Self>() {
            Some(error) => error.cause::<T>(),
            None => cause.downcast_ref::<T>(),
        })
    }

    /// What a person can check, if the error alone suggests it: for a server that cannot be
    /// reached, or is not of the expected kind.
    pub fn advice(&self) -> Option<&'static str> {
        let text = match &self.0.source {
            Some(source) => format!("{}: {}", self.0.message, source.text).to_lowercase(),
            None => self.0.message.to_lowercase(),
        };
        match self.0.kind {
            _ if self.context(SERVER).is_none() => None,
            ErrorKind::Connection if text.contains("connection refused") => {
                Some("is the server running, and is this its port?")
            }
            // The words of the system's resolver, which Rust passes on.
            ErrorKind::Connection if text.contains("lookup address") => {
                Some("is the host's name right?")
            }
            ErrorKind::TimedOut => Some(SILENT),
            // A connection without an answer, in the words of the libraries.
            ErrorKind::Connection
                if ["in time", "timed out", "deadline"].iter().any(|t| text.contains(t)) =>
            {
                Some(SILENT)
            }
            ErrorKind::Connection | ErrorKind::Backend
                if self.0.operation == Some("start") && !text.contains("tls") =>
            {
                Some("is it a server of this kind, and does it expect TLS or not?")
            }
            _ => None,
        }
    }

    /// The context of that name.
    pub fn context(&self, name: &str) -> Option<&str> {
        self.0.context.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str())
    }

    /// What became of the write, if the failed call was one.
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// Whether the same call can succeed later although nothing else is changed.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.context(SERVER);
        match (self.0.operation, self.0.backend) {
            (Some(operation), Some(backend)) => write!(f, "{operation} on {backend}")?,
            (Some(name), None) | (None, Some(name)) => f.write_str(name)?,
            (None, None) => {}
        }
        let named = self.0.operation.is_some() || self.0.backend.is_some();
        match at {
            Some(server) if named => write!(f, " at {server}: ")?,
            Some(server) => write!(f, "{server}: ")?,
            None if named => f.write_str(": ")?,
            None => {}
        }
        f.write_str(&self.0.message)?;
        let mut open = " (";
        for (name, value) in self.0.context.iter().filter(|(name, _)| *name != SERVER) {
            write!(f, "{open}{name}={value}")?;
            open = ", ";
        }
        if open == ", " {
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.0.kind).field("message", &self.to_string());
        debug.field("outcome", &self.0.outcome).field("retryable", &self.0.retryable);
        if let Some(source) = &self.0.source {
            debug.field("source", &source.error);
        }
        debug.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.0.source.as_ref().filter(|source| !source.text.is_empty())?;
        Some(source)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

/// It is the last in the chain: its text includes what is underneath.
impl StdError for Source {}

/// An error and what is underneath.
fn causes<'e>(
    error: &'e (dyn StdError + 'static),
) -> impl Iterator<Item = &'e (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'e (dyn StdError + 'static)| (*error).source())
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(": ").map(str::trim).filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_line_without_the_source() {
        let error = Error::new(ErrorKind::Connection, "the server closed the connection")
            .during("acquire")
            .on("redis")
            .with("lock", "inventory")
            .caused_by(std::io::Error::other("broken pipe"));
        assert_eq!(
            error.to_string(),
            "acquire on redis: the server closed the connection (lock=inventory)"
        );
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("broken pipe"));
        assert!(error.is_retryable());
    }

    /// An error of a library that has its cause's text in its own, and the cause as its source.
    #[derive(Debug)]
    struct Chatty(&'static str, Option<Box<Chatty>>);

    impl fmt::Display for Chatty {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)?;
            self.1.as_ref().map_or(Ok(()), |cause| write!(f, ": {cause}"))
        }
    }

    impl StdError for Chatty {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    fn whole(error: &Error) -> String {
        let said: Vec<_> = causes(error).map(ToString::to_string).collect();
        said.join(": ")
    }

    #[test]
    fn the_causes_say_nothing_twice() {
        let refused = Chatty("Connection refused (os error 111)", None);
        let cause = Chatty("tcp connect error", Some(Box::new(refused)));
        let cause = Chatty("Could not connect", Some(Box::new(cause)));
        let error = Error::new(ErrorKind::Connection, "could not connect").caused_by(cause);
        let error = error.during("start").on("redis").with("server", "h:1");
        assert_eq!(
            whole(&error),
            "start on redis at h:1: could not connect: tcp connect error: Connection refused (os \
             error 111)"
        );
        assert!(error.cause::<Chatty>().is_some_and(|cause| cause.0 == "Could not connect"));
        assert!(error.advice().unwrap().contains("running"));
    }

    #[test]
    fn what_is_known_of_an_inner_error_is_the_outers() {
        let cause = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let inner = Error::new(ErrorKind::Connection, "the connection broke").caused_by(cause);
        let inner = inner.on("redis").with("server", "h:1").with("lock", "x");
        let outer = Error::new(ErrorKind::Connection, "there is no session").caused_by(inner);
        let outer = outer.during("acquire").on("redis").with("lock", "x").with("server", "h:2");
        assert_eq!(
            whole(&outer),
            "acquire on redis at h:1: there is no session (lock=x): the connection broke: broken pipe"
        );
        assert!(outer.cause::<std::io::Error>().is_some());
    }

    #[test]
    fn a_cause_that_says_nothing_new_is_none() {
        let error = Error::new(ErrorKind::Backend, "the server answered with an error");
        let error = error.caused_by(std::io::Error::other("Bad Request"));
        assert!(error.source().is_some());
        assert!(error.with("answer", "bad request").source().is_none());
    }

    #[test]
    fn the_innermost_operation_stays() {
        let error = Error::invalid("no").during("join_group").during("start");
        assert_eq!(error.operation(), Some("join_group"));
    }
}
