//! Consent over weeks, clones and damage. Must never touch this machine's own state.

use super::session::tests::record;
use super::*;
use proptest::prelude::*;

/// A guest's files, which go with the test.
pub struct Guest {
    path: PathBuf,
    pub store: Store,
}

/// Midnight, some day.
const GIVEN_MS: u64 = 20_000 * 86_400_000;

impl Guest {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("proteus-consent-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        let at = |file: &str| path.join(file);
        let store =
            Store { folder: at("state"), machine_id: at("machine-id"), sessions: [at("wtmp"), at("wtmp.1")] };
        let guest = Self { path, store };
        guest.become_machine('a');
        guest.log(&[]);
        guest
    }

    fn become_machine(&self, digit: char) {
        std::fs::write(&self.store.machine_id, format!("{}\n", String::from(digit).repeat(32))).unwrap();
    }

    /// A log that begins before the consent and ends long after it, with sessions so long after it, in hours.
    fn log(&self, hours: &[u32]) {
        let given = u32::try_from(GIVEN_MS / 1000).unwrap();
        self.log_until(hours, given + 100 * 7 * 86_400);
    }

    fn log_until(&self, hours: &[u32], end: u32) {
        let given = u32::try_from(GIVEN_MS / 1000).unwrap();
        let mut log = record(2, given - 1000);
        hours.iter().for_each(|hour| log.extend(record(7, given + hour * 3600)));
        log.extend(record(2, end));
        std::fs::write(&self.store.sessions[0], log).unwrap();
    }

    fn told(&self, weeks: u64) -> Users {
        self.store.told(GIVEN_MS + weeks * WEEK_MS).unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

#[test]
fn a_week_is_released_when_it_is_over_and_then_repeated() {
    let guest = Guest::new("week");
    guest.log(&(0..700).map(|session| 24 * (session % 7) + 9).collect::<Vec<u32>>());
    assert!(guest.store.give(GIVEN_MS).unwrap());
    assert_eq!(guest.told(0).releases, []);
    let first = guest.told(1);
    assert_eq!((first.releases.len(), first.budget_spent), (1, 1));
    let release = &first.releases[0];
    assert!(release.by_hour[9].abs_diff(700) < 40 && release.sessions.abs_diff(700) < 100, "{release:?}");
    for _ in 0..20 {
        assert_eq!(guest.told(1), first, "it is not drawn again");
    }
    guest.log(&[]);
    assert_eq!(guest.told(1), first, "nor when the log is another");
    assert_eq!(guest.told(2).releases[0], first.releases[0]);
    assert!(!serde_json::to_string(&first).unwrap().contains("alice"));
}

#[test]
fn the_budget_ends_and_a_new_consent_begins_anew() {
    let guest = Guest::new("budget");
    guest.store.give(GIVEN_MS).unwrap();
    let last = guest.told(30);
    assert_eq!((last.releases.len(), last.budget_spent, last.budget), (RELEASES_MAX, 8, 8));
    assert_eq!(guest.told(60), last);
    assert!(guest.store.give(GIVEN_MS + 60 * WEEK_MS).unwrap());
    let anew = guest.told(60);
    assert_eq!(
        (anew.releases.len(), anew.budget_spent, anew.given_ms),
        (0, 0, Some(GIVEN_MS + 60 * WEEK_MS))
    );
}

#[test]
fn consent_does_not_follow_a_clone_and_damage_is_no_consent() {
    let guest = Guest::new("clone");
    guest.store.give(GIVEN_MS).unwrap();
    guest.become_machine('b');
    assert_eq!(guest.told(1), withdrawn());
    guest.become_machine('a');
    assert_eq!(guest.told(1), withdrawn(), "it was erased");
    guest.store.give(GIVEN_MS).unwrap();
    let file = guest.store.folder.join(FILE);
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() - 5;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(guest.told(1), withdrawn());
    std::fs::write(&guest.store.machine_id, "").unwrap();
    assert!(guest.store.give(GIVEN_MS).unwrap_err().message.contains("machine id"));
}

#[test]
fn what_is_withdrawn_is_erased() {
    let guest = Guest::new("withdraw");
    guest.store.give(GIVEN_MS).unwrap();
    assert_eq!(guest.told(2).releases.len(), 2);
    guest.store.withdraw().unwrap();
    assert!(!guest.store.folder.join(FILE).exists());
    assert_eq!(guest.told(2), withdrawn());
    guest.store.withdraw().unwrap();
}

#[test]
fn what_cannot_be_written_down_is_not_told() {
    let guest = Guest::new("unwritten");
    guest.store.give(GIVEN_MS).unwrap();
    // In the way of the new file: a folder cannot be removed as a file is.
    std::fs::create_dir_all(guest.store.folder.join(".consent.new/x")).unwrap();
    assert!(guest.store.told(GIVEN_MS + WEEK_MS).is_err());
    assert!(guest.store.told_with(GIVEN_MS + WEEK_MS, &mut || None).unwrap().releases.is_empty());
}

#[test]
fn a_week_that_the_log_does_not_tell_is_left_out_and_costs_nothing() {
    let guest = Guest::new("rotated");
    guest.store.give(GIVEN_MS).unwrap();
    let at = |weeks: u64| record(2, u32::try_from((GIVEN_MS + weeks * WEEK_MS) / 1000).unwrap());
    std::fs::write(&guest.store.sessions[0], [at(1), at(2)].concat()).unwrap();
    let told = guest.told(2);
    assert_eq!((told.releases.len(), told.budget_spent), (1, 1));
    assert_eq!(told.releases[0].from_ms, GIVEN_MS + WEEK_MS);
}

#[test]
fn a_clock_ahead_releases_no_week_that_the_log_has_not_seen() {
    let guest = Guest::new("ahead");
    guest.store.give(GIVEN_MS).unwrap();
    let second = |weeks: u64| u32::try_from((GIVEN_MS + weeks * WEEK_MS) / 1000).unwrap();
    guest.log_until(&[], second(0) + 60);
    assert_eq!(guest.told(300).releases, [], "years ahead");
    guest.log_until(&[5], second(1));
    assert_eq!(guest.told(300).releases.len(), 1);
    std::fs::remove_file(&guest.store.sessions[0]).unwrap();
    assert_eq!(guest.told(300).releases.len(), 1);
    guest.log_until(&[5], second(2));
    let told = guest.told(2);
    assert_eq!(told.releases[1].from_ms, GIVEN_MS + WEEK_MS, "no week was left out meanwhile");
}

#[test]
fn a_clock_that_was_set_back_takes_the_consent_with_it() {
    let guest = Guest::new("back");
    let second = |weeks: u64| u32::try_from((GIVEN_MS + weeks * WEEK_MS) / 1000).unwrap();
    guest.store.give(GIVEN_MS + 50 * WEEK_MS).unwrap();
    guest.log_until(&[], second(51));
    assert_eq!(guest.told(52).releases.len(), 1);
    assert_eq!(
        guest.told(3).given_ms,
        Some(GIVEN_MS + 50 * WEEK_MS),
        "the log says that the clock is behind"
    );
    guest.log_until(&[], second(3));
    let back = guest.told(3);
    assert_eq!((back.given_ms, back.budget_spent), (Some(GIVEN_MS + 3 * WEEK_MS), 1));
    guest.log_until(&[], second(4));
    let next = guest.told(4);
    assert_eq!((next.releases.len(), next.releases[1].from_ms), (2, GIVEN_MS + 3 * WEEK_MS));
    assert_eq!(next.releases[0], back.releases[0], "what was released stays");
}

proptest! {
    /// However often and whenever it is asked, no release changes and the budget holds.
    #[test]
    fn releases_are_only_added(weeks in prop::collection::vec(0..20u64, 1..12)) {
        let mut consent = Consent { machine: String::new(), given_ms: 5, week: 0, releases: Vec::new() };
        for week in weeks {
            let before = consent.releases.clone();
            consent.release(5 + week * WEEK_MS, |_, _| Told::Whole([3; 24]), &mut noise::random);
            prop_assert!(consent.releases.starts_with(&before) && consent.releases.len() <= RELEASES_MAX);
            prop_assert!(consent.releases.len() as u64 >= week.min(RELEASES_MAX as u64));
            let told = proteus_model::telemetry::UsersObserved::try_from(consent.told());
            prop_assert!(told.is_ok());
        }
    }
}
