//! Who is stepped when, and what it may cost. Must never wait for time to go by.

use super::*;
use std::cell::RefCell;
use std::rc::Rc;

/// A collector that writes down what is asked of it, and burns CPU time.
struct Fake {
    name: Collector,
    burn: Duration,
    missing: Option<String>,
    /// Whether it has something on that costs others.
    open: Rc<RefCell<bool>>,
    said: Rc<RefCell<Vec<&'static str>>>,
}

impl Collect for Fake {
    fn name(&self) -> Collector {
        self.name
    }

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn missing(&mut self) -> Option<String> {
        self.missing.clone()
    }

    fn step(&mut self, findings: &mut Findings) -> Step {
        let before = budget::own_cpu_us();
        while budget::own_cpu_us() < before + self.burn.as_micros() as u64 {}
        findings.gpus = found(Vec::new());
        self.said.borrow_mut().push("step");
        Step::Done
    }

    fn is_open(&self) -> bool {
        *self.open.borrow()
    }

    fn forget(&mut self) {
        self.said.borrow_mut().push("forget");
    }
}

fn crew(burn: Duration, missing: Option<&str>) -> (Crew, Rc<RefCell<Vec<&'static str>>>, Instant) {
    crew_that_may_be_open(burn, missing, Rc::default())
}

fn crew_that_may_be_open(
    burn: Duration,
    missing: Option<&str>,
    open: Rc<RefCell<bool>>,
) -> (Crew, Rc<RefCell<Vec<&'static str>>>, Instant) {
    let said = Rc::default();
    let missing = missing.map(str::to_owned);
    let fake = Fake { name: Collector::Gpus, burn, missing, open, said: Rc::clone(&said) };
    let now = Instant::now();
    let mut crew = Crew::new(vec![Box::new(fake)], now);
    // What started the tests is no agent.
    crew.budget.leave_agent_out();
    (crew, said, now)
}

#[test]
fn a_collector_goes_round_and_rests_its_period() {
    let (mut crew, said, now) = crew(Duration::ZERO, None);
    crew.step(now);
    crew.step(now);
    assert_eq!((said.borrow().as_slice(), crew.members[0].runs), (["step"].as_slice(), 1));
    assert!(crew.next_at(now).unwrap() >= now + Duration::from_secs(59));
    let due = crew.members[0].due;
    crew.step(due);
    assert_eq!(crew.members[0].runs, 2);
}

#[test]
fn one_that_is_dear_is_shed_until_it_is_paid_for() {
    let (mut crew, said, now) = crew(Duration::from_millis(400), None);
    crew.step(now);
    assert_eq!(crew.members[0].state, CollectorState::On);
    assert!(crew.members[0].cpu_us >= 400_000);
    // 400 ms less what there was are more than the minute's worth of 1 ‰ that is saved up by then.
    crew.budget.set(1);
    crew.members[0].due = now;
    let later = now + Duration::from_secs(122);
    crew.step(later);
    assert_eq!((crew.members[0].state.clone(), said.borrow().len()), (CollectorState::Shed, 1));
    assert!(crew.next_at(later).unwrap() > later);
    crew.step(later + Duration::from_secs(900));
    assert_eq!((crew.members[0].state.clone(), said.borrow().len()), (CollectorState::On, 2));
}

#[test]
fn what_costs_others_is_ended_whatever_is_left() {
    let open = Rc::new(RefCell::new(true));
    let (mut crew, said, now) = crew_that_may_be_open(Duration::from_millis(400), None, Rc::clone(&open));
    crew.budget.set(1);
    crew.step(now);
    crew.budget.account(now);
    assert!(!crew.budget.allows());
    let due = crew.members[0].due;
    assert_eq!(crew.next_at(now), Some(due), "it waits for nothing but its own time");
    crew.step(due);
    assert_eq!(said.borrow().len(), 2);
    // With nothing on any more, it waits for what it used.
    *open.borrow_mut() = false;
    let due = crew.members[0].due;
    assert!(crew.next_at(due).unwrap() > due);
    crew.step(due);
    assert_eq!(said.borrow().len(), 2);
    // What is switched off has nothing on.
    *open.borrow_mut() = true;
    crew.follow(CollectPolicy { off: vec![Collector::Gpus], ..CollectPolicy::default() }, now);
    assert_eq!(crew.next_at(now), None);
}

#[test]
fn while_one_costs_others_nobody_else_begins() {
    let open = Rc::new(RefCell::new(false));
    let (mut crew, said, now) = crew_that_may_be_open(Duration::ZERO, None, Rc::clone(&open));
    let others = Rc::default();
    let other = Fake {
        name: Collector::Logs,
        burn: Duration::ZERO,
        missing: None,
        open: Rc::default(),
        said: Rc::clone(&others),
    };
    crew.members.push(Member::new(Box::new(other), now));
    let steps = || (said.borrow().len(), others.borrow().len());
    *open.borrow_mut() = true;
    let closes = now + Duration::from_millis(500);
    (crew.members[0].due, crew.members[1].due) = (closes, now);
    crew.step(now);
    crew.step(now + Duration::from_millis(499));
    assert_eq!((steps(), crew.next_at(now)), ((0, 0), Some(closes)), "the other is due, and waits");
    crew.step(closes);
    assert_eq!(steps(), (1, 0));
    *open.borrow_mut() = false;
    crew.step(closes);
    assert_eq!(steps(), (1, 1));
}

#[test]
fn calls_of_libraries_are_off_until_they_are_asked_for() {
    let (mut crew, said, now) = crew(Duration::ZERO, None);
    crew.members[0].collect = Box::new(Fake {
        name: Collector::Libraries,
        burn: Duration::ZERO,
        missing: None,
        open: Rc::default(),
        said: Rc::clone(&said),
    });
    crew.follow(CollectPolicy::default(), now);
    assert_eq!((crew.members[0].state.clone(), crew.next_at(now)), (CollectorState::Off, None));
    crew.follow(CollectPolicy { libraries: true, ..CollectPolicy::default() }, now);
    crew.step(now);
    assert_eq!((crew.members[0].state.clone(), crew.members[0].runs), (CollectorState::On, 1));
    let off = CollectPolicy { libraries: true, off: vec![Collector::Libraries], ..CollectPolicy::default() };
    crew.follow(off, now);
    assert_eq!(crew.members[0].state, CollectorState::Off);
}

#[test]
fn what_is_switched_off_is_forgotten_and_comes_back_when_it_is_on() {
    let (mut crew, said, now) = crew(Duration::ZERO, None);
    crew.step(now);
    assert!(crew.findings.gpus.is_some());
    let off = CollectPolicy { off: vec![Collector::Gpus], ..CollectPolicy::default() };
    crew.follow(off, now);
    assert_eq!(crew.members[0].state, CollectorState::Off);
    assert!(crew.findings.gpus.is_none());
    assert_eq!((said.borrow().as_slice(), crew.next_at(now)), (["step", "forget"].as_slice(), None));
    crew.follow(CollectPolicy::default(), now);
    crew.step(now);
    assert!(crew.findings.gpus.is_some());
}

#[test]
fn one_that_cannot_work_here_says_why() {
    let (mut crew, said, now) = crew(Duration::ZERO, Some("no such thing"));
    crew.step(now);
    assert_eq!(crew.members[0].status().why, "no such thing");
    assert_eq!((crew.members[0].state.clone(), said.borrow().len()), (CollectorState::Unsupported, 0));
}

#[test]
fn the_last_of_several_policies_counts_and_nonsense_is_none() {
    let mut input = Input { buffer: b"{\"off\":[\"logs\"]}\n{\"users\":true}\n{\"off\"".to_vec() };
    assert_eq!(input.policy().unwrap().unwrap(), CollectPolicy { users: true, ..CollectPolicy::default() });
    assert_eq!(input.policy().unwrap(), None);
    input.buffer = b"?\n".to_vec();
    assert!(input.policy().is_err());
}

#[test]
fn what_is_too_long_to_be_told_is_left_out_and_said_to_be() {
    let name = Collector::Endpoints;
    let status = CollectorStatus { name, state: CollectorState::On, why: String::new(), cpu_us: 1, runs: 1 };
    let metrics = |of: usize| (0..64).map(|at| (format!("{of}{at:0>120}"), 1.5)).collect();
    let endpoint = |of: usize| proteus_protocol::guest::v1::findings::Endpoint {
        kind: "openmetrics".to_owned(),
        address: format!("{of}"),
        missing: None,
        metrics: metrics(of),
    };
    let mut findings = Findings {
        collectors: vec![status],
        endpoints: found((0..32).map(endpoint).collect()),
        gpus: found(Vec::new()),
        ..Findings::default()
    };
    assert!(serde_json::to_vec(&findings).unwrap().len() > LINE_BYTES_MAX);
    assert!(line(&mut findings).unwrap().len() < LINE_BYTES_MAX);
    assert!(findings.endpoints.is_none() && findings.gpus.is_some());
    assert_eq!(findings.collectors[0].state, CollectorState::Shed);
}
