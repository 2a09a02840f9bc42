use std::error::Error as StdError;

/// The first error of that type: the error itself, or one underneath.
pub fn find_cause<'e, T: StdError + 'static>(error: &'e (dyn StdError + 'static)) -> Option<&'e T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        // The error that an I/O error wraps is not among its sources; only that error's sources are.
        next = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::{Error, ErrorKind};

    #[test]
    fn what_an_io_error_wraps_is_found() {
        let inner = Error::new(ErrorKind::Authentication, "refused");
        let error = io::Error::other(io::Error::other(inner));
        assert!(find_cause::<io::Error>(&error).is_some());
        let refused = find_cause::<Error>(&error).map(Error::kind);
        assert_eq!(refused, Some(ErrorKind::Authentication));
        assert!(find_cause::<std::fmt::Error>(&error).is_none());
    }
}
