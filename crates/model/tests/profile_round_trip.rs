//! Any sound profile is written and read again as the very same profile, in JSON and in YAML.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proteus_model::profile::{Profile, document};
use serde_json::{Value, json};

/// Three rising amounts, some of them left out, as texts made by `text`.
fn range(least: u64, most: u64, text: fn(u64) -> String) -> impl Strategy<Value = Value> {
    (vec(least..=most, 3), any::<[bool; 3]>()).prop_map(move |(mut amounts, stated)| {
        amounts.sort_unstable();
        let fields = ["min", "preferred", "max"].into_iter().zip(amounts).zip(stated);
        let fields = fields.filter(|(_, stated)| *stated);
        Value::Object(fields.map(|((name, amount), _)| (name.to_owned(), json!(text(amount)))).collect())
    })
}

fn resources() -> impl Strategy<Value = Value> {
    let rate = |n: u64| format!("{n}B/s");
    let memory = range(32 << 20, 1 << 50, |n| format!("{n}"));
    let vcpus = range(10, 1_024_000, |n| format!("{n}m"));
    let link = || range(1000, 1 << 50, rate);
    (memory, vcpus, range(1, 1_000_000_000, |n| n.to_string()), link(), link()).prop_map(
        |(memory, vcpus, iops, bandwidth, to_guest)| {
            json!({
                "memory": memory, "vcpus": vcpus, "disk": { "iops": iops, "bandwidth": bandwidth },
                "network": { "to_guest": to_guest },
            })
        },
    )
}

fn weights() -> impl Strategy<Value = Value> {
    (0u32..=1000, 0u32..=1000, 0u32..=1000).prop_map(|(a, b, c)| {
        let mut cuts = [a, b, c];
        cuts.sort_unstable();
        let parts =
            [cuts[0], cuts[1] - cuts[0], cuts[2] - cuts[1], 1000 - cuts[2]].map(|n| f64::from(n) / 1000.0);
        json!({ "cpu": parts[0], "memory": parts[1], "network": parts[2], "storage_io": parts[3] })
    })
}

fn application() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z][a-z0-9._@:/-]{0,14}",
        "unit:[a-z][a-z0-9@_-]{0,20}\\.(service|slice|scope|socket)",
        "cgroup:[a-z]{1,8}(/[a-z0-9._-]{0,6}[a-z]){0,3}",
        "process:(unit|cgroup|process):[a-z]{1,7}",
    ]
    .prop_filter("the reader's own form", |text: &String| {
        text.parse::<proteus_model::profile::text::Application>().is_ok()
    })
}

fn rule() -> impl Strategy<Value = Value> {
    let ports =
        vec((1u16..=65535, 1u16..=65535).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))), 0..4);
    let cidr = option::of(
        (any::<u32>(), 0u8..=32).prop_map(|(a, n)| format!("{}/{n}", std::net::Ipv4Addr::from(a))),
    );
    (prop_oneof![Just("tcp"), Just("udp")], ports, cidr, prop_oneof![Just("accept"), Just("drop")])
        .prop_map(|(proto, ports, cidr, action)| json!({ "proto": proto, "ports": ports, "cidr": cidr, "action": action }))
}

fn network() -> impl Strategy<Value = Value> {
    (vec(rule(), 0..6), vec(rule(), 0..3), btree_map(application(), vec(rule(), 0..2), 0..3)).prop_map(
        |(ingress, egress, applications)| {
            let applications: serde_json::Map<String, Value> = applications
                .into_iter()
                .map(|(app, rules)| (app, json!({ "egress": { "rules": rules } })))
                .collect();
            json!({ "ingress": { "default": "drop", "rules": ingress }, "egress": { "rules": egress }, "applications": applications })
        },
    )
}

fn health() -> impl Strategy<Value = Value> {
    prop_oneof![
        (1u16..).prop_map(|port| json!({ "tcp": { "port": port } })),
        (1u16.., "/[!-\"$-~]{0,30}", 100u16..600).prop_map(
            |(port, path, status)| json!({ "http": { "port": port, "path": path, "status": status } })
        ),
        Just(json!({ "redis": {} })),
        "_?[a-z][a-z0-9_]{0,20}".prop_map(|user| json!({ "postgresql": { "user": user } })),
        "[a-z][a-z0-9-]{0,14}".prop_map(|name| json!({ "process": { "name": name } })),
        "[a-z]{1,20}\\.service".prop_map(|name| json!({ "unit": { "name": name } })),
    ]
}

fn verify() -> impl Strategy<Value = Value> {
    (vec(health(), 0..5), 0u32..=1000, 1000u64..=3_600_000, 0u64..1_000_000).prop_map(
        |(health, permille, window, latency)| {
            json!({
                "health": health,
                "performance": { "psi_cpu": format!("{}.{}%", permille / 10, permille % 10), "probe_latency": format!("{latency}ms") },
                "window": { "before": format!("{window}ms"), "after": "5s" },
            })
        },
    )
}

fn document() -> impl Strategy<Value = Value> {
    let sysctl = btree_map("(vm|net|fs)(\\.[a-z_]{1,8}){1,3}", "-?[a-z0-9][a-z0-9 ._-]{0,20}", 0..5);
    let texts =
        ("[a-z0-9][a-z0-9-]{0,62}", "[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}", option::of("[ -~äß✓]{1,80}"));
    let maps = (
        btree_map("[a-z0-9][a-z0-9._/-]{0,20}", "[ -~]{0,40}", 0..4),
        btree_map("[a-z][a-z0-9_]{0,20}", (0u32..=1000).prop_map(|n| f64::from(n) / 1000.0), 0..4),
        btree_map(application(), prop_oneof![Just("high"), Just("idle"), Just("realtime")], 0..4),
    );
    let parts = (option::of(resources()), option::of(weights()), option::of(network()), option::of(verify()));
    (texts, maps, parts, option::of(sysctl)).prop_map(|((name, version, summary), maps, parts, sysctl)| {
        json!({
            "name": name, "version": version.split('.').map(|n| n.parse::<u32>().expect("digits").to_string()).collect::<Vec<_>>().join("."),
            "summary": summary, "labels": maps.0, "traits": maps.1, "application_priorities": maps.2,
            "resources": parts.0, "resource_weights": parts.1, "network_policy": parts.2, "verify": parts.3,
            "tuning": sysctl.map(|sysctl| json!({ "sysctl": sysctl, "thp": "never" })),
        })
    })
}

fn read(name: &str, text: &str) -> Profile {
    document::parse(name, text.as_bytes(), None).unwrap_or_else(|problems| {
        panic!("{}\n{text}", problems.iter().map(|p| format!("{p}\n")).collect::<String>())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_written_is_read_again(document in document()) {
        let profile = read("p.json", &serde_json::to_string(&document).unwrap());
        prop_assert!(profile.violations().is_empty());
        let json = profile.canonical_json();
        prop_assert_eq!(&read("p.json", &json), &profile);
        prop_assert_eq!(&read("p.yaml", &json), &profile);
        prop_assert_eq!(&serde_json::from_str::<Profile>(&serde_json::to_string(&profile).unwrap()).unwrap(), &profile);
        prop_assert_eq!(read("p.json", &json).canonical_json(), json);
    }

    #[test]
    fn laying_a_profile_over_itself_changes_nothing(document in document()) {
        let child = read("p.json", &serde_json::to_string(&document).unwrap());
        prop_assert_eq!(document::resolve(child.clone(), &|_, _| None).unwrap(), child);
    }
}
