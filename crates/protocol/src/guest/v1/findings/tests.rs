//! What a guest says that cannot be. Must never let one such word through.

use super::*;

fn status_of(name: Collector, state: CollectorState) -> CollectorStatus {
    CollectorStatus { name, state, why: "be\u{7}cause".to_owned(), cpu_us: 5, runs: 1 }
}

#[test]
fn a_newer_agents_collectors_are_left_out_and_words_are_cleaned() {
    let text = r#"{"instance":"a","collectors":[{"name":"dreams","state":"on","cpu_us":1,"runs":1},
        {"name":"logs","state":"asleep","cpu_us":1,"runs":1},{"name":"gpus","state":"shed","why":"be\u0007cause",
        "cpu_us":5,"runs":1}],"poetry":[1,2]}"#;
    let findings: Findings = serde_json::from_str(text).unwrap();
    let model = model::Findings::try_from(findings).unwrap();
    assert_eq!(model.collectors.len(), 1);
    assert_eq!(
        (model.collectors[0].name, model.collectors[0].why.as_str()),
        (model::Collector::Gpus, "because")
    );
}

#[test]
fn programs_that_serve_are_bounded_and_an_old_agent_tells_none() {
    let of = |application: &str| Served { application: application.to_owned(), connections: 3 };
    let told = |served| {
        model::ConnectionsObserved::try_from(Connections { served, ..Connections::default() })
            .map(|seen| seen.served)
    };
    assert_eq!(told(None).unwrap(), None);
    let seen = told(Some(vec![of("nginx"), of("ngi\u{1b}nx"), of("redis")])).unwrap().unwrap();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [("nginx".to_owned(), 6), ("redis".to_owned(), 3)]);
    assert_eq!(told(Some(vec![of("a"); SERVED_MAX + 1])).unwrap_err().field, "served");
    let mut old = serde_json::to_value(Connections::default()).unwrap();
    assert!(old.as_object_mut().unwrap().remove("served").is_none());
    assert_eq!(serde_json::from_value::<Connections>(old).unwrap(), Connections::default());
}

/// The field of the one part that is left out.
fn refused(findings: model::Findings) -> String {
    assert_eq!(findings.refused.len(), 1, "{findings:?}");
    let why = findings.refused.into_values().next().unwrap();
    why.split(' ').next().unwrap().to_owned()
}

#[test]
fn a_part_that_cannot_be_is_left_out_alone_and_named() {
    let log = |service: &str, window_ms: u64| LogRate {
        service: service.to_owned(),
        window_ms,
        lines: 5,
        errors: None,
    };
    // A guest's clock that jumped from 1970.
    let logs = Some(Found { at_ms: 1, value: vec![log("nginx", 1_000), log("redis", 1_790_000_000_000)] });
    let calls = Some(Found { at_ms: 1, value: SystemCalls { window_ms: 5, classes: Vec::new() } });
    let users = Some(Found { at_ms: u64::MAX, value: Users::default() });
    let found = model::Findings::try_from(Findings { logs, calls, users, ..Findings::default() }).unwrap();
    assert!(found.calls.is_some() && found.logs.is_none() && found.users.is_none());
    let why: Vec<_> = found.refused.iter().map(|(part, why)| (part.as_str(), why.as_str())).collect();
    assert_eq!(why[0], ("logs", "log.window_ms is 1790000000000, expected 1 ms to a year"));
    assert_eq!((why.len(), why[1].0), (2, "users"));
}

#[test]
fn what_cannot_be_is_refused_by_its_field() {
    let whole = |findings: Findings| model::Findings::try_from(findings).unwrap_err().field;
    let refused = |findings: Findings| refused(model::Findings::try_from(findings).unwrap());
    let many = vec![status_of(Collector::Logs, CollectorState::On); COLLECTORS_MAX + 1];
    assert_eq!(whole(Findings { collectors: many, ..Findings::default() }), "collectors");
    assert_eq!(whole(Findings { cpu_us: u64::MAX, ..Findings::default() }), "cpu_us");
    let calls = Some(Found { at_ms: 1, value: SystemCalls::default() });
    assert_eq!(refused(Findings { calls, ..Findings::default() }), "calls.window_ms");
    let gpu = Gpu {
        address: String::new(),
        device: String::new(),
        driver: None,
        busy_permille: Some(1001),
        missing: None,
    };
    let gpus = Some(Found { at_ms: 1, value: vec![gpu] });
    assert_eq!(refused(Findings { gpus, ..Findings::default() }), "gpu.busy_permille");
    let flow = Flow {
        direction: FlowDirection::Local,
        port: 1,
        peer: [127, 0, 0, 1].into(),
        application: None,
        peer_application: None,
        connections: 1,
        sent: u64::MAX,
        received: 0,
        rtt_us: None,
    };
    let value = Connections { flows: vec![flow.clone()], ..Connections::default() };
    assert_eq!(
        refused(Findings { connections: Some(Found { at_ms: 1, value }), ..Findings::default() }),
        "flow.sent"
    );
    let value = Connections { flows: vec![flow; connection::FLOWS_MAX + 1], ..Connections::default() };
    assert_eq!(
        refused(Findings { connections: Some(Found { at_ms: 1, value }), ..Findings::default() }),
        "flows"
    );
}

#[test]
fn calls_of_libraries_that_cannot_be_are_refused() {
    let good = LibraryClass {
        library: "libssl".to_owned(),
        class: "tls".to_owned(),
        window_ms: 500,
        calls: Some(7),
        left_out: 1,
    };
    let told = |classes: Vec<LibraryClass>| {
        let value = LibraryCalls { classes, unread: 2 };
        model::Findings::try_from(Findings {
            libraries: Some(Found { at_ms: 1, value }),
            ..Findings::default()
        })
    };
    let seen = told(vec![good.clone(); LIBRARY_ROWS_MAX]).unwrap().libraries.unwrap().value;
    assert_eq!((seen.classes.len(), seen.classes[0].calls, seen.unread), (LIBRARY_ROWS_MAX, Some(7), 2));
    let refused = |classes| refused(told(classes).unwrap());
    assert_eq!(refused(vec![good.clone(); LIBRARY_ROWS_MAX + 1]), "libraries");
    let one = |change: fn(&mut LibraryClass)| {
        let mut row = good.clone();
        change(&mut row);
        refused(vec![row])
    };
    assert_eq!(one(|row| row.calls = Some(u64::MAX)), "library.calls");
    assert_eq!(one(|row| row.window_ms = 0), "library.window_ms");
    assert_eq!(one(|row| row.window_ms = u64::MAX), "library.window_ms");
    assert_eq!(one(|row| row.left_out = u32::MAX), "library.left_out");
    assert_eq!(one(|row| row.library = String::new()), "library.library");
    assert_eq!(one(|row| row.library = "x".repeat(33)), "library.library");
    assert_eq!(one(|row| row.class = "a\u{7}b".to_owned()), "library.class");
    assert_eq!(one(|row| row.class = "<b>".to_owned()), "library.class");
}

#[test]
fn an_agent_and_a_host_of_before_know_nothing_of_libraries() {
    // A host of before tells no wish: it is none. An agent of before tells no such part, and does not see the wish.
    let policy: CollectPolicy = serde_json::from_str(r#"{"off":["libraries","logs"],"users":true}"#).unwrap();
    assert_eq!((policy.libraries, policy.off.len()), (false, 2));
    let old = serde_json::to_value(Findings::default()).unwrap();
    assert!(old.get("libraries").is_none());
    let findings: Findings = serde_json::from_value(old).unwrap();
    assert!(model::Findings::try_from(findings).unwrap().libraries.is_none());
    // What is not told is missing, and not nothing.
    let row: LibraryClass = serde_json::from_str(
        r#"{"library":"libz","class":"compression","window_ms":5,"calls":null,"new":1}"#,
    )
    .unwrap();
    assert_eq!((row.calls, row.left_out), (None, 0));
    for word in [r#""-1""#, "-1", "NaN", "1e300", "0.5"] {
        let text = format!(r#"{{"library":"libz","class":"c","window_ms":5,"calls":{word}}}"#);
        assert!(serde_json::from_str::<LibraryClass>(&text).is_err(), "{word}");
    }
}

#[test]
fn each_collector_has_one_name_on_both_sides() {
    for own in model::Collector::ALL {
        let wire = Collector::from(own);
        assert_eq!(Option::<model::Collector>::from(wire), Some(own));
        assert_eq!(serde_json::to_value(wire).unwrap(), serde_json::to_value(own).unwrap());
    }
}
