//! Watches a VM over a window: looks at it at steady intervals and keeps the differences. What it means is the
//! brain's to say.

use crate::abort::Abort;
use crate::control::Control;
use proteus_model::id::VmId;
use proteus_model::profile::promise::{HealthCheck, Verify};
use proteus_model::unit::{Millis, Permille};
use proteus_model::verification::Stretch;
use proteus_model::vm::{PowerState, VmCounters};
use proteus_protocol::node::v1::Measurement;
use std::time::{Duration, Instant};

/// Stretches per window: enough for a mean with its error, few enough not to disturb an emulated guest.
const STRETCHES_PER_WINDOW: u32 = 10;
/// Least time between two looks.
const INTERVAL_MIN: Duration = Duration::from_millis(250);
/// Longest time between two looks at the checks, however long the window: harm is noticed after three.
const CHECKS_INTERVAL_MAX: Duration = Duration::from_secs(5);
/// Window where the profile states checks and no window: long enough to see that the VM still answers.
const WINDOW_DEFAULT: Millis = Millis(2_000);

/// The windows of a profile: (before, after).
pub(crate) fn windows(verify: Option<&Verify>) -> (Millis, Millis) {
    match verify {
        Some(Verify { window: Some(window), .. }) => (window.before, window.after),
        Some(Verify { window: None, .. }) => (WINDOW_DEFAULT, WINDOW_DEFAULT),
        // Without a check or a limit there is nothing to judge, so nothing to watch for.
        None => (Millis(0), Millis(0)),
    }
}

/// How a check is called in reports.
fn name_of(check: &HealthCheck) -> String {
    match check {
        HealthCheck::Tcp(tcp) => format!("tcp {}", tcp.port.get()),
        HealthCheck::Http(http) => format!("http {}", http.port.get()),
        HealthCheck::Redis(redis) => format!("redis {}", redis.port.get()),
        HealthCheck::Postgresql(postgresql) => format!("postgresql {}", postgresql.port.get()),
        HealthCheck::Process(process) => format!("process {}", process.name.as_str()),
        HealthCheck::Unit(unit) => format!("unit {}", unit.name.as_str()),
    }
}

/// Share of `length` that `from → to` is, both in `unit_ns` nanoseconds. A counter that went back was reset: no
/// value.
fn share(from: Option<u64>, to: Option<u64>, unit_ns: u64, length: Duration) -> Option<Permille> {
    let grown_ns = to?.checked_sub(from?)?.checked_mul(unit_ns)?;
    let permille = u128::from(grown_ns) * 1000 / length.as_nanos().max(1);
    u32::try_from(permille).ok().map(Permille)
}

/// Share of the time in which vCPUs were runnable that they waited: waited / (ran + waited), however many there are.
fn waiting_share(was: &VmCounters, is: &VmCounters) -> Option<Permille> {
    let waited = is.vcpu_wait_ns?.checked_sub(was.vcpu_wait_ns?)?;
    let ran = is.vcpu_run_ns?.checked_sub(was.vcpu_run_ns?)?;
    let permille = u128::from(waited) * 1000 / (u128::from(waited) + u128::from(ran)).max(1);
    u32::try_from(permille).ok().map(Permille)
}

fn stretch_between(from: &Measurement, to: &Measurement, length: Duration) -> Stretch {
    let (was, is) = (&from.counters, &to.counters);
    Stretch {
        length: Millis::from(length),
        psi_cpu: share(from.psi_cpu_us, to.psi_cpu_us, 1000, length),
        psi_memory: share(from.psi_memory_us, to.psi_memory_us, 1000, length),
        psi_io: share(from.psi_io_us, to.psi_io_us, 1000, length),
        run_delay: waiting_share(was, is),
        throttled: share(was.throttled_ns, is.throttled_ns, 1, length),
        probe_latency_us: None,
        unhealthy: 0,
    }
}

/// What a window showed.
pub(crate) struct Watched {
    pub stretches: Vec<Stretch>,
    /// Checks that failed at the last look.
    pub unhealthy: Vec<Failed>,
}

/// A check that failed.
#[derive(Debug, Clone)]
pub(crate) struct Failed {
    pub name: String,
    pub detail: String,
}

/// Names of failed checks, to compare with another time's.
pub(crate) fn names(failed: &[Failed]) -> Vec<String> {
    failed.iter().map(|failed| failed.name.clone()).collect()
}

impl Control {
    /// Runs all checks once: (longest time, those that failed).
    async fn check_all(&self, vm: VmId, checks: &[HealthCheck]) -> (Option<u64>, Vec<Failed>) {
        let mut longest = None;
        let mut failed = Vec::new();
        for check in checks {
            match self.node.check_health(vm, check).await {
                Ok(seen) if seen.healthy => longest = longest.max(Some(seen.latency_us)),
                Ok(seen) => failed.push(Failed { name: name_of(check), detail: seen.detail }),
                Err(error) => failed.push(Failed { name: name_of(check), detail: error.message }),
            }
        }
        (longest, failed)
    }

    /// Watches the VM for `window`, until `enough` says so of the checks that failed at each look, or the VM ends.
    /// `None`: it was left before, because the morph is to stop or Proteus ends.
    pub(crate) async fn watch(
        &self,
        vm: VmId,
        verify: Option<&Verify>,
        window: Millis,
        abort: &Abort,
        enough: impl Fn(&[Vec<String>]) -> bool,
    ) -> Option<Watched> {
        if window.0 == 0 {
            return Some(Watched { stretches: Vec::new(), unhealthy: Vec::new() });
        }
        let stopped = self.stopped();
        // Cancel-safe: a look changes nothing, and the other two only fire once.
        tokio::select! {
            biased;
            () = abort.wait() => None,
            () = stopped.cancelled() => None,
            watched = self.watch_whole(vm, verify, Duration::from(window), enough) => Some(watched),
        }
    }

    async fn watch_whole(
        &self,
        vm: VmId,
        verify: Option<&Verify>,
        window: Duration,
        enough: impl Fn(&[Vec<String>]) -> bool,
    ) -> Watched {
        let checks: &[HealthCheck] = verify.map_or(&[], |verify| &verify.health);
        let stretch_min = (window / STRETCHES_PER_WINDOW).max(INTERVAL_MIN);
        let interval = stretch_min.min(CHECKS_INTERVAL_MAX);
        let start = Instant::now();
        let mut watched = Watched { stretches: Vec::new(), unhealthy: Vec::new() };
        let mut failed_by_look: Vec<Vec<String>> = Vec::new();
        let mut last: Option<(Instant, Measurement)> = None;
        // Of the looks since the last stretch.
        let (mut latency, mut unhealthy) = (None, 0);
        loop {
            let (longest, failed) = self.check_all(vm, checks).await;
            latency = latency.max(longest);
            unhealthy = unhealthy.max(u32::try_from(failed.len()).unwrap_or(u32::MAX));
            failed_by_look.push(names(&failed));
            watched.unhealthy = failed;
            let ended = matches!(self.node.power(vm).await, Ok(PowerState::Stopped));
            let over = ended || start.elapsed() >= window || enough(&failed_by_look);
            if over || last.as_ref().is_none_or(|(at, _)| at.elapsed() + INTERVAL_MIN > stretch_min) {
                let look = (Instant::now(), self.node.measure(vm).await.unwrap_or_default());
                if let Some((at, before)) = &last {
                    let mut stretch = stretch_between(before, &look.1, look.0.duration_since(*at));
                    (stretch.probe_latency_us, stretch.unhealthy) = (latency, unhealthy);
                    watched.stretches.push(stretch);
                    (latency, unhealthy) = (None, 0);
                }
                last = Some(look);
            }
            if over {
                return watched;
            }
            // The pace of looking, not a wait for something to have happened.
            tokio::time::sleep(interval.min(window.saturating_sub(start.elapsed()).max(INTERVAL_MIN))).await;
        }
    }
}
