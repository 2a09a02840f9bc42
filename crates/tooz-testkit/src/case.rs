//! A named case, and the table of all of them.

use std::pin::Pin;

use tooz_core::Result;

use crate::context::Context;
use crate::{Area, cases};

/// What a case runs.
type Run = for<'a> fn(&'a Context) -> Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// What may run beside a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Company {
    /// All cases that bear company.
    Any,
    /// Other quiet cases.
    Quiet,
    /// A few other still cases.
    Still,
    /// No other case.
    None,
    /// Other cases that harm servers, of other servers.
    OtherServers,
}

/// One thing that every driver must get right.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    area: Area,
    name: &'static str,
    also: &'static [Area],
    company: Company,
    run: Run,
}

impl Case {
    pub(crate) const fn new(area: Area, name: &'static str, run: Run) -> Self {
        Self { area, name, also: &[], company: Company::Any, run }
    }

    /// It uses these areas too, and is not run where the matrix says no to one of them.
    pub(crate) const fn with(self, also: &'static [Area]) -> Self {
        Self { also, ..self }
    }

    /// It measures short times after a long wait, so that only a few of its like may run beside it.
    pub(crate) const fn still(self) -> Self {
        Self { company: Company::Still, ..self }
    }

    /// It measures short times or makes load, so that nothing may run beside it.
    pub(crate) const fn alone(self) -> Self {
        Self { company: Company::None, ..self }
    }

    /// It measures times of a second or more and waits for most of them, so that only its like may
    /// run beside it.
    pub(crate) const fn quiet(self) -> Self {
        Self { company: Company::Quiet, ..self }
    }

    /// It halts or kills its server. It is run where the runner of the tests offers that.
    pub(crate) const fn harms_the_server(self) -> Self {
        Self { company: Company::OtherServers, ..self }
    }

    /// All cases, by area.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        cases::ALL.iter().copied().flatten()
    }

    /// The area that it belongs to.
    pub fn area(&self) -> Area {
        self.area
    }

    /// Its name, unique in its area.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Every area that the driver must have for it to be run.
    pub fn areas(&self) -> impl Iterator<Item = Area> {
        std::iter::once(self.area).chain(self.also.iter().copied())
    }

    pub(crate) fn company(&self) -> Company {
        self.company
    }

    pub(crate) async fn run(&self, context: &Context) -> Result<()> {
        (self.run)(context).await
    }
}

/// The case that an `async fn` of the same file is, in the file's `AREA`.
macro_rules! case {
    ($name:ident) => {
        $crate::case::Case::new(AREA, stringify!($name), |context| Box::pin($name(context)))
    };
}
pub(crate) use case;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_area_has_cases_with_names_of_their_own() {
        let mut names = BTreeSet::new();
        for case in Case::all() {
            assert!(names.insert((case.area(), case.name())), "{} twice", case.name());
        }
        let areas: BTreeSet<_> = names.iter().map(|(area, _)| *area).collect();
        assert_eq!(areas, BTreeSet::from(Area::ALL));
    }
}
