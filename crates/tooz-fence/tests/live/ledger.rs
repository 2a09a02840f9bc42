//! Who was told what, and what the balance must be for it.

use std::sync::{Arc, Mutex};

use tooz_fence::{Fence, FenceName};

/// What each account has at first.
pub(crate) const OPENING: i64 = 100;

/// What a holder was told at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// That its amount is written.
    Written,
    /// That it is stale.
    Refused,
    /// Nothing: its connection was ended before it had asked for the commit.
    Killed,
    /// Nothing, and it had asked.
    Unknown,
}

/// One of the holders.
#[derive(Clone)]
pub(crate) struct Deposit {
    pub(crate) account: i64,
    pub(crate) fence: Fence,
    pub(crate) amount: i64,
    written: Arc<Mutex<Vec<u64>>>,
}

impl Deposit {
    /// The holders with these tokens, one after the other, of the lock of an account. Each has an
    /// amount of its own, so that a sum tells whose are in it.
    pub(crate) fn holders(account: i64, tokens: &[u64]) -> Vec<Self> {
        let name = FenceName::of_lock(format!("account-{account}"));
        let written = Arc::new(Mutex::new(Vec::new()));
        let holders = tokens.iter().zip([1, 10, 1000]).map(|(&token, amount)| Self {
            account,
            fence: Fence::new(name, token),
            amount,
            written: written.clone(),
        });
        holders.collect()
    }

    /// It was told that its amount is written.
    pub(crate) fn is_written(&self) -> End {
        self.written.lock().unwrap().push(self.fence.token());
        End::Written
    }
}

/// What is wrong with the balance, if anything is.
pub(crate) fn wrong(holders: &[Deposit], ends: &[End], balance: i64) -> Option<String> {
    let sum = |end: End| {
        let amounts = holders.iter().zip(ends).filter(move |(_, found)| **found == end);
        amounts.map(|(holder, _)| holder.amount).sum::<i64>()
    };
    let least = OPENING + sum(End::Written);
    if balance != least && balance != least + sum(End::Unknown) {
        return Some(format!("the balance is {balance}, and {least} was promised: {ends:?}"));
    }
    let written = holders[0].written.lock().unwrap();
    (!written.is_sorted()).then(|| format!("written in the order of tokens {written:?}"))
}
