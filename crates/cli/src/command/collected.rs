//! `proteus vm collectors`, and how what collectors found is shown.

use super::inside::amount;
use super::label::{age, indented, percent};
use super::{Outcome, Session, asked};
use crate::argument::VmCollectors;
use crate::client::segment;
use crate::output::{now, table};
use proteus_model::unit::{UnixMillis, three_digits as number};
use proteus_protocol::api::v1::{
    BegunView, CollectorsRequest, CollectorsView, ConnectionsView, EndpointView, FlowView, GpuView, LogView,
};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Flows and metrics that are shown in text.
const SHOWN: usize = 10;

fn ms(us: Option<u32>) -> String {
    us.map_or("-".to_owned(), |us| format!("{} ms", number(us as f32 / 1000.0)))
}

/// TCP connections.
pub(super) fn connections(view: &ConnectionsView, now: u64) -> String {
    let row = |flow: &FlowView| {
        let program = flow.application.as_deref().unwrap_or("-");
        let other = match &flow.peer_application {
            Some(peer) => format!("{peer}:{}", flow.port),
            None if flow.direction == "inbound" => flow.peer.clone(),
            None => format!("{}:{}", flow.peer, flow.port),
        };
        let program =
            if flow.direction == "inbound" { format!("{program}:{}", flow.port) } else { program.to_owned() };
        vec![
            flow.direction.clone(),
            program,
            other,
            flow.connections.to_string(),
            amount(flow.sent.into()),
            amount(flow.received.into()),
            ms(flow.rtt_us),
        ]
    };
    let mut text = format!(
        "{} TCP connections, {} sockets listen ({}); round trip p50 {}, p95 {}; {} segments sent again\n",
        view.established,
        view.listening,
        age(view.at.0, now),
        ms(view.rtt_p50_us),
        ms(view.rtt_p95_us),
        view.retransmitted
    );
    let rows: Vec<_> = view.flows.iter().take(SHOWN).map(row).collect();
    if !rows.is_empty() {
        text += &table(&["BEGUN", "PROGRAM", "WITH", "NOW", "SENT", "RECEIVED", "ROUND TRIP"], &rows);
    }
    if view.flows.len() > rows.len() {
        let _ = writeln!(text, "and {} more", view.flows.len() - rows.len());
    }
    indented(&text)
}

/// Whom it spoke to, by the host's count.
pub(super) fn begun(all: &[BegunView], at: Option<UnixMillis>, now: u64) -> String {
    let row = |view: &BegunView| {
        let what = if view.protocol == "tcp" { "connections" } else { "packets" };
        vec![
            view.direction.clone(),
            format!("{}/{}", view.port, view.protocol),
            view.peer.clone(),
            format!("{} {what}", view.begun),
        ]
    };
    let rows: Vec<_> = all.iter().take(SHOWN).map(row).collect();
    let at = at.map_or_else(|| "not seen".to_owned(), |at| age(at.0, now));
    if rows.is_empty() {
        return format!("  nothing was begun in the ten minutes before ({at})\n");
    }
    let mut text = format!("by the host, in about the ten minutes before ({at})\n");
    text += &table(&["BEGUN", "PORT", "WITH", "HOW OFTEN"], &rows);
    if all.len() > rows.len() {
        let _ = writeln!(text, "and {} more", all.len() - rows.len());
    }
    indented(&text)
}

/// System calls by class, calls of libraries by library and class.
pub(super) fn calls(all: &BTreeMap<String, f64>) -> String {
    let row = |(name, rate): (&String, &f64)| vec![name.clone(), number(*rate as f32)];
    indented(&table(&["CLASS", "PER SECOND"], &all.iter().map(row).collect::<Vec<_>>()))
}

/// How much services write.
pub(super) fn logs(all: &[LogView]) -> String {
    let row = |view: &LogView| {
        let errors = view.errors.map_or("-".to_owned(), |rate| number(rate as f32));
        vec![view.service.clone(), number(view.lines as f32), errors]
    };
    if all.is_empty() {
        return "  no service writes a log that is looked at\n".to_owned();
    }
    indented(&table(&["LOG", "LINES/S", "ERRORS/S"], &all.iter().map(row).collect::<Vec<_>>()))
}

/// Graphics processors.
pub(super) fn gpus(all: &[GpuView]) -> String {
    let row = |view: &GpuView| {
        let busy = view.busy.map_or_else(|| view.missing.clone().unwrap_or_default(), percent);
        vec![view.address.clone(), view.device.clone(), view.driver.clone().unwrap_or("-".to_owned()), busy]
    };
    indented(&table(&["ADDRESS", "DEVICE", "DRIVER", "BUSY"], &all.iter().map(row).collect::<Vec<_>>()))
}

/// What applications tell of themselves.
pub(super) fn endpoints(all: &[EndpointView]) -> String {
    let mut text = String::new();
    if all.is_empty() {
        return "  none was found that tells of itself\n".to_owned();
    }
    for view in all {
        let missing = view.missing.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        let _ = writeln!(text, "  {} at {}{missing}", view.kind, view.address);
        for (name, value) in view.metrics.iter().take(3 * SHOWN) {
            let _ = writeln!(text, "    {name:<40} {}", number(*value as f32));
        }
        if view.metrics.len() > 3 * SHOWN {
            let _ = writeln!(text, "    and {} more", view.metrics.len() - 3 * SHOWN);
        }
    }
    text
}

fn collectors(view: &CollectorsView, now: u64) -> String {
    let mut text = String::new();
    let at = view.at.map_or_else(|| "not heard yet".to_owned(), |at| age(at.0, now));
    let _ = writeln!(text, "{}: collectors inside ({at})", view.vm);
    if let Some(why) = &view.missing {
        let _ = writeln!(text, "missing: {why}");
    }
    if let Some(share) = view.cpu_share {
        let resident =
            view.resident.map_or("-".to_owned(), |count| format!("{} MB", number(count as f32 / 1e6)));
        let _ = writeln!(
            text,
            "agent and collectors: {} % of a core (budget {}), {resident} (budget 20)",
            number(share as f32 * 100.0),
            number(view.budget_permille as f32 / 10.0)
        );
    }
    let row = |one: &proteus_protocol::api::v1::CollectorView| {
        vec![
            one.name.clone(),
            one.state.clone(),
            format!("{} ms", one.cpu_ms),
            one.runs.to_string(),
            one.why.clone(),
        ]
    };
    let rows: Vec<_> = view.collectors.iter().map(row).collect();
    if rows.is_empty() && !view.off.is_empty() {
        let _ = writeln!(text, "switched off: {}", view.off.join(", "));
    }
    if !rows.is_empty() {
        text += &table(&["COLLECTOR", "STATE", "CPU TIME", "ROUNDS", "WHY"], &rows);
    }
    let _ = writeln!(text, "users: {}", if view.users { "wanted, where they consent" } else { "not wanted" });
    if view.libraries {
        text += "libraries: wanted\n";
    }
    for endpoint in &view.endpoints {
        let _ = writeln!(text, "asks {endpoint}");
    }
    text
}

impl Session {
    pub(super) async fn collectors(&self, asks: &VmCollectors) -> Outcome {
        let request = CollectorsRequest {
            off: asks.off.clone(),
            on: asks.on.clone(),
            users: asks.users,
            libraries: asks.libraries,
            add_endpoints: asks.endpoint.clone(),
            remove_endpoints: asks.no_endpoint.clone(),
            budget_permille: asks.budget,
        };
        let path = format!("/vms/{}/collectors", segment(&asks.vm));
        let view: CollectorsView = if request == CollectorsRequest::default() {
            self.client.get(&path).await?
        } else {
            self.client.post(&asked(&path, asks.dry_run), &request).await?
        };
        let now = now().0;
        self.print(&view, || {
            let would = if asks.dry_run { "would be so; nothing is changed\n" } else { "" };
            format!("{}{would}", collectors(&view, now))
        });
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use proteus_protocol::api::v1::CollectorView;

    fn flow(direction: &str, application: &str, peer_application: Option<&str>) -> FlowView {
        FlowView {
            direction: direction.to_owned(),
            port: 80,
            peer: "10.0.0.9".to_owned(),
            application: Some(application.to_owned()),
            peer_application: peer_application.map(str::to_owned),
            connections: 2,
            sent: 20_000,
            received: 30 << 20,
            rtt_us: Some(1500),
        }
    }

    #[test]
    fn connections_say_who_talks_to_whom() {
        let view = ConnectionsView {
            at: UnixMillis(5000),
            established: 6,
            listening: 2,
            unread: 0,
            rtt_p50_us: Some(1500),
            rtt_p95_us: None,
            retransmitted: 4,
            flows: vec![
                flow("inbound", "nginx", None),
                flow("outbound", "php", None),
                flow("local", "php", Some("redis-server")),
            ],
        };
        expect![[r#"
            connections
              6 TCP connections, 2 sockets listen (30 s ago); round trip p50 1.50 ms, p95 -; 4 segments sent again
              BEGUN     PROGRAM   WITH             NOW  SENT    RECEIVED  ROUND TRIP
              inbound   nginx:80  10.0.0.9         2    19 KiB  30 MiB    1.50 ms
              outbound  php       10.0.0.9:80      2    19 KiB  30 MiB    1.50 ms
              local     php       redis-server:80  2    19 KiB  30 MiB    1.50 ms
        "#]]
        .assert_eq(&format!("connections\n{}", connections(&view, 35_000)));
    }

    #[test]
    fn collectors_say_what_they_cost_and_why_they_do_not_work() {
        let one = |name: &str, state: &str, why: &str| CollectorView {
            name: name.to_owned(),
            state: state.to_owned(),
            why: why.to_owned(),
            cpu_ms: 12,
            runs: 3,
        };
        let view = CollectorsView {
            vm: "web".to_owned(),
            at: Some(UnixMillis(5000)),
            missing: None,
            users: false,
            libraries: true,
            off: vec!["files".to_owned()],
            endpoints: vec!["http://127.0.0.1:9100/metrics".to_owned()],
            budget_permille: 5,
            cpu_share: Some(0.0021),
            resident: Some(6_200_000),
            collectors: vec![one("logs", "on", ""), one("files", "off", "it is switched off")],
        };
        expect![[r#"
            web: collectors inside (30 s ago)
            agent and collectors: 0.21 % of a core (budget 0.50), 6.20 MB (budget 20)
            COLLECTOR  STATE  CPU TIME  ROUNDS  WHY
            logs       on     12 ms     3
            files      off    12 ms     3       it is switched off
            users: not wanted
            libraries: wanted
            asks http://127.0.0.1:9100/metrics
        "#]]
        .assert_eq(&collectors(&view, 35_000));
    }
}
