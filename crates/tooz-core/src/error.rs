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
    /// The backend cannot do this. Said before any I/O.
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
    /// The coordinator's session ended, and with it all it held.
    SessionLost,
    /// The group does not exist.
    GroupNotCreated,
    /// The group exists already.
    GroupAlreadyExists,
    /// The group still has members.
    GroupNotEmpty,
    /// A member of that id is in the group already.
    MemberAlreadyExists,
    /// The member is not in the group.
    MemberNotJoined,
    /// The driver or the deployment does not give a required characteristic or feature.
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
    /// It cannot be told: the request was sent, and no answer came.
    Unknown,
}

/// An error of this library.
///
/// [`Display`](fmt::Display) gives one line: the operation, the backend, what was wrong and the
/// context. The text of the underlying error is not repeated there: walk
/// [`source`](StdError::source) for it. No secret ever appears in any form of it.
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
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

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

    /// [`ErrorKind::GroupNotCreated`] for `group`.
    pub fn group_not_created(group: &crate::GroupId) -> Self {
        Self::new(ErrorKind::GroupNotCreated, "the group does not exist").with("group", group)
    }

    /// [`ErrorKind::GroupAlreadyExists`] for `group`.
    pub fn group_already_exists(group: &crate::GroupId) -> Self {
        Self::new(ErrorKind::GroupAlreadyExists, "the group exists already").with("group", group)
    }

    /// [`ErrorKind::GroupNotEmpty`] for `group`.
    pub fn group_not_empty(group: &crate::GroupId) -> Self {
        Self::new(ErrorKind::GroupNotEmpty, "the group still has members").with("group", group)
    }

    /// [`ErrorKind::MemberAlreadyExists`] for `member` of `group`.
    pub fn member_already_exists(group: &crate::GroupId, member: &crate::MemberId) -> Self {
        Self::new(ErrorKind::MemberAlreadyExists, "a member of this id is in the group already")
            .with("group", group)
            .with("member", member)
    }

    /// [`ErrorKind::MemberNotJoined`] for `member` of `group`.
    pub fn member_not_joined(group: &crate::GroupId, member: &crate::MemberId) -> Self {
        Self::new(ErrorKind::MemberNotJoined, "the member is not in the group")
            .with("group", group)
            .with("member", member)
    }

    /// Adds a piece of context, shown as `name=value`. Never a secret.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((name, value.to_string()));
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

    /// Sets the underlying error.
    #[must_use]
    pub fn caused_by(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
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

    /// The context of that name.
    pub fn context(&self, name: &str) -> Option<&str> {
        self.0.context.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str())
    }

    /// What became of the write, if the failed call was one.
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// Whether the same call can succeed later without anything else being changed.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.operation, self.0.backend) {
            (Some(operation), Some(backend)) => write!(f, "{operation} on {backend}: ")?,
            (Some(operation), None) => write!(f, "{operation}: ")?,
            (None, Some(backend)) => write!(f, "{backend}: ")?,
            (None, None) => {}
        }
        f.write_str(&self.0.message)?;
        for (index, (name, value)) in self.0.context.iter().enumerate() {
            f.write_str(if index == 0 { " (" } else { ", " })?;
            write!(f, "{name}={value}")?;
        }
        if !self.0.context.is_empty() {
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
            debug.field("source", source);
        }
        debug.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
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

    #[test]
    fn the_innermost_operation_stays() {
        let error = Error::invalid("no").during("join_group").during("start");
        assert_eq!(error.operation(), Some("join_group"));
    }
}
