//! What can come of showing a fence to a resource.

use std::fmt;

use crate::Fence;

/// Why a resource did not take a fence. `E` is the error of the resource's client.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error<E> {
    /// A later holder was there. Nothing was written: give up what was read, and acquire again.
    Stale(Stale),
    /// The token is 2⁶³ or more, which the resource cannot keep. No token of `tooz` is.
    TooLarge(Fence),
    /// The resource failed. What a transaction did so far is to be rolled back; whether to try again
    /// is for this error to say.
    Resource(E),
}

/// A fence whose holder is no longer the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stale {
    /// That of the stale holder.
    pub fence: Fence,
    /// The highest token that the resource was shown.
    pub highest: u64,
}

impl<E> Error<E> {
    /// Whether it is because a later holder was there.
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Stale(_))
    }
}

impl Stale {
    /// Compares the fence with the highest token that its resource was shown, this one included.
    #[allow(dead_code, reason = "each resource is a feature")]
    pub(crate) fn check(fence: Fence, highest: u64) -> Result<(), Self> {
        if fence.token() < highest { Err(Self { fence, highest }) } else { Ok(()) }
    }
}

/// For a column of signed numbers.
#[allow(dead_code, reason = "each resource is a feature")]
pub(crate) fn signed<E>(fence: Fence) -> Result<i64, Error<E>> {
    i64::try_from(fence.token()).map_err(|_| Error::TooLarge(fence))
}

/// A token out of a column of signed numbers, in which only somebody else can have put a negative one.
#[allow(dead_code, reason = "each resource is a feature")]
pub(crate) fn unsigned(token: i64) -> u64 {
    u64::try_from(token).unwrap_or(0)
}

impl<E> From<E> for Error<E> {
    fn from(error: E) -> Self {
        Self::Resource(error)
    }
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (token, highest) = (self.fence.token(), self.highest);
        write!(f, "refused: the token {token} is stale, a later holder came with {highest}")
    }
}

impl<E> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale(stale) => stale.fmt(f),
            Self::TooLarge(fence) => {
                write!(f, "the token {} is too large for the resource", fence.token())
            }
            Self::Resource(_) => f.write_str("the fence could not be shown to the resource"),
        }
    }
}

impl std::error::Error for Stale {}

impl<E: std::error::Error + 'static> std::error::Error for Error<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Resource(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FenceName;

    #[test]
    fn only_a_lower_token_is_stale() {
        let fence = Fence::new(FenceName::of_lock("a"), 7);
        assert_eq!(Stale::check(fence, 6), Ok(()));
        assert_eq!(Stale::check(fence, 7), Ok(()));
        let stale = Stale::check(fence, 8).unwrap_err();
        assert_eq!(stale.to_string(), "refused: the token 7 is stale, a later holder came with 8");
    }

    #[test]
    fn tokens_beyond_a_signed_number_are_refused() {
        let fence = |token| Fence::new(FenceName::of_lock("a"), token);
        assert_eq!(signed::<()>(fence(i64::MAX as u64)).unwrap(), i64::MAX);
        let error = signed::<std::io::Error>(fence(1 << 63)).unwrap_err();
        assert!(!error.is_stale() && error.to_string().contains("too large"), "{error}");
    }
}
