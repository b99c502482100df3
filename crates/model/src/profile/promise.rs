//! What is promised to a VM's owner, how a change is judged, and what a change costs.

use super::field::Violations;
use super::quantity::{MicroMoney, MilliWatts, PerSec};
use super::record::{choice, record, union, whole};
use super::text::{ProcessName, SqlName, UnitName, UrlPath};
use super::tree::Step;
use crate::unit::{Bytes, BytesPerSec, MilliCpu, Millis, Permille};

record! {
    /// What the owner is promised.
    pub struct Sla {
        /// The VM never has less.
        pub floor: Option<Amounts>,
        /// The VM never has more.
        pub ceiling: Option<Amounts>,
        /// What its clients must see.
        pub objectives: Vec<Objective>,
        /// Who goes first where not all can.
        pub priority_class: Option<SlaClass>,
        /// What it may use up.
        pub budget: Option<Budget>,
        /// Where it may be moved.
        pub mobility: Option<Mobility>,
    }
}

record! {
    /// An amount of each resource.
    pub struct Amounts {
        /// CPU time, in CPUs.
        pub vcpus: Option<MilliCpu>,
        /// Memory.
        pub memory: Option<Bytes>,
        /// Disk operations per second.
        pub disk_iops: Option<PerSec>,
        /// Disk bytes per second.
        pub disk_bandwidth: Option<BytesPerSec>,
        /// Link towards the guest.
        pub network_to_guest: Option<BytesPerSec>,
        /// Link from the guest.
        pub network_from_guest: Option<BytesPerSec>,
    }
}

union! {
    /// Something that clients must see.
    pub enum Objective {
        /// Answers come within a time.
        "latency" => Latency(LatencyObjective),
        /// So many are answered.
        "throughput" => Throughput(ThroughputObjective),
    }
}

whole! {
    /// A percentile, from 1 to 100.
    pub struct Percentile(u8) in 1..=100;
}

record! {
    /// Answers come within a time.
    pub struct LatencyObjective {
        /// Of which part of them.
        pub percentile: Percentile,
        /// The time.
        pub max: Millis,
    }
}

record! {
    /// So many requests are answered.
    pub struct ThroughputObjective {
        /// Requests per second.
        pub min: PerSec,
    }
}

choice! {
    /// Who goes first where not all can.
    pub enum SlaClass {
        /// Before all others.
        "critical" => Critical,
        /// Before the standard.
        "high" => High,
        /// Like most.
        "standard" => Standard,
        /// With what is left.
        "best_effort" => BestEffort,
    }
}

record! {
    /// What a VM may use up.
    pub struct Budget {
        /// Money per hour.
        pub money_per_hour_max: Option<MicroMoney>,
        /// Electrical power.
        pub power_max: Option<MilliWatts>,
    }
}

choice! {
    /// Where a VM may be moved.
    pub enum Mobility {
        /// Nowhere.
        "pinned" => Pinned,
        /// To another place on its host.
        "host" => Host,
        /// To another host of its pool.
        "pool" => Pool,
        /// Anywhere.
        "anywhere" => Anywhere,
    }
}

whole! {
    /// A port.
    pub struct Port(u16) in 1..=65535;
}

whole! {
    /// An HTTP status.
    pub struct HttpStatus(u16) in 100..=599;
}

union! {
    /// Something that must be so for the VM to count as healthy.
    pub enum HealthCheck {
        /// A port takes connections.
        "tcp" => Tcp(TcpCheck),
        /// A web server answers.
        "http" => Http(HttpCheck),
        /// redis answers PING.
        "redis" => Redis(RedisCheck),
        /// PostgreSQL answers the start of a session.
        "postgresql" => Postgresql(PostgresqlCheck),
        /// A process runs.
        "process" => Process(ProcessCheck),
        /// A systemd unit is active.
        "unit" => Unit(UnitCheck),
    }
}

record! {
    /// A port of the VM takes connections.
    pub struct TcpCheck {
        /// The port.
        pub port: Port,
    }
}

record! {
    /// A web server of the VM answers GET.
    pub struct HttpCheck {
        /// The port.
        pub port: Port = Port(80),
        /// What is asked for.
        pub path: Option<UrlPath>,
        /// The status of the answer.
        pub status: HttpStatus = HttpStatus(200),
    }
}

record! {
    /// redis answers PING.
    pub struct RedisCheck {
        /// The port.
        pub port: Port = Port(6379),
    }
}

record! {
    /// PostgreSQL answers the start of a session, be it by asking for a password.
    pub struct PostgresqlCheck {
        /// The port.
        pub port: Port = Port(5432),
        /// The user that the session is for.
        pub user: Option<SqlName>,
        /// The database that the session is for.
        pub database: Option<SqlName>,
    }
}

record! {
    /// A process of this name runs in the guest.
    pub struct ProcessCheck {
        /// Its name as in `/proc/PID/comm`.
        pub name: ProcessName,
    }
}

record! {
    /// A systemd unit of the guest is active.
    pub struct UnitCheck {
        /// Its name.
        pub name: UnitName,
    }
}

record! {
    /// Limits that the after-window must keep. A limit that the before-window already broke counts only if the
    /// change made it worse.
    pub struct PerformanceLimits {
        /// Share of time in which some task waited for CPU (PSI, some).
        pub psi_cpu: Option<Permille>,
        /// Share of time in which some task waited for memory (PSI, some).
        pub psi_memory: Option<Permille>,
        /// Share of time in which some task waited for storage (PSI, some).
        pub psi_io: Option<Permille>,
        /// Share of time that a runnable vCPU waited for a physical one.
        pub run_delay: Option<Permille>,
        /// Share of scheduling periods in which the VM was stopped at its CPU cap.
        pub throttled: Option<Permille>,
        /// Time that a health check takes, 99th percentile.
        pub probe_latency: Option<Millis>,
    }
}

record! {
    /// How long the VM is watched.
    pub struct ObservationWindow {
        /// Before the first step: what is normal for it, and how much that varies.
        pub before: Millis,
        /// After the last step.
        pub after: Millis,
    }
    checked by Self::check_bounds
}

/// 1 s: less holds no sample of a 1 Hz agent.
const WINDOW_MIN: Millis = Millis(1_000);

/// 1 h: a morph holds its reservation for as long.
const WINDOW_MAX: Millis = Millis(3_600_000);

impl ObservationWindow {
    fn check_bounds(&self, violations: &mut Violations) {
        use super::quantity::Quantity;
        for (name, window) in [("before", self.before), ("after", self.after)] {
            if !(WINDOW_MIN..=WINDOW_MAX).contains(&window) {
                violations.inside(Step::Field(name.to_owned()), |v| {
                    v.note("from 1s to 1h", window.to_text(), None);
                });
            }
        }
    }
}

record! {
    /// How a change is judged.
    pub struct Verify {
        /// What must be so before and after.
        pub health: Vec<HealthCheck>,
        /// What may not get worse than this.
        pub performance: Option<PerformanceLimits>,
        /// How long to look.
        pub window: Option<ObservationWindow>,
    }
}

choice! {
    /// How likely a change does harm.
    pub enum Risk {
        /// Hardly.
        "low" => Low,
        /// It can.
        "medium" => Medium,
        /// Look twice.
        "high" => High,
    }
}

record! {
    /// What a change of profile costs.
    pub struct Cost {
        /// To take this profile.
        pub enter: Option<ChangeCost>,
        /// To leave it.
        pub leave: Option<ChangeCost>,
    }
}

record! {
    /// What one change costs.
    pub struct ChangeCost {
        /// How long nobody is served.
        pub blackout: Option<Millis>,
        /// How long it takes until the VM is at its best again, caches warm.
        pub settling: Option<Millis>,
        /// How likely it does harm.
        pub risk: Option<Risk>,
    }
}
