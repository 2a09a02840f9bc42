//! Who is before whom: the children of a lock's or a leadership's node.
//!
//! A contender's name is `ID__lock__NUMBER`, where the server gives the number. Contenders of peers
//! in Python look the same. One that shares is `ID-shared__lock__NUMBER`: to a peer in Python it is
//! a contender like all others.
//!
//! The number counts the node's children in 32 bits. After 2^31 of them servers give the last
//! number again and again, or negative ones, or both by turns. From there on the order is that of
//! the transactions that made the nodes, which no peer in Python knows.

use tooz_core::{Mode, OperationId, Result};
use zookeeper_client::Error as Cause;

use crate::errors::Failure;
use crate::session::Life;

const MARK: &str = "__lock__";
const SHARED: &str = "-shared";

/// Bytes that the longest name of a contender adds to the path of its queue.
pub(crate) const CONTENDER: usize =
    "/".len() + 32 + SHARED.len() + MARK.len() + "-2147483648".len();

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

/// The contenders, in the order in which the server made them.
#[derive(Debug)]
pub(crate) struct Queue(Vec<Contender>);

impl Queue {
    /// From the children of `node`. It asks the server where their numbers do not tell.
    pub(crate) async fn of(life: &Life, node: &str, children: Vec<String>) -> Result<Self> {
        let queue = Self::by_number(children);
        if queue.is_in_order() { Ok(queue) } else { queue.by_transaction(life, node).await }
    }

    fn by_number(children: Vec<String>) -> Self {
        let mut all: Vec<_> = children.into_iter().filter_map(Contender::read).collect();
        all.sort_unstable_by_key(|contender| contender.number);
        Self(all)
    }

    fn is_in_order(&self) -> bool {
        self.0.len() < 2 || self.0.iter().all(|contender| (0..i32::MAX).contains(&contender.number))
    }

    /// Who is gone meanwhile is left out: all that was asked for is whether somebody is before us.
    async fn by_transaction(self, life: &Life, node: &str) -> Result<Self> {
        let contenders = &self.0;
        let made = life.link.call(|client| async move {
            let stat = |one: &Contender| client.check_stat(&format!("{node}/{}", one.name));
            let mut made = Vec::new();
            for stat in contenders.iter().map(stat).collect::<Vec<_>>() {
                made.push(stat.await?.map(|stat| stat.czxid));
            }
            Ok::<_, Cause>(made)
        });
        let made = made.await.map_err(|failure: Failure| tooz_core::Error::from(failure))?;
        let mut found: Vec<_> =
            made.into_iter().zip(self.0).filter_map(|(made, one)| Some((made?, one))).collect();
        found.sort_unstable_by_key(|(made, _)| *made);
        Ok(Self(found.into_iter().map(|(_, contender)| contender).collect()))
    }

    pub(crate) fn standing(&self, own: &str, mode: Mode) -> Standing<'_> {
        let Some(at) = self.0.iter().position(|contender| contender.name == own) else {
            return Standing::Missing;
        };
        let in_the_way = |other: &&Contender| !(mode == Mode::Shared && other.shared);
        let before = self.0[..at].iter().rev().find(in_the_way);
        before.map_or(Standing::First, |before| Standing::Behind(&before.name))
    }

    /// Who holds: the first, or those that share before anybody who does not.
    pub(crate) fn holders(&self) -> impl Iterator<Item = &str> {
        let sharing = self.0.iter().take_while(|contender| contender.shared).count();
        self.0.iter().take(sharing.max(1)).map(|contender| &*contender.name)
    }
}

/// The child that an acquisition made, whatever its number.
pub(crate) fn made_by<'a>(children: &'a [String], prefix: &str) -> Option<&'a str> {
    children.iter().map(String::as_str).find(|child| child.starts_with(prefix))
}

pub(crate) fn is_contender(child: &str) -> bool {
    Contender::read(child.to_owned()).is_some()
}

#[derive(Debug)]
struct Contender {
    name: String,
    number: i32,
    shared: bool,
}

impl Contender {
    /// Whatever else is below the node stands in nobody's way.
    fn read(name: String) -> Option<Self> {
        let at = name.rfind(MARK)?;
        let number = &name[at + MARK.len()..];
        // As the server writes it: ten characters, and one more for the lowest numbers.
        let digits = number.strip_prefix('-').unwrap_or(number);
        let well_formed = matches!(number.len(), 10 | 11)
            && matches!(digits.len(), 9 | 10)
            && digits.bytes().all(|b| b.is_ascii_digit());
        let number = well_formed.then(|| number.parse().ok())??;
        let shared = name[..at].ends_with(SHARED);
        Some(Self { name, number, shared })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(names: &[&str]) -> Queue {
        Queue::by_number(names.iter().map(|name| (*name).to_owned()).collect())
    }

    const A: &str = "a__lock__0000000001";
    const B: &str = "b-shared__lock__0000000002";
    const C: &str = "c-shared__lock__0000000003";
    const D: &str = "d__lock__0000000004";
    const E: &str = "e-shared__lock__0000000005";

    #[test]
    fn an_exclusive_one_waits_for_the_next_before_it() {
        let all = queue(&[D, B, "x__rlock__0000000000", "x__lock__12", "leader", C]);
        assert_eq!(all.standing(D, Mode::Exclusive), Standing::Behind(C));
        assert_eq!(all.standing(A, Mode::Exclusive), Standing::Missing);
        assert_eq!(queue(&[D]).standing(D, Mode::Exclusive), Standing::First);
    }

    #[test]
    fn a_shared_one_waits_for_exclusive_ones_alone() {
        let all = queue(&[E, B, C, D]);
        assert_eq!(all.standing(C, Mode::Shared), Standing::First);
        assert_eq!(all.standing(E, Mode::Shared), Standing::Behind(D));
    }

    #[test]
    fn holders_are_the_first_or_all_that_share_it() {
        let holders = |names| queue(names).holders().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(holders(&[D, A, B]), [A]);
        assert_eq!(holders(&[E, D, C, B]), [B, C]);
        assert!(holders(&["x"]).is_empty());
    }

    #[test]
    fn numbers_tell_the_order_only_while_they_rise() {
        let last = "a__lock__2147483647";
        for untold in [last, "b__lock__-2147483648", "c__lock__-000000001"] {
            assert!(is_contender(untold), "{untold}");
            assert!(queue(&[untold]).is_in_order(), "one alone is");
            assert!(!queue(&[A, untold]).is_in_order(), "{untold}");
        }
        assert!(queue(&[A, B, "b__lock__2147483646"]).is_in_order());
        for no in ["a__lock__2147483648", "a__lock__-00000001", "a__lock__000000001", "a__lock__+"]
        {
            assert!(!is_contender(no), "{no}");
        }
    }

    #[test]
    fn an_acquisition_finds_its_node_by_its_id() {
        let id = OperationId::random();
        let (exclusive, shared) = (prefix(id, Mode::Exclusive), prefix(id, Mode::Shared));
        let name = format!("{shared}0000000007");
        assert!(is_contender(&name) && name.contains("-shared__lock__"));
        let all = [A.to_owned(), name.clone()];
        assert_eq!(made_by(&all, &shared), Some(&*name));
        assert_eq!(made_by(&all, &exclusive), None);
    }
}
