//! What the item of a lock holds. To a peer of the original it is somebody else's, whatever it is.

use tooz_core::OperationId;

use crate::wire::{How, RAW, Request, Seconds};

/// An acquisition and the session that it belongs to, by their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) operation: String,
    pub(crate) session: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// `x:OPERATION:SESSION:MEMBER`; the member is for people who look.
    Exclusive(Owner),
    /// `s:OPERATION:SESSION,…`, one for each holder.
    Shared(Vec<Owner>),
    /// Of a peer of another kind.
    Foreign,
}

impl Owner {
    pub(crate) fn new(operation: OperationId, session: &str) -> Self {
        Self { operation: operation.to_string(), session: session.to_owned() }
    }

    pub(crate) fn exclusive(&self, member: &[u8]) -> Vec<u8> {
        let mut value = format!("x:{}:{}:", self.operation, self.session).into_bytes();
        value.extend(member);
        value
    }

    fn read(text: &[u8]) -> Option<(Self, &[u8])> {
        let (operation, rest) = text.split_at_checked(ID)?;
        let (session, rest) = rest.strip_prefix(b":")?.split_at_checked(ID)?;
        let id = |bytes: &[u8]| {
            let hex = bytes.iter().all(u8::is_ascii_hexdigit);
            hex.then(|| String::from_utf8_lossy(bytes).into_owned())
        };
        Some((Self { operation: id(operation)?, session: id(session)? }, rest))
    }
}

/// The length of an id in hexadecimal digits.
const ID: usize = 32;

impl Value {
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let known = match bytes.split_at_checked(2) {
            Some((b"x:", rest)) => Owner::read(rest)
                .filter(|(_, rest)| rest.starts_with(b":"))
                .map(|(owner, _)| Self::Exclusive(owner)),
            Some((b"s:", rest)) => readers(rest).map(Self::Shared),
            _ => None,
        };
        known.unwrap_or(Self::Foreign)
    }

    pub(crate) fn owners(&self) -> &[Owner] {
        match self {
            Self::Exclusive(owner) => std::slice::from_ref(owner),
            Self::Shared(owners) => owners,
            Self::Foreign => &[],
        }
    }

    /// What takes holders out of the item of this key and CAS id: all of it, if nobody is left.
    pub(crate) fn without(
        &self,
        goes: impl Fn(&Owner) -> bool,
        (key, cas): (&[u8], u64),
        ttl: Seconds,
    ) -> Request {
        let rest: Vec<_> = self.owners().iter().filter(|owner| !goes(owner)).collect();
        if rest.is_empty() {
            return Request::Delete(key.to_vec(), cas);
        }
        Request::store(key, How::Swap(cas), RAW, ttl, shared(rest))
    }

    pub(crate) fn is_of(&self, operation: &str) -> bool {
        self.owners().iter().any(|owner| owner.operation == operation)
    }
}

fn readers(mut text: &[u8]) -> Option<Vec<Owner>> {
    let mut readers = Vec::new();
    loop {
        let (reader, rest) = Owner::read(text)?;
        readers.push(reader);
        match rest.strip_prefix(b",") {
            Some(more) => text = more,
            None => return rest.is_empty().then_some(readers),
        }
    }
}

/// The value with these holders, of which there is one at least.
pub(crate) fn shared<'a>(owners: impl IntoIterator<Item = &'a Owner>) -> Vec<u8> {
    let owners = owners.into_iter().map(|o| format!("{}:{}", o.operation, o.session));
    format!("s:{}", owners.collect::<Vec<_>>().join(",")).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_are_written() {
        let owner = || Owner::new(OperationId::random(), &OperationId::random().to_string());
        let (one, two) = (owner(), owner());
        assert_eq!(Value::read(&one.exclusive(b"m:1")), Value::Exclusive(one.clone()));
        let both = Value::read(&shared([&one, &two]));
        assert!(both.is_of(&two.operation) && !both.is_of("x"));
        assert_eq!(both, Value::Shared(vec![one, two]));
    }

    #[test]
    fn anything_else_is_somebody_elses() {
        for foreign in ["", "host-1", "x:", "s:", "x:short:short:m", "s:it's alive"] {
            assert_eq!(Value::read(foreign.as_bytes()), Value::Foreign, "{foreign}");
        }
    }
}
