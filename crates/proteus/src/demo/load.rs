//! The clients: wrk, redis-benchmark and pgbench, run inside the guests' network namespace. What they print is
//! read strictly; what they lost is counted, never guessed.

use anyhow::{Context, Result, ensure};
use std::net::Ipv4Addr;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Connections of each client.
const CONNECTIONS: &str = "4";
/// Requests of one round of redis-benchmark: about a second on an emulated guest.
const REDIS_ROUND: u64 = 4_000;
/// Length of one round of pgbench, in seconds.
const PGBENCH_ROUND_S: &str = "3";
/// Longest run of a client that is told to stop: a morph's limit and some.
const RUN_LIMIT_S: &str = "240";

/// Which client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    Wrk,
    RedisBenchmark,
    Pgbench,
}

impl Tool {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Wrk => "wrk",
            Self::RedisBenchmark => "redis-benchmark",
            Self::Pgbench => "pgbench",
        }
    }
}

/// What a client saw.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Measured {
    /// Requests or transactions per second.
    pub(super) throughput: f64,
    /// 99th percentile of latency, ms. redis-benchmark: mean over its rounds.
    pub(super) p99_ms: f64,
    /// Requests without a good answer.
    pub(super) lost: u64,
}

/// A client and its target.
#[derive(Debug, Clone)]
pub(super) struct Load {
    pub(super) tool: Tool,
    pub(super) namespace: String,
    pub(super) address: Ipv4Addr,
}

/// A client that runs.
pub(super) enum Running {
    /// One process, interrupted at the end.
    Wrk(Child),
    /// Rounds of a client that prints nothing when it is interrupted.
    Rounds(JoinHandle<Result<Measured>>, CancellationToken),
}

async fn interrupt(child: Child) -> Result<Output> {
    if let Some(pid) =
        child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw)
    {
        rustix::process::kill_process(pid, rustix::process::Signal::INT).context("stop the client")?;
    }
    Ok(child.wait_with_output().await?)
}

impl Load {
    /// The client's command: `ip netns exec` replaces itself by it, so its pid is the client's.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, program]).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Makes the tables that pgbench wants.
    pub(super) async fn prepare(&self) -> Result<()> {
        if self.tool == Tool::Pgbench {
            let mut command = self.command("pgbench");
            command.args(["-i", "-q", "-s", "1", "-h", &self.address.to_string(), "-U", "bench", "bench"]);
            let output = command.output().await.context("run pgbench (package postgresql-contrib)")?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.success(), "pgbench could not make its tables: {said}");
        }
        Ok(())
    }

    pub(super) async fn run_for(&self, time: Duration) -> Result<Measured> {
        let running = self.start().await?;
        // The length of the measurement: nothing is waited for.
        tokio::time::sleep(time).await;
        running.stop().await
    }

    pub(super) async fn start(&self) -> Result<Running> {
        let address = self.address.to_string();
        match self.tool {
            Tool::Wrk => {
                let mut command = self.command("wrk");
                let time = format!("{RUN_LIMIT_S}s");
                command.args(["-t1", "-c", CONNECTIONS, "-d", &time, "--timeout", "10s", "--latency"]);
                command.arg(format!("http://{address}/"));
                Ok(Running::Wrk(command.spawn().context("run wrk (package wrk)")?))
            }
            Tool::RedisBenchmark | Tool::Pgbench => {
                let (load, stop) = (self.clone(), CancellationToken::new());
                let stopped = stop.clone();
                let task = tokio::spawn(async move {
                    match load.tool {
                        Tool::Pgbench => load.pgbench_rounds(stopped).await,
                        Tool::Wrk | Tool::RedisBenchmark => load.redis_rounds(stopped).await,
                    }
                });
                Ok(Running::Rounds(task, stop))
            }
        }
    }

    /// Rounds of pgbench until told to stop; every latency is in its transaction log.
    async fn pgbench_rounds(&self, stop: CancellationToken) -> Result<Measured> {
        let dir = tempfile::tempdir()?;
        let (mut latencies, mut seconds, mut lost) = (Vec::new(), 0.0, 0);
        while !stop.is_cancelled() || latencies.is_empty() {
            let mut command = self.command("pgbench");
            command.args(["-n", "-c", CONNECTIONS, "-T", PGBENCH_ROUND_S, "-l", "--log-prefix"]);
            command.arg(dir.path().join("log")).args([
                "-h",
                &self.address.to_string(),
                "-U",
                "bench",
                "bench",
            ]);
            let start = Instant::now();
            let output = command.output().await.context("run pgbench (package postgresql-contrib)")?;
            seconds += start.elapsed().as_secs_f64();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            lost += said.lines().filter(|line| line.contains("aborted")).count() as u64;
            let before = latencies.len();
            for entry in std::fs::read_dir(dir.path())? {
                let path = entry?.path();
                lost += read_transactions(&std::fs::read_to_string(&path)?, &mut latencies);
                std::fs::remove_file(&path)?;
            }
            ensure!(latencies.len() > before || lost < 100, "pgbench fails: {said}");
        }
        latencies.sort_by(f64::total_cmp);
        let p99 = latencies.get((latencies.len() * 99 / 100).min(latencies.len() - 1)).copied();
        Ok(Measured { throughput: latencies.len() as f64 / seconds, p99_ms: p99.unwrap_or(0.0), lost })
    }

    /// Rounds of redis-benchmark until told to stop. A round that fails lost all that it did not print.
    async fn redis_rounds(&self, stop: CancellationToken) -> Result<Measured> {
        let (mut rounds, mut p99, mut requests, mut seconds, mut lost) = (0u32, 0.0, 0.0, 0.0, 0);
        while !stop.is_cancelled() || rounds == 0 {
            let mut command = self.command("redis-benchmark");
            command.args([
                "-h",
                &self.address.to_string(),
                "-c",
                CONNECTIONS,
                "-n",
                &REDIS_ROUND.to_string(),
            ]);
            command.args(["-t", "get", "--csv"]);
            let output = command.output().await.context("run redis-benchmark (package redis-tools)")?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            match redis_row(&text).filter(|_| output.status.success()) {
                Some((rps, round_p99)) => {
                    rounds += 1;
                    p99 += round_p99;
                    requests += REDIS_ROUND as f64;
                    seconds += REDIS_ROUND as f64 / rps;
                }
                None => {
                    lost += REDIS_ROUND;
                    ensure!(lost < 10 * REDIS_ROUND, "redis-benchmark fails: {text}");
                }
            }
        }
        Ok(Measured { throughput: requests / seconds, p99_ms: p99 / f64::from(rounds), lost })
    }
}

/// Requests per second and p99 in ms of `"GET","2631.58","1.4",…`: test, rps, avg, min, p50, p95, p99, max.
fn redis_row(text: &str) -> Option<(f64, f64)> {
    let row = text.lines().find(|line| line.starts_with("\"GET\""))?;
    let cells: Vec<&str> = row.split(',').map(|cell| cell.trim_matches('"')).collect();
    Some((cells.get(1)?.parse().ok()?, cells.get(6)?.parse().ok()?))
}

impl Running {
    pub(super) async fn stop(self) -> Result<Measured> {
        match self {
            Self::Wrk(child) => {
                let output = interrupt(child).await?;
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                wrk_report(&text).with_context(|| format!("wrk printed something else: {text}"))
            }
            Self::Rounds(task, stop) => {
                stop.cancel();
                task.await?
            }
        }
    }
}

/// A time of wrk, in ms: `12.89ms`, `950.00us`, `1.20s`, `1.50m`.
fn wrk_time(text: &str) -> Option<f64> {
    let text = text.trim();
    for (unit, factor) in [("us", 0.001), ("ms", 1.0), ("s", 1000.0), ("m", 60_000.0)] {
        if let Some(number) = text.strip_suffix(unit) {
            return number.parse::<f64>().ok().map(|n| n * factor);
        }
    }
    None
}

fn wrk_report(text: &str) -> Option<Measured> {
    let after = |mark: &str| text.lines().find_map(|line| line.trim().strip_prefix(mark));
    // "Socket errors: connect 0, read 0, write 0, timeout 0" and "Non-2xx or 3xx responses: 3", if there were any.
    let sockets = after("Socket errors:").unwrap_or_default();
    let numbers = sockets.split(',').filter_map(|part| part.split_whitespace().nth(1)?.parse::<u64>().ok());
    let refused = after("Non-2xx or 3xx responses:").and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0);
    Some(Measured {
        throughput: after("Requests/sec:")?.trim().parse().ok()?,
        p99_ms: wrk_time(after("99%")?)?,
        lost: numbers.sum::<u64>() + refused,
    })
}

/// Latencies in ms out of a transaction log (client, number, latency in µs, script, …); how many failed.
fn read_transactions(log: &str, latencies: &mut Vec<f64>) -> u64 {
    let mut failed = 0;
    for line in log.lines() {
        match line.split(' ').nth(2) {
            Some("failed" | "skipped") => failed += 1,
            Some(latency) => latencies.extend(latency.parse::<f64>().map(|us| us / 1000.0)),
            None => {}
        }
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_reports_are_read() {
        let wrk = "  Latency Distribution\n     50%    6.41ms\n     99%  138.04ms\n  1569 requests in 3.09s\n  \
                   Socket errors: connect 1, read 2, write 0, timeout 3\nRequests/sec:    507.09\n";
        assert_eq!(wrk_report(wrk), Some(Measured { throughput: 507.09, p99_ms: 138.04, lost: 6 }));
        assert_eq!(wrk_report("nothing"), None);
        let redis = "\"test\",\"rps\"\n\"GET\",\"2631.58\",\"1.4\",\"0.1\",\"1.3\",\"2.0\",\"3.5\",\"9.0\"\n";
        assert_eq!(redis_row(redis), Some((2631.58, 3.5)));
        let mut latencies = Vec::new();
        assert_eq!(
            read_transactions("0 1 1000 0 1 1\n1 1 3000 0 1 1\n0 2 failed 0 1 1\n", &mut latencies),
            1
        );
        assert_eq!(latencies, [1.0, 3.0]);
    }
}
