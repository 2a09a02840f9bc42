//! The jobs, and which worker does which.

use tooz::{HashRing, MemberId};

/// How many there are.
pub(super) const JOBS: usize = 24;

/// The share of `member`: the jobs whose numbers the ring gives to it. All who see the same members
/// agree, without asking anybody, and few jobs move when a member comes or goes.
pub(super) fn jobs_of(member: &MemberId, ring: &HashRing) -> Vec<usize> {
    (0..JOBS).filter(|job| ring.node(job.to_string()) == Some(member)).collect()
}

/// Whether these shares have each job once.
pub(super) fn each_job_once<'a>(shares: impl IntoIterator<Item = &'a [usize]>) -> bool {
    let mut jobs: Vec<_> = shares.into_iter().flatten().copied().collect();
    jobs.sort_unstable();
    jobs.into_iter().eq(0..JOBS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_job_has_one_owner_whoever_is_there() {
        let mut ring = HashRing::new();
        for count in 1..=30 {
            ring.add(format!("m{count}")).unwrap();
            let shares: Vec<_> = ring.weights().map(|(m, _)| jobs_of(m, &ring)).collect();
            assert!(each_job_once(shares.iter().map(Vec::as_slice)), "of {count} members");
        }
        assert!(jobs_of(&"stranger".into(), &ring).is_empty());
    }

    #[test]
    fn a_job_twice_or_never_is_noticed() {
        let all: Vec<_> = (0..JOBS).collect();
        assert!(each_job_once([&all[..]]));
        assert!(!each_job_once([&all[1..]]));
        assert!(!each_job_once([&all[..], &all[..1]]));
    }
}
