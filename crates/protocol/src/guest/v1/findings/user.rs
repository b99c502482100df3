//! What people do in a guest, as it travels: what they consented to, with noise. `proteus-guest consent show` prints
//! just this.

use super::super::sample::SampleError;
use super::limit::{counter, list};
use proteus_model::telemetry as model;
use proteus_model::unit::UnixMillis;
use serde::{Deserialize, Serialize};

/// Most releases under one consent.
pub const RELEASES_MAX: usize = 8;

/// What the people of a guest decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each means what its namesake in the model means")]
pub enum Consent {
    Given,
    /// A word that is not known is no consent.
    #[default]
    #[serde(other)]
    Withdrawn,
}

/// The sessions of one week.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct Release {
    pub number: u32,
    pub from_ms: u64,
    pub until_ms: u64,
    pub by_hour: [u64; 24],
    pub sessions: u64,
}

/// What people do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field means what its namesake in the model means")]
pub struct Users {
    pub consent: Consent,
    pub given_ms: Option<u64>,
    pub budget_spent: u32,
    pub budget: u32,
    pub releases: Vec<Release>,
}

fn release(w: Release) -> Result<model::SessionsReleased, SampleError> {
    let (from, until) = (counter("users.from_ms", w.from_ms)?, counter("users.until_ms", w.until_ms)?);
    if from >= until {
        return Err(SampleError { field: "users.until_ms", given: until, expected: "after its begin" });
    }
    for sessions in w.by_hour {
        counter("users.by_hour", sessions)?;
    }
    Ok(model::SessionsReleased {
        number: w.number,
        from: UnixMillis(from),
        until: UnixMillis(until),
        by_hour: w.by_hour,
        sessions: counter("users.sessions", w.sessions)?,
    })
}

impl TryFrom<Users> for model::UsersObserved {
    type Error = SampleError;
    fn try_from(w: Users) -> Result<Self, SampleError> {
        if w.consent == Consent::Withdrawn {
            // Whatever comes with it, none of it is taken.
            return Ok(Self::default());
        }
        let given_at = w.given_ms.map(|ms| counter("users.given_ms", ms)).transpose()?.map(UnixMillis);
        let releases = list("users.releases", w.releases, RELEASES_MAX, release)?;
        let (budget, budget_spent) = (w.budget, w.budget_spent);
        if budget_spent > budget || releases.len() as u64 > u64::from(budget_spent) {
            let (field, given) = ("users.budget_spent", budget_spent.into());
            return Err(SampleError {
                field,
                given,
                expected: "no more than the budget, no less than was told",
            });
        }
        Ok(Self { consent: model::Consent::Given, given_at, budget_spent, budget, releases })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn release_of(number: u32) -> Release {
        Release { number, from_ms: 1, until_ms: 2, by_hour: [3; 24], sessions: 70 }
    }

    fn users(releases: u32) -> Users {
        let releases: Vec<Release> = (1..=releases).map(release_of).collect();
        Users {
            consent: Consent::Given,
            given_ms: Some(1),
            budget_spent: releases.len() as u32,
            budget: RELEASES_MAX as u32,
            releases,
        }
    }

    #[test]
    fn without_consent_nothing_is_taken() {
        let taken = model::UsersObserved::try_from(Users { consent: Consent::Withdrawn, ..users(2) });
        assert_eq!(taken.unwrap(), model::UsersObserved::default());
        let text = r#"{"consent":"perhaps","given_ms":1,"budget_spent":0,"budget":8,"releases":[]}"#;
        assert_eq!(serde_json::from_str::<Users>(text).unwrap().consent, Consent::Withdrawn);
        assert!(model::UsersObserved::try_from(users(2)).unwrap().releases.len() == 2);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |given: Users| model::UsersObserved::try_from(given).unwrap_err().field;
        assert_eq!(refused(Users { budget_spent: 1, ..users(2) }), "users.budget_spent");
        assert_eq!(refused(Users { budget: 1, ..users(2) }), "users.budget_spent");
        assert_eq!(refused(users(RELEASES_MAX as u32 + 1)), "users.releases");
        let backwards = Release { until_ms: 1, ..release_of(1) };
        assert_eq!(refused(Users { releases: vec![backwards], ..users(1) }), "users.until_ms");
        let absurd = Release { sessions: u64::MAX, ..release_of(1) };
        assert_eq!(refused(Users { releases: vec![absurd], ..users(1) }), "users.sessions");
    }

    proptest! {
        #[test]
        fn no_more_is_taken_than_was_paid_for(releases in 0..12u32, spent in 0..12u32, budget in 0..12u32) {
            let given = Users { budget_spent: spent, budget, ..users(releases) };
            if let Ok(taken) = model::UsersObserved::try_from(given) {
                prop_assert!(taken.releases.len() as u32 <= spent && spent <= budget);
            }
        }
    }
}
