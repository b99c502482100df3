//! Fuzz target of the guest channel, for the stable toolchain: mutates real traffic of both directions, and after
//! each mutation a good frame must still be found. A short run by default; `PROTEUS_FUZZ_RUNS=1000000` for a long
//! one, `PROTEUS_FUZZ_SEED=…` to repeat one. A failure prints its seed.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../../tests/support/random.rs"]
mod random;

use proteus_model::telemetry::{Findings, GuestSample};
use proteus_model::unit::Millis;
use proteus_protocol::guest::GUEST_PAYLOAD_BYTES_MAX;
use proteus_protocol::guest::frame::{Decoder, HEADER_BYTES, encode};
use proteus_protocol::guest::v1::findings as wire;
use proteus_protocol::guest::v1::sample::{NAME_BYTES_MAX, PROCESSES_MAX, Process};
use proteus_protocol::guest::v1::setting::{ApplicationSelector, DiskSelector, Priority, PriorityClass};
use proteus_protocol::guest::v1::{
    Blob, ErrorCode, Event, ExecRequest, GuestMessage, HostMessage, Knob, Reply, Request, Sample,
    ServiceManifest, Setting,
};
use random::{Random, number};
use serde::Serialize;
use serde::de::DeserializeOwned;

const LIMIT: usize = 16 * 1024;
const RUNS: u64 = 20_000;

fn mutate(random: &mut Random, data: &mut Vec<u8>) {
    for _ in 0..=random.below(6) {
        let at = random.below(data.len());
        match random.below(7) {
            0 if !data.is_empty() => data[at] ^= 1 << random.below(8),
            1 if !data.is_empty() => data[at] = random.next() as u8,
            2 => data.truncate(at),
            3 => data.insert(at.min(data.len()), [0xF5, b'"', b'{', 0][random.below(4)]),
            4 => drop(data.drain(at.min(data.len())..(at + random.below(40)).min(data.len()))),
            5 => {
                let part = data[at.min(data.len())..(at + random.below(200)).min(data.len())].to_vec();
                data.extend(part);
            }
            _ => data.extend((0..random.below(64)).map(|_| random.next() as u8).collect::<Vec<_>>()),
        }
    }
}

/// Mutated traffic, then a good frame: it must be found, whatever was before it.
fn run<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(
    seeds: &[T],
    good: &T,
    use_it: impl Fn(T),
) {
    let seed = number("PROTEUS_FUZZ_SEED", 0x5EED);
    let runs = number("PROTEUS_FUZZ_RUNS", RUNS);
    let end = encode(good, LIMIT).unwrap();
    for round in 0..runs {
        let mut random = Random::of_round(seed, round);
        let mut stream = Vec::new();
        for _ in 0..=random.below(3) {
            stream.extend(encode(&seeds[random.below(seeds.len())], LIMIT).unwrap());
        }
        mutate(&mut random, &mut stream);
        stream.extend(&end);
        let mut decoder = Decoder::<T>::new(LIMIT);
        let mut last = None;
        for chunk in stream.chunks(1 + random.below(700)) {
            decoder.push(chunk);
            while let Some(message) = decoder.next() {
                last = message.ok();
            }
        }
        // A header that was cut may still wait for a rest that does not come; the sides give it up after a while.
        while decoder.is_mid_frame() {
            decoder.resynchronise();
            while let Some(message) = decoder.next() {
                last = message.ok();
            }
        }
        assert_eq!(
            last.as_ref(),
            Some(good),
            "PROTEUS_FUZZ_SEED={} PROTEUS_FUZZ_RUNS=1",
            seed.wrapping_add(round)
        );
        let report = decoder.report();
        assert!(report.dropped_bytes + report.frames * HEADER_BYTES as u64 <= stream.len() as u64);
        last.into_iter().for_each(&use_it);
    }
}

#[test]
fn what_the_host_hears() {
    let status = r#"{"name":"n","image":"i","version":"1","state":"ready","pid":1,"generation":1,"restarts":0,
        "cgroup":"c","listen":["0.0.0.0:80"],"sockets_kept":true,"notes":[],"last_exit":null,"log":"\u0000x"}"#;
    let status = serde_json::from_str(status).unwrap();
    let sample = Sample { sequence: 3, uptime_ms: Some(1), ..Sample::default() };
    let seeds = [
        GuestMessage::Reply { id: 3, reply: Box::new(Reply::Sample { sample: Box::new(sample) }) },
        GuestMessage::Event { event: Event::Service { status } },
        GuestMessage::Reply { id: 1, reply: Box::new(Reply::Pong { uptime_ms: 5 }) },
        GuestMessage::Reply {
            id: 2,
            reply: Box::new(Reply::Error { code: ErrorCode::Busy, message: "x".into() }),
        },
    ];
    run(&seeds, &seeds[0].clone(), |message| {
        if let GuestMessage::Reply { reply, .. } = message
            && let Reply::Sample { sample } = *reply
        {
            // Refused or not: without a panic.
            let _ = GuestSample::try_from(*sample);
        }
    });
}

/// Numbers that no guest has, where a sample has one.
const LIES: [&str; 14] = [
    "-1",
    "-0",
    "0",
    "1e999",
    "1e19",
    "NaN",
    "Infinity",
    "null",
    "\"7\"",
    "18446744073709551615",
    "18446744073709551616",
    "4611686018427387904",
    "4611686018427387905",
    "0.5",
];

/// A text with some of its numbers replaced by lies, fewer than `most`.
fn lied(good: &str, random: &mut Random, most: usize) -> String {
    let mut text = good.to_owned();
    for _ in 0..random.below(most) {
        let digits: Vec<usize> = text.match_indices(|c: char| c.is_ascii_digit()).map(|(at, _)| at).collect();
        let at = digits[random.below(digits.len())];
        let end = text[at..].find(|c: char| !c.is_ascii_digit()).map_or(text.len(), |length| at + length);
        text.replace_range(at..end, LIES[random.below(LIES.len())]);
    }
    text
}

#[test]
fn samples_that_lie() {
    let good = r#"{"sequence":3,"taken_at_ms":1790000000000,"uptime_ms":5,"cpu":{"user_us":1,"system_us":2,
        "idle_us":3,"iowait_us":4,"steal_us":5,"online":2,"running":1,"blocked":0,"switches":9,"forks":8},
        "memory":{"total":536870912,"available":268435456,"free":1,"cached":2,"major_faults":3},
        "pressure":{"cpu_some":{"avg10":12,"avg60":1000,"total_us":77},"io_some":{"avg10":0,"avg60":1,"total_us":2}},
        "disks":[{"name":"vda","serial":null,"reads":1,"read":2,"writes":3,"written":4,"busy_ms":5,"in_flight":6}],
        "processes":[{"pid":1,"started_ticks":2,"name":"init","cpu_us":3,"resident":4,"threads":5}]}"#;
    let most = 1 << 62;
    let (mut taken, mut refused) = (0u64, 0u64);
    for round in 0..number("PROTEUS_FUZZ_RUNS", RUNS) {
        let mut random = Random::of_round(0, round);
        let text = lied(good, &mut random, 4);
        let read = serde_json::from_str::<Sample>(&text).ok();
        let Some(word) = read.and_then(|sample| GuestSample::try_from(sample).ok()) else {
            refused += 1;
            continue;
        };
        taken += 1;
        assert!(word.sequence <= most, "{text}");
        if let Some(cpu) = word.cpu {
            assert!(
                (1..=4096).contains(&cpu.online) && cpu.user_us.checked_add(cpu.system_us).is_some(),
                "{text}"
            );
        }
        if let Some(memory) = word.memory {
            assert!(memory.available <= memory.total && memory.total.0 <= most, "{text}");
        }
        for pressure in [word.pressure.cpu_some, word.pressure.io_some].into_iter().flatten() {
            assert!(
                pressure.avg10.0 <= 1000 && pressure.avg60.0 <= 1000 && pressure.total_us <= most,
                "{text}"
            );
        }
    }
    assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");
}

#[test]
fn findings_that_lie() {
    let good = r#"{"instance":"a","now_ms":1790000000000,"collectors":[{"name":"logs","state":"on","cpu_us":5,"runs":1}],
        "watched_ms":7,"cpu_us":3,"resident":4000000,"connections":{"at_ms":1,"value":{"established":3,"listening":1,
        "unread":0,"rtt_p50_us":9,"rtt_p95_us":null,"retransmitted":2,"flows":[{"direction":"inbound","port":80,
        "peer":"10.0.0.9","application":"nginx","peer_application":null,"connections":2,"sent":5,"received":6,
        "rtt_us":7}]}},"calls":{"at_ms":1,"value":{"window_ms":1000,"classes":[{"name":"all","calls":5}]}},
        "logs":{"at_ms":1,"value":[{"service":"nginx","window_ms":1000,"lines":5,"errors":1}]},
        "gpus":{"at_ms":1,"value":[{"address":"a","device":"b","driver":null,"busy_permille":5,"missing":null}]},
        "endpoints":{"at_ms":1,"value":[{"kind":"redis","address":"x","missing":null,"metrics":{"keys":5.5}}]}}"#;
    let (mut taken, mut refused) = (0u64, 0u64);
    for round in 0..number("PROTEUS_FUZZ_RUNS", RUNS) {
        let mut random = Random::of_round(1, round);
        let text = lied(good, &mut random, 6);
        let read = serde_json::from_str::<wire::Findings>(&text).ok();
        let Some(found) = read.and_then(|found| Findings::try_from(found).ok()) else {
            refused += 1;
            continue;
        };
        taken += 1;
        let parts = ["connections", "calls", "logs", "gpus", "endpoints"];
        assert!(found.refused.keys().all(|part| parts.contains(&part.as_str())), "{text}");
        let window = |window: Millis| (1..=31_536_000_000).contains(&window.0);
        assert!(found.cpu_share().is_none_or(f64::is_finite), "{text}");
        assert!(found.calls.is_none_or(|calls| window(calls.value.window)), "{text}");
        assert!(found.logs.is_none_or(|logs| logs.value.iter().all(|log| window(log.window))), "{text}");
        let told = found.endpoints.iter().flat_map(|all| &all.value).flat_map(|one| one.metrics.values());
        assert!(told.copied().all(f64::is_finite), "{text}");
    }
    assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");
}

#[test]
fn a_million_processes_are_refused() {
    let process = Process { name: "x".repeat(2 * NAME_BYTES_MAX), ..Process::default() };
    let of = |count: usize| Sample { processes: Some(vec![process.clone(); count]), ..Sample::default() };
    assert!(GuestSample::try_from(of(PROCESSES_MAX)).is_ok());
    assert!(GuestSample::try_from(of(PROCESSES_MAX + 1)).is_err());
    let empty = Sample { processes: Some(vec![Process::default(); 1_000_000]), ..Sample::default() };
    let reply = Box::new(Reply::Sample { sample: Box::new(empty.clone()) });
    let message = GuestMessage::Reply { id: 1, reply };
    assert!(GuestSample::try_from(empty).is_err());
    // Longer than a guest may send: it is never held as a whole.
    let mut decoder = Decoder::<GuestMessage>::new(GUEST_PAYLOAD_BYTES_MAX);
    for chunk in encode(&message, usize::MAX).unwrap().chunks(1 << 16) {
        decoder.push(chunk);
        while let Some(message) = decoder.next() {
            assert!(message.is_err(), "it was taken");
        }
    }
}

#[test]
fn what_the_guest_hears() {
    let disk = DiskSelector::Serial("d".into());
    let priority = Priority::Class(PriorityClass::High);
    let exec = ExecRequest {
        argv: vec!["/bin/true".into()],
        service: None,
        stdin: Blob(vec![0, 255]),
        timeout_ms: 1,
        output_bytes_max: 1,
    };
    let application = ApplicationSelector::Cgroup { path: "a/b".into() };
    let seeds = [
        HostMessage { id: 1, request: Request::Ping },
        HostMessage { id: 2, request: Request::Exec { exec } },
        HostMessage { id: 3, request: Request::ReadSetting { knob: Knob::IoScheduler { disk } } },
        HostMessage {
            id: 4,
            request: Request::ApplySetting { setting: Setting::Priority { application, priority } },
        },
    ];
    run(&seeds, &seeds[3].clone(), |message| {
        if let Request::ApplySetting { setting } = message.request {
            let _ = setting.validate();
        }
    });
}

#[test]
fn manifests_from_a_strange_image() {
    let good = r#"{"manifest":1,"name":"web","version":"1","argv":["/bin/web"],"user":{"uid":1,"gid":1},
        "listen":["0.0.0.0:80"],"sockets":"agent_nginx","ready":{"probe":{"tcp":{"port":80}},"timeout_ms":100},
        "prepare":[{"directory":{"path":"/a","user":{"uid":1,"gid":1},"mode":493}}],
        "stop_signal":"QUIT","stop_timeout_ms":100,"scratch_bytes":65536}"#;
    for round in 0..number("PROTEUS_FUZZ_RUNS", RUNS) {
        let mut random = Random::of_round(0, round);
        let mut data = good.as_bytes().to_vec();
        mutate(&mut random, &mut data);
        if let Ok(manifest) = ServiceManifest::from_json(&data) {
            assert!(manifest.argv[0].starts_with('/') && !manifest.argv[0].contains(".."));
        }
    }
    let bomb = format!("{}{}", "[".repeat(40_000), "]".repeat(20_000));
    assert!(ServiceManifest::from_json(bomb.as_bytes()).is_err());
}
