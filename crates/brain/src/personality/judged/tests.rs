//! What one look tells, and which buckets it is made of.

use super::*;
use proteus_model::id::VmId;
use proteus_model::personality::{Label, Prototype, Trait};
use proteus_model::telemetry::{Application, METRICS, Metric, Summary};
use proteus_model::unit::{Bytes, Millis};

fn bucket(at_s: u64, cpu: f32, packets: f32) -> Bucket {
    let mut summaries = [None; METRICS];
    let values = [
        (Metric::Cpu, cpu),
        (Metric::Overhead, 5.0),
        (Metric::PacketsReceived, packets),
        (Metric::PacketsSent, packets),
        (Metric::Received, packets / 8.0),
        (Metric::Sent, packets),
        (Metric::DiskRead, 0.0),
        (Metric::DiskWritten, 0.0),
    ];
    for (metric, value) in values {
        let all = Summary { min: value, p50: value, p95: value, max: value, mean: value };
        summaries[metric as usize] = Some(all);
    }
    Bucket { begins_at: UnixMillis(at_s * 1000), readings: 10, summaries }
}

fn recent(until_s: u64, cpu: f32, packets: f32) -> Vec<Bucket> {
    (0..6).map(|at| bucket(until_s - 60 + at * 10, cpu, packets)).collect()
}

fn lately(buckets: &[Bucket]) -> Lately<'_> {
    Lately { buckets, vcpus: 1, applications: None }
}

fn labels() -> Labels {
    let of = |name: &str, cpu: f32, packets: f32| {
        let traits = traits(&recent(1000, cpu, packets), 1);
        Prototype { label: name.parse().unwrap(), source: "a test".into(), traits, programs: Vec::new() }
    };
    Labels::new(&[of("web frontend", 400.0, 900.0), of("idle", 2.0, 0.1), of("batch analytics", 990.0, 0.2)])
}

#[test]
fn a_gap_ends_what_is_looked_at() {
    let all = [10, 20, 40, 50, 60].map(|at| bucket(at, 1.0, 1.0));
    assert_eq!(unbroken(&all).len(), 3);
    assert_eq!(unbroken(&all[..1]).len(), 1);
    assert!(unbroken(&[]).is_empty());
    let many: Vec<Bucket> = (0..20).map(|at| bucket(at * 10, 1.0, 1.0)).collect();
    assert_eq!(unbroken(&many).first().map(|b| b.begins_at.0), Some(140_000));
}

#[test]
fn a_label_comes_after_three_looks_and_other_work_is_a_shift() {
    let labels = labels();
    let mut judged = Judged::resume(PersonalityRecord::new(UnixMillis(0)), UnixMillis(0));
    let mut told = Vec::new();
    for look in 0..60u64 {
        let until = 1000 + look * 10;
        let (cpu, packets) = if look < 30 { (400.0, 900.0) } else { (980.0, 0.2) };
        let at = UnixMillis(until * 1000);
        let new = judged.look(at, &lately(&recent(until, cpu, packets)), &labels);
        // Asked again before there is more to see, it says nothing.
        assert_eq!(judged.look(at, &lately(&recent(until, cpu, packets)), &labels), Told::default());
        if new != Told::default() {
            told.push((look, new.label, new.change));
        }
    }
    assert_eq!(
        told,
        [(2, true, None), (32, true, None), (35, false, Some(ChangeKind::Shift))],
        "{:?}",
        judged.judgements
    );
    let change = judged.record.changes[0].clone();
    assert_eq!(change.from.map(String::from).as_deref(), Some("web frontend"));
    assert_eq!(change.to.map(String::from).as_deref(), Some("batch analytics"));
    assert_eq!((judged.record.told, judged.record.labels.len(), judged.record.looks), ([1, 0], 2, 60));
    // After a restart it bears its label at once, and tells nothing anew.
    let text = serde_json::to_string(&judged.record).unwrap();
    let mut again = Judged::resume(serde_json::from_str(&text).unwrap(), UnixMillis(0));
    assert_eq!(again.record, judged.record);
    assert_eq!(
        again.look(UnixMillis(2_000_000), &lately(&recent(2000, 980.0, 0.2)), &labels),
        Told::default()
    );
    assert_eq!(again.label.borne().map(Label::as_str), Some("batch analytics"));
}

#[test]
fn programs_are_kept_and_a_clone_has_its_templates_label_and_nothing_else() {
    let mut judged = Judged::resume(PersonalityRecord::new(UnixMillis(0)), UnixMillis(0));
    let nginx = Application {
        name: "nginx".into(),
        cpu_share: 1.0,
        cpu: Millis(5),
        starts: 1,
        processes: 2,
        resident_max: Bytes::mib(3),
        read: None,
        written: None,
        read_per_second: None,
        written_per_second: None,
        lives: 0,
        lived: Millis(0),
        longest: None,
        first_at: UnixMillis(1),
        last_at: UnixMillis(2),
    };
    for look in 0..3 {
        let until = 1000 + look * 10;
        let (applications, buckets) = ([nginx.clone()], recent(until, 400.0, 900.0));
        let seen = Lately { applications: Some(&applications), ..lately(&buckets) };
        judged.look(UnixMillis(until * 1000), &seen, &labels());
    }
    let [whole, host] = judged.judgements.as_ref().unwrap();
    assert!(whole.with_guest && !host.with_guest && whole.confidence >= host.confidence);
    assert!(whole.evidence.iter().any(|one| one.seen.starts_with("nginx and the like use 100 %")));
    assert!(judged.record.traits.get(Trait::CpuUse).is_some());
    let template = VmId::from_bits(9);
    let clone = PersonalityRecord::inherited(UnixMillis(5), template, Some(judged.record));
    assert_eq!(clone.label().map(Label::as_str), Some("web frontend"));
    assert_eq!((clone.inherited_from, clone.applications.is_none(), clone.looks), (Some(template), true, 0));
    let stranger = PersonalityRecord::inherited(UnixMillis(5), template, None);
    assert_eq!((stranger.label(), stranger.inherited_from), (None, None));
}

#[test]
fn programs_go_on_after_a_restart_with_what_was_kept_of_them() {
    let look = |judged: &mut Judged, until: u64, first_at: u64, starts: u64| {
        let nginx = Application {
            name: "nginx".into(),
            cpu_share: 1.0,
            cpu: Millis(starts * 10),
            starts,
            processes: 1,
            resident_max: Bytes::mib(3),
            read: None,
            written: Some(Bytes(starts)),
            read_per_second: None,
            written_per_second: None,
            lives: starts,
            lived: Millis(starts * 500),
            longest: Some(Millis(900)),
            first_at: UnixMillis(first_at),
            last_at: UnixMillis(until * 1000),
        };
        let (applications, buckets) = ([nginx], recent(until, 400.0, 900.0));
        let seen = Lately { applications: Some(&applications), ..lately(&buckets) };
        judged.look(UnixMillis(until * 1000), &seen, &labels());
        judged.record.applications.as_ref().unwrap().1[0].clone()
    };
    let mut judged = Judged::resume(PersonalityRecord::new(UnixMillis(0)), UnixMillis(0));
    look(&mut judged, 1000, 5_000, 3);
    assert_eq!(look(&mut judged, 1010, 5_000, 4).starts, 4);
    let text = serde_json::to_string(&judged.memory()).unwrap();
    let mut again = Judged::resume(serde_json::from_str(&text).unwrap(), UnixMillis(0));
    // The node counts from nothing.
    let first = look(&mut again, 2000, 1_999_000, 0);
    assert_eq!((first.starts, first.cpu, first.first_at), (4, Millis(40), UnixMillis(5_000)));
    let next = look(&mut again, 2010, 1_999_000, 2);
    assert_eq!((next.starts, next.cpu, next.written), (6, Millis(60), Some(Bytes(6))));
    assert_eq!((next.lives, next.life_mean(), next.longest), (6, Some(Millis(500)), Some(Millis(900))));
    assert_eq!(next.starts_per_hour(UnixMillis(3_605_000)), Some(6.0));
    assert_eq!(next.starts_per_hour(UnixMillis(300_000)), None, "too short to tell");
}

#[test]
fn what_people_consent_to_is_never_written_down() {
    use proteus_model::telemetry::{Consent, Findings, Found, UsersObserved};
    let value = UsersObserved { consent: Consent::Given, ..UsersObserved::default() };
    let users = Some(Found { at: UnixMillis(1), value });
    let mut judged = Judged::resume(PersonalityRecord::new(UnixMillis(0)), UnixMillis(0));
    judged.record.found(UnixMillis(9), Findings { users: users.clone(), ..Findings::default() });
    assert!(judged.memory().findings.unwrap().1.users.is_none());
    assert_eq!(judged.record.findings.unwrap().1.users, users, "it is shown while it is told");
}
