//! What a VM's programs did over all the time that it is watched. Whoever hears of them counts from nothing when it begins
//! anew, and when it has left a program out; what was counted before stays. Must never count the same twice.

use proteus_model::telemetry::Application;
use proteus_model::unit::{Bytes, Millis, UnixMillis};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most programs that are kept: those that are heard of now, and as many that were.
const PROGRAMS_KEPT: usize = 64;

/// What of a program's sums is from the count that goes on now, which began when it was first seen in it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    began: UnixMillis,
    starts: u64,
    cpu: Millis,
    read: Option<Bytes>,
    written: Option<Bytes>,
    lives: u64,
    lived: Millis,
}

impl Counted {
    fn of(app: &Application) -> Self {
        Self {
            began: app.first_at,
            starts: app.starts,
            cpu: app.cpu,
            read: app.read,
            written: app.written,
            lives: app.lives,
            lived: app.lived,
        }
    }

    /// Nothing yet.
    fn nothing(began: UnixMillis) -> Self {
        let (read, written) = (None, None);
        Self { began, starts: 0, cpu: Millis(0), read, written, lives: 0, lived: Millis(0) }
    }
}

/// A sum, with what its count is now and what of that is in it already.
fn sum(known: u64, now: u64, before: u64) -> u64 {
    known.saturating_add(now).saturating_sub(before)
}

fn sum_bytes(known: Option<Bytes>, now: Option<Bytes>, before: Option<Bytes>) -> Option<Bytes> {
    let Some(now) = now else { return known };
    let of = |bytes: Option<Bytes>| bytes.map_or(0, |bytes| bytes.0);
    Some(Bytes(sum(of(known), now.0, of(before))))
}

/// A program with all that it did, and what is new of it.
fn added(known: &Application, app: &Application, before: &Counted) -> Application {
    let millis = |known: Millis, now: Millis, before: Millis| Millis(sum(known.0, now.0, before.0));
    Application {
        starts: sum(known.starts, app.starts, before.starts),
        cpu: millis(known.cpu, app.cpu, before.cpu),
        read: sum_bytes(known.read, app.read, before.read),
        written: sum_bytes(known.written, app.written, before.written),
        lives: sum(known.lives, app.lives, before.lives),
        lived: millis(known.lived, app.lived, before.lived),
        longest: known.longest.max(app.longest),
        resident_max: known.resident_max.max(app.resident_max),
        first_at: known.first_at.min(app.first_at),
        ..app.clone()
    }
}

/// Takes in what is heard of them now.
pub(super) fn add(
    kept: &mut Vec<Application>,
    counted: &mut BTreeMap<String, Counted>,
    seen: &[Application],
) {
    for known in kept.iter_mut() {
        (known.processes, known.cpu_share) = (0, 0.0);
        (known.read_per_second, known.written_per_second) = (None, None);
    }
    for app in seen {
        let before = counted.insert(app.name.clone(), Counted::of(app));
        let before = before.filter(|before| before.began == app.first_at);
        let before = before.unwrap_or_else(|| Counted::nothing(app.first_at));
        match kept.iter_mut().find(|known| known.name == app.name) {
            Some(known) => *known = added(known, app, &before),
            None => kept.push(app.clone()),
        }
    }
    kept.sort_by(|a, b| {
        let by_use = b.cpu_share.total_cmp(&a.cpu_share).then(b.last_at.cmp(&a.last_at));
        by_use.then_with(|| a.name.cmp(&b.name))
    });
    kept.truncate(PROGRAMS_KEPT);
    counted.retain(|name, _| kept.iter().any(|known| known.name == *name));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str, first_at: u64, last_at: u64, count: u64) -> Application {
        Application {
            name: name.to_owned(),
            cpu_share: 0.5,
            cpu: Millis(count * 100),
            starts: count,
            processes: 1,
            resident_max: Bytes(count),
            read: None,
            written: Some(Bytes(count * 10)),
            read_per_second: None,
            written_per_second: Some(1.0),
            lives: count,
            lived: Millis(count * 1000),
            longest: Some(Millis(count)),
            first_at: UnixMillis(first_at),
            last_at: UnixMillis(last_at),
        }
    }

    #[test]
    fn what_was_counted_before_stays_when_a_count_begins_anew() {
        let (mut kept, mut counted) = (Vec::new(), BTreeMap::new());
        let mut hear = |seen: &[Application]| {
            add(&mut kept, &mut counted, seen);
            // As after a restart, from what was written down.
            counted = serde_json::from_str(&serde_json::to_string(&counted).unwrap()).unwrap();
            kept.clone()
        };
        hear(&[app("nginx", 1_000, 2_000, 3), app("cron", 1_000, 2_000, 1)]);
        let all = hear(&[app("nginx", 1_000, 3_000, 5), app("cron", 1_000, 3_000, 1)]);
        assert_eq!((all[1].name.as_str(), all[1].starts, all[1].cpu), ("nginx", 5, Millis(500)));
        // Whoever counts began anew, and heard of one of them.
        let all = hear(&[app("nginx", 9_000, 9_000, 0)]);
        assert_eq!((all[0].starts, all[0].first_at, all[0].longest), (5, UnixMillis(1_000), Some(Millis(5))));
        let all = hear(&[app("nginx", 9_000, 9_500, 2)]);
        let nginx = &all[0];
        assert_eq!((nginx.starts, nginx.cpu, nginx.written), (7, Millis(700), Some(Bytes(70))));
        assert_eq!((nginx.lives, nginx.lived, nginx.resident_max), (7, Millis(7_000), Bytes(5)));
        let cron = &all[1];
        assert_eq!((cron.starts, cron.processes, cron.cpu_share), (1, 0, 0.0), "{cron:?}");
        assert_eq!((cron.written, cron.written_per_second), (Some(Bytes(10)), None));
        // A life that was no end is taken back, and counted once when it ends.
        let less = Application { lives: 1, ..app("nginx", 9_000, 9_600, 2) };
        assert_eq!(hear(&[less])[0].lives, 6);
        assert_eq!(hear(&[app("nginx", 9_000, 9_700, 2)])[0].lives, 7);
    }

    #[test]
    fn a_record_of_before_is_gone_on_with_and_it_stays_bounded() {
        let (mut kept, mut counted) = (vec![app("nginx", 1_000, 2_000, 40)], BTreeMap::new());
        add(&mut kept, &mut counted, &[app("nginx", 9_000, 9_000, 2)]);
        assert_eq!((kept[0].starts, kept[0].first_at), (42, UnixMillis(1_000)));
        for round in 0..200 {
            add(&mut kept, &mut counted, &[app(&format!("job{round}"), round, 10_000 + round, 1)]);
        }
        assert_eq!((kept.len(), counted.len()), (PROGRAMS_KEPT, PROGRAMS_KEPT));
        assert_eq!(kept[0].name, "job199");
    }
}
