//! What a personality looks like, known and hardly known.

use super::*;
use expect_test::expect;
use serde_json::{from_value, json};

const NOW: u64 = 1_790_000_600_000;

fn unknown(source: &str, why: &str) -> serde_json::Value {
    json!({"source": source, "at": null, "coverage": 0.0, "value": null, "missing": [why]})
}

fn record() -> serde_json::Value {
    json!({
        "VMID": "vm-1", "BaseImageID": unknown("host", "kernel: it is gone"),
        "ConfigurationHistory": {"source": "records", "at": NOW - 7_300_000, "coverage": 1.0, "missing": [],
            "value": [{"at": NOW - 7_300_000, "version": 0, "profile": null, "morph": null, "changed": []}]},
        "ApplicationUsageStats": {"source": "guest", "at": NOW - 4000, "coverage": 1.0, "missing": [],
            "value": [{"name": "nginx", "cpu_share": 0.9, "cpu_ms": 61_000, "starts": 1, "processes": 2,
                "starts_per_hour": 0.125, "running": true, "lives": 3, "life_mean_ms": 61_500, "life_longest_ms": 7_200_900,
                "resident_max": 9 << 20, "read": 40_960, "written": 9 << 20, "read_per_second": null,
                "written_per_second": 52_000.0, "sessions": 4, "requests": 337.2,
                "depends_on": ["redis-server:6379"], "first_at": NOW - 600_000, "last_at": NOW - 4000}]},
        "DataFootprintAnalysis": unknown("guest", "files are not looked at: not supported here"),
        "NetworkTrafficProfile": {"source": "host", "at": NOW - 200_000, "coverage": 0.5, "missing": [],
            "value": {"received": 10.0, "sent": 90.0, "sent_share": 0.9, "packet_in": 90.5, "packet_out": 1100.0,
                "burstiness": null, "by_hour": vec![Some(1.0f32); 24], "begun": [], "begun_at": NOW - 30_000,
                "connections": null}},
        "ApplicationMetrics": {"source": "guest", "at": NOW - 9000, "coverage": 1.0, "missing": [],
            "value": [{"kind": "nginx", "address": "127.0.0.1:80", "missing": null,
                "metrics": {"requests_per_second": 337.2, "connections": 5.0}}]},
        "ApiCallFrequency": unknown("guest", "collector calls: off: it is switched off"),
        "LogActivity": {"source": "guest", "at": NOW - 9000, "coverage": 1.0, "missing": [],
            "value": [{"service": "nginx", "lines": 2.5, "errors": 0.0}, {"service": "journal", "lines": 1.0, "errors": null}]},
        "GraphicsProcessors": unknown("guest", "no graphics processor is passed through"),
        "UserBehaviorModel": unknown("guest", "off"),
        "PerformanceMetrics": {"source": "host", "at": NOW - 200_000, "coverage": 0.5, "missing": [],
            "value": {"cpu": {"p50": 400.0, "p95": 812.5, "unit": "m"},
                "read_latency_last_minute": {"p50": 140.0, "p95": 900.0, "p99": 5000.0, "unit": "µs"}}},
        "WeightedTraitVector": {"source": "host", "at": NOW - 4000, "coverage": 0.1, "missing": ["forks: no agent was heard"],
            "value": [{"name": "cpu_use", "meaning": "share of its vCPUs in use", "value": 0.4, "deviation": -0.5,
                "weight": 0.75, "of_guest": false}]},
    })
}

/// One of which much is known.
fn known() -> PersonalityView {
    let judgement = |label: Option<&str>, with_guest: bool| {
        json!({"label": label, "confidence": 0.8, "with_guest": with_guest,
            "why_not": label.is_none().then_some("it is nearly as much cache as web frontend"),
            "candidates": [{"label": "web frontend", "distance": 0.25}, {"label": "cache", "distance": 1.0}],
            "evidence": [{"trait": "sent_share", "seen": "share of traffic that it sends: 0.90 (typical: 0.91)",
                "weight": 1.5}, {"trait": null, "seen": "a guest says so", "weight": -0.1}]})
    };
    from_value(json!({
        "vm": "web", "at": NOW - 4000, "label": "web frontend", "judgement": judgement(Some("web frontend"), true),
        "host_only": judgement(None, false), "departed": false, "inherited_from": "gold",
        "labels": [{"since": NOW - 7_300_000, "label": null}, {"since": NOW - 900_000, "label": "web frontend"}],
        "changes": [{"kind": "shift", "began_at": NOW - 950_000, "told_at": NOW - 900_000, "from": null,
            "to": "web frontend", "evidence": []}],
        "record": record(),
    }))
    .unwrap()
}

#[test]
fn a_personality_is_told_with_its_reasons_and_its_age() {
    let text = whole(&known(), NOW);
    let (reasons, _) = text.split_once("VMID").unwrap();
    expect![[r#"
        web: web frontend (4 s ago)
        its first label is from its template, gold

        now, by host and guest: web frontend (confidence 80 %)
          for      share of traffic that it sends: 0.90 (typical: 0.91)
          against  a guest says so
          nearest: web frontend 0.25, cache 1.00 (distances; beyond 1 is little alike)
        now, by the host alone: don't know: it is nearly as much cache as web frontend (confidence 80 %)
          for      share of traffic that it sends: 0.90 (typical: 0.91)
          against  a guest says so
          nearest: web frontend 0.25, cache 1.00 (distances; beyond 1 is little alike)

        labels over time
          2026-09-21 12:21:40 UTC  don't know
          2026-09-21 14:08:20 UTC  web frontend

        shifts and anomalies
          2026-09-21 14:07:30 UTC  shift    don't know → web frontend

    "#]]
    .assert_eq(reasons);
}

/// What is behind the reasons: the parts.
#[test]
fn a_record_is_told_part_by_part_with_what_is_missing() {
    let text = whole(&known(), NOW);
    let (_, record) = text.split_once("VMID").unwrap();
    expect![[r#"
         vm-1

        BaseImageID (by host, not seen, 0 % known)
          missing: kernel: it is gone

        ConfigurationHistory (by records, 2 h ago, 100 % known)
          WHEN (UTC)           VERSION  PROFILE  BY         CHANGED
          2026-09-21 12:21:40  0        -        not known

        ApplicationUsageStats (by guest, 4 s ago, 100 % known)
          PROGRAM  CPU   CPU TIME  NOW  STARTS      LIVES (MEAN / LONGEST)  MOST MEMORY  READ/S  WRITTEN/S  SESSIONS  REQUESTS/S  SINCE (UTC)
          nginx    90 %  61.0 s    2    1 (3.00/d)  61 s / 2 h              9 MiB        -       50 KiB     4         337         2026-09-21 14:13:20
          nginx depends on redis-server:6379

        DataFootprintAnalysis (by guest, not seen, 0 % known)
          missing: files are not looked at: not supported here

        NetworkTrafficProfile (by host, 3 min ago, 50 % known)
          received 10.0 KiB/s, sent 90.0 KiB/s, share sent 90 %, packets of 90.5 B in and 1100 B out, burstiness -
          by hour of the day (UTC): ████████████████████████
          nothing was begun in the ten minutes before (30 s ago)

        ApplicationMetrics (by guest, 9 s ago, 100 % known)
          nginx at 127.0.0.1:80
            connections                              5.00
            requests_per_second                      337

        ApiCallFrequency (by guest, not seen, 0 % known)
          missing: collector calls: off: it is switched off

        LogActivity (by guest, 9 s ago, 100 % known)
          LOG      LINES/S  ERRORS/S
          nginx    2.50     0.00
          journal  1.00     -

        GraphicsProcessors (by guest, not seen, 0 % known)
          missing: no graphics processor is passed through

        UserBehaviorModel (by guest, not seen, 0 % known)
          missing: off

        PerformanceMetrics (by host, 3 min ago, 50 % known)
          METRIC                    P50  P95  P99   UNIT
          cpu                       400  812  -     m
          read_latency_last_minute  140  900  5000  µs

        WeightedTraitVector (by host, 4 s ago, 10 % known)
          TRAIT    VALUE  DEVIATION  WEIGHT  SAID BY  WHAT IT IS
          cpu_use  0.40   -0.5       0.75    host     share of its vCPUs in use
          missing: forks: no agent was heard
    "#]]
    .assert_eq(record);
}

#[test]
fn a_vm_that_is_hardly_known_is_told_so() {
    let view: PersonalityView = from_value(json!({
        "vm": "new", "at": null, "label": null, "judgement": null, "host_only": null, "departed": true,
        "inherited_from": null, "labels": [], "changes": [], "record": record(),
    }))
    .unwrap();
    let text = whole(&view, NOW);
    assert!(text.starts_with("new: don't know (not judged yet)\nit is away from what it was"), "{text}");
}

#[test]
fn labels_are_listed_with_who_taught_them() {
    let all: Vec<LabelView> = from_value(json!([
        {"label": "cache", "sources": ["redis, 50 clients", "redis, 4 clients"], "taught": 0},
        {"label": "mail server", "sources": ["VM mx1"], "taught": 1},
    ]))
    .unwrap();
    expect![[r#"
        LABEL        SHIPPED  TAUGHT  TAUGHT BY
        cache        2        0
        mail server  0        1       VM mx1
    "#]]
    .assert_eq(&labels(&all));
}
