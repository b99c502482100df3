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

#[test]
fn what_cannot_be_is_refused_by_its_field() {
    let refused = |findings: Findings| model::Findings::try_from(findings).unwrap_err().field;
    let many = vec![status_of(Collector::Logs, CollectorState::On); COLLECTORS_MAX + 1];
    assert_eq!(refused(Findings { collectors: many, ..Findings::default() }), "collectors");
    assert_eq!(refused(Findings { cpu_us: u64::MAX, ..Findings::default() }), "cpu_us");
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
fn each_collector_has_one_name_on_both_sides() {
    for own in model::Collector::ALL {
        let wire = Collector::from(own);
        assert_eq!(Option::<model::Collector>::from(wire), Some(own));
        assert_eq!(serde_json::to_value(wire).unwrap(), serde_json::to_value(own).unwrap());
    }
}
