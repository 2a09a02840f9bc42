//! Who is before whom: the children of a lock's or a leadership's node.
//!
//! A contender's name is `ID__lock__NUMBER`, where the server gives the number. Contenders of peers
//! in Python look the same. One that shares is `ID-shared__lock__NUMBER`: to a peer in Python it is
//! a contender like all others.

use tooz_core::{Mode, OperationId};

const MARK: &str = "__lock__";
const SHARED: &str = "-shared";

/// What an acquisition's node is called, up to the number.
pub(crate) fn prefix(id: OperationId, mode: Mode) -> String {
    let shared = if mode == Mode::Shared { SHARED } else { "" };
    format!("{id}{shared}{MARK}")
}

/// Where one stands in the queue.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Standing<'a> {
    /// It holds.
    First,
    /// It holds when this one is gone, or is to look again.
    Behind(&'a str),
    /// It is not there.
    Missing,
}

pub(crate) fn standing<'a>(children: &'a [String], own: &str, mode: Mode) -> Standing<'a> {
    let Some(own) = Contender::read(own) else { return Standing::Missing };
    if !children.iter().any(|child| child == own.name) {
        return Standing::Missing;
    }
    let in_the_way = |other: &Contender<'_>| {
        other.order() < own.order() && !(mode == Mode::Shared && other.shared)
    };
    let before = contenders(children).filter(in_the_way).max_by_key(Contender::order);
    before.map_or(Standing::First, |before| Standing::Behind(before.name))
}

/// Who holds: the first, or those that share before anybody who does not.
pub(crate) fn holders(children: &[String]) -> Vec<&str> {
    let mut all: Vec<_> = contenders(children).collect();
    all.sort_unstable_by_key(Contender::order);
    let sharing = all.iter().take_while(|contender| contender.shared).count();
    all.iter().take(sharing.max(1)).map(|contender| contender.name).collect()
}

/// The child that an acquisition made, whatever its number.
pub(crate) fn made_by<'a>(children: &'a [String], prefix: &str) -> Option<&'a str> {
    children.iter().map(String::as_str).find(|child| child.starts_with(prefix))
}

pub(crate) fn is_contender(child: &str) -> bool {
    Contender::read(child).is_some()
}

struct Contender<'a> {
    name: &'a str,
    number: &'a str,
    shared: bool,
}

fn contenders(children: &[String]) -> impl Iterator<Item = Contender<'_>> {
    children.iter().filter_map(|child| Contender::read(child))
}

impl<'a> Contender<'a> {
    /// Whatever else is below the node stands in nobody's way.
    fn read(name: &'a str) -> Option<Self> {
        let at = name.rfind(MARK)?;
        let number = &name[at + MARK.len()..];
        let digits = number.strip_prefix('-').unwrap_or(number);
        let well_formed = digits.len() == 10 && digits.bytes().all(|b| b.is_ascii_digit());
        well_formed.then(|| Self { name, number, shared: name[..at].ends_with(SHARED) })
    }

    /// Numbers of one length, so their text is in their order, which is how the original sees it.
    fn order(&self) -> (&'a str, &'a str) {
        (self.number, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn children(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    const A: &str = "a__lock__0000000001";
    const B: &str = "b-shared__lock__0000000002";
    const C: &str = "c-shared__lock__0000000003";
    const D: &str = "d__lock__0000000004";
    const E: &str = "e-shared__lock__0000000005";

    #[test]
    fn an_exclusive_one_waits_for_the_next_before_it() {
        let all = children(&[D, B, "x__rlock__0000000000", "x__lock__12", "leader", C]);
        assert_eq!(standing(&all, D, Mode::Exclusive), Standing::Behind(C));
        assert_eq!(standing(&all, A, Mode::Exclusive), Standing::Missing);
        assert_eq!(standing(&children(&[D]), D, Mode::Exclusive), Standing::First);
    }

    #[test]
    fn a_shared_one_waits_for_exclusive_ones_alone() {
        let all = children(&[E, B, C, D]);
        assert_eq!(standing(&all, C, Mode::Shared), Standing::First);
        assert_eq!(standing(&all, E, Mode::Shared), Standing::Behind(D));
    }

    #[test]
    fn holders_are_the_first_or_all_that_share_it() {
        assert_eq!(holders(&children(&[D, A, B])), [A]);
        assert_eq!(holders(&children(&[E, D, C, B])), [B, C]);
        assert!(holders(&children(&["x"])).is_empty());
    }

    #[test]
    fn an_acquisition_finds_its_node_by_its_id() {
        let id = OperationId::random();
        let (exclusive, shared) = (prefix(id, Mode::Exclusive), prefix(id, Mode::Shared));
        let name = format!("{shared}0000000007");
        assert!(is_contender(&name) && name.contains("-shared__lock__"));
        let all = children(&[A, &name]);
        assert_eq!(made_by(&all, &shared), Some(&*name));
        assert_eq!(made_by(&all, &exclusive), None);
    }
}
