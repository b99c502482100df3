//! `proteus bench agent`: what the guest agent costs inside a guest, its collectors all on, beside QEMU's own guest agent and Prometheus's
//! node exporter in the same guest, each asked once a second; and alone, in a guest of its own. Quote the ratios:
//! absolute figures are this machine's.

use crate::demo::host::{Host, unless_told};
use anyhow::{Context, Result, ensure};
use proteus_cli::argument::{Cli, OutputForm};
use proteus_cli::output::table;
use proteus_cli::terminal;
use proteus_cli::wait::wait_serving;
use proteus_hypervisor::network::Network;
use proteus_model::unit::Millis;
use proteus_protocol::api::v1::{ExecRequest, ExecView, StopRequest, StopView, VmView};
use proteus_protocol::guest::v1::Blob;
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest wait for the guest.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// Longest wait for an answer of what is asked.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Our own process.
const OWN: &str = "proteus-guest";
/// The guest with our agent alone, and the one with all.
const ALONE: &str = "alone";
const TOGETHER: &str = "agents";
/// How often each is asked.
const PERIOD: Duration = Duration::from_secs(1);
/// The images of the two that the agent is put beside.
const BESIDE: [&str; 2] = ["qemu-guest-agent", "node-exporter"];
/// Where their images answer.
const PORTS: [u16; 2] = [9101, 9100];
/// What QEMU's agent is asked each time: the nearest to what ours tells in one sample.
const QUESTIONS: [&str; 4] =
    ["guest-get-cpustats", "guest-get-diskstats", "guest-network-get-interfaces", "guest-get-fsinfo"];

/// Prints for each of the three: name, CPU time of all its threads (ns), RSS, PSS (KiB).
const READ: &str = "\
m() { n=0; for s in /proc/$1/task/*/schedstat; do read a b <$s; n=$((n+a)); done
echo $2 $n $(awk '/^Rss:/{r=$2} /^Pss:/{p=$2} END{print r, p}' /proc/$1/smaps_rollup); }
m 1 proteus-guest
for p in /proc/[0-9]*; do read c <$p/comm || continue; case $c in
qemu-ga) m ${p#/proc/} qemu-guest-agent;; prometheus-node*) m ${p#/proc/} node-exporter;;
*) case $(tr '\\0' ' ' <$p/cmdline) in *\" collect \") m ${p#/proc/} proteus-guest;; esac;; esac; done 2>/dev/null";

/// One of the three at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reading {
    name: String,
    cpu_ns: u64,
    rss_kib: u64,
    pss_kib: u64,
}

fn parse(text: &str) -> Vec<Reading> {
    let reading = |line: &str| {
        let mut fields = line.split_whitespace();
        let name = fields.next()?.to_owned();
        let mut number = || fields.next()?.parse().ok();
        Some(Reading { name, cpu_ns: number()?, rss_kib: number()?, pss_kib: number()? })
    };
    let mut all: Vec<Reading> = Vec::new();
    for one in text.lines().filter_map(reading) {
        match all.iter_mut().find(|other| other.name == one.name) {
            // The agent and its collectors are two processes.
            Some(sum) => {
                sum.cpu_ns += one.cpu_ns;
                sum.rss_kib += one.rss_kib;
                sum.pss_kib += one.pss_kib;
            }
            None => all.push(one),
        }
    }
    all
}

/// One of the three over the whole time.
#[derive(Debug, Clone, PartialEq)]
struct Cost {
    name: String,
    rss_kib: u64,
    pss_kib: u64,
    /// Share of one core, in percent.
    core: f64,
}

/// What each cost between the second and the third reading; what one reading costs our agent, who runs it, is known
/// from the first two and taken off.
fn costs(readings: &[Vec<Reading>; 3], time: Duration) -> Vec<Cost> {
    let at = |which: usize, name: &str| readings[which].iter().find(|r| r.name == name).map(|r| r.cpu_ns);
    let cost = |last: &Reading| {
        let (first, second) = (at(0, &last.name)?, at(1, &last.name)?);
        let own = last.cpu_ns.saturating_sub(second).saturating_sub(second.saturating_sub(first));
        let core = own as f64 / time.as_nanos() as f64 * 100.0;
        Some(Cost { name: last.name.clone(), rss_kib: last.rss_kib, pss_kib: last.pss_kib, core })
    };
    readings[2].iter().filter_map(cost).collect()
}

async fn read(host: &Host, vm: &str) -> Result<Vec<Reading>> {
    let argv = ["/bin/sh", "-c", READ].map(str::to_owned).to_vec();
    let request = ExecRequest { argv, service: None, stdin: Blob::default(), timeout_ms: Millis(60_000) };
    let view: ExecView = host.client.post(&format!("/vms/{vm}/exec"), &request).await?;
    let readings = parse(&view.stdout);
    ensure!(!readings.is_empty(), "the guest told nothing of its processes: {}", view.stderr);
    Ok(readings)
}

/// Asks QEMU's agent on a connection that stays open: it takes one at a time.
fn ask_qemu_agent(stream: &mut BufReader<TcpStream>) -> std::io::Result<()> {
    for question in QUESTIONS {
        writeln!(stream.get_mut(), "{}", json!({ "execute": question }))?;
        let mut answer = String::new();
        if stream.read_line(&mut answer)? == 0 {
            return Err(std::io::Error::other("QEMU's agent closed the connection"));
        }
    }
    Ok(())
}

fn scrape(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let well = answer.starts_with(b"HTTP/1.0 200") && answer.len() > 1000;
    if well { Ok(()) } else { Err(std::io::Error::other("the node exporter told nothing")) }
}

async fn connect(network: &Network, address: Ipv4Addr, port: u16) -> Result<TcpStream> {
    let stream = network.connect(SocketAddr::from((address, port)), ANSWER_LIMIT).await?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    Ok(stream)
}

/// Asks each of them once a second for so long.
async fn ask_all(host: &Host, vm: &str, built: &[&str], seconds: u32) -> Result<Duration> {
    let namespace = host.namespace().await?;
    let network = Network::new(namespace.trim_start_matches("proteus-"));
    let view: VmView = host.client.get(&format!("/vms/{vm}")).await?;
    let address = view.address.context("the guest has no address")?;
    let mut qemu_agent = match built.contains(&BESIDE[0]) {
        true => Some(BufReader::new(connect(&network, address, PORTS[0]).await?)),
        false => None,
    };
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.tick().await;
    let start = Instant::now();
    for _ in 0..seconds {
        // As a Prometheus does: that takes one sample of our agent.
        let metrics = host.metrics().await?;
        let told = format!("proteus_vm_guest_available_bytes{{vm=\"{vm}\"}}");
        ensure!(metrics.contains(&told), "our agent told nothing: {metrics}");
        if let Some(mut stream) = qemu_agent.take() {
            let asked = move || ask_qemu_agent(&mut stream).map(|()| stream);
            qemu_agent = Some(tokio::task::spawn_blocking(asked).await?.context("ask QEMU's agent")?);
        }
        if built.contains(&BESIDE[1]) {
            let stream = connect(&network, address, PORTS[1]).await?;
            tokio::task::spawn_blocking(move || scrape(stream)).await?.context("ask the node exporter")?;
        }
        ticks.tick().await;
    }
    Ok(start.elapsed())
}

async fn measure(host: &Host, vm: &str, images: &Path, built: &[&str], seconds: u32) -> Result<Vec<Cost>> {
    terminal::say_aside(format_args!(
        "a real guest boots with {}",
        if built.is_empty() { "our agent alone".into() } else { built.join(", ") }
    ));
    let started = host.create_vm_with(vm, built, images, Vec::new()).await?;
    wait_serving(&host.client, started, BOOT_LIMIT).await?;
    // Once before it counts: what each loads and allocates on its first answer stays.
    ask_all(host, vm, built, 3).await?;
    terminal::say_aside(format_args!("each is asked once a second for {seconds} s"));
    let (first, second) = (read(host, vm).await?, read(host, vm).await?);
    let time = ask_all(host, vm, built, seconds).await?;
    let costs = costs(&[first, second, read(host, vm).await?], time);
    let _: StopView =
        host.client.post(&format!("/vms/{vm}/stop"), &StopRequest { grace_ms: Millis(0) }).await?;
    Ok(costs)
}

/// In a guest of its own, and beside the others, whose processes our agent tells of too.
async fn measure_all(host: &Host, images: &Path, built: &[&str], seconds: u32) -> Result<(Cost, Vec<Cost>)> {
    let alone = measure(host, ALONE, images, &[], seconds).await?.pop();
    let alone = alone.context("our agent was not seen")?;
    let beside = match built {
        [] => Vec::new(),
        _ => measure(host, TOGETHER, images, built, seconds).await?,
    };
    Ok((alone, beside))
}

fn ratio(one: f64, other: f64) -> String {
    if other > 0.0 { format!("{:.2} x", one / other) } else { "-".to_owned() }
}

/// Runs it.
pub(super) async fn run(cli: &Cli, images: &Path, seconds: u32) -> Result<u8> {
    let images = std::fs::canonicalize(images).with_context(|| format!("find {}", images.display()))?;
    let (built, missing): (Vec<&str>, Vec<&str>) =
        BESIDE.into_iter().partition(|name| images.join(format!("{name}.json")).is_file());
    if !missing.is_empty() {
        let names = missing.join(" ");
        terminal::say_aside(format_args!(
            "not beside {names}: `proteus image build {names} --out {}` makes it",
            images.display()
        ));
    }
    let mut host = Host::start().await?;
    let measured = unless_told(measure_all(&host, &images, &built, seconds)).await;
    let made: &[&str] = if built.is_empty() { &[ALONE] } else { &[ALONE, TOGETHER] };
    for left in host.end(made).await {
        terminal::say_aside(format_args!("left behind: {left}"));
    }
    let (mut alone, mut costs) = measured?;
    let own = costs.iter().find(|cost| cost.name == OWN).unwrap_or(&alone).clone();
    alone.name = format!("{OWN} alone");
    costs.insert(0, alone);
    if cli.output == OutputForm::Json {
        for cost in &costs {
            let (rss, pss, core) = (cost.rss_kib, cost.pss_kib, cost.core);
            terminal::say(format_args!(
                "{}",
                json!({"what": cost.name, "rss_kib": rss, "pss_kib": pss, "core_percent": core})
            ));
        }
        return Ok(0);
    }
    let row = |cost: &Cost| {
        vec![
            cost.name.clone(),
            format!("{:.1}", cost.rss_kib as f64 / 1024.0),
            format!("{:.1}", cost.pss_kib as f64 / 1024.0),
            format!("{:.2}", cost.core),
            ratio(own.pss_kib as f64, cost.pss_kib as f64),
            ratio(own.core, cost.core),
        ]
    };
    let rows: Vec<_> = costs.iter().map(row).collect();
    terminal::write(&table(&["WHAT", "RSS MIB", "PSS MIB", "% OF A CORE", "OUR PSS", "OUR CPU"], &rows));
    terminal::say(format_args!(
        "\nOUR …: what proteus-guest takes of what this one takes. It is the guest's init and keeps its services too."
    ));
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_reading_is_taken_off() {
        let text =
            |cpu: u64| parse(&format!("proteus-guest {cpu} 1024 512\nnonsense\nnode-exporter 7 20 10\n"));
        let readings = [text(1_000_000), text(3_000_000), text(15_000_000)];
        assert_eq!(readings[0].len(), 2);
        let costs = costs(&readings, Duration::from_secs(1));
        assert_eq!(costs[0], Cost { name: "proteus-guest".into(), rss_kib: 1024, pss_kib: 512, core: 1.0 });
        assert!(costs[1].core.abs() < f64::EPSILON);
    }
}
