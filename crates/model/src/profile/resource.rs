//! What a VM may have of each resource, and what its share is spent on.

use super::field::Violations;
use super::quantity::{PerSec, Quantity, Ratio};
use super::record::record;
use super::tree::Step;
use crate::unit::{Bytes, BytesPerSec, MilliCpu};

record! {
    /// How much of a resource: never below `min`, never above `max`, `preferred` where nothing speaks against it.
    pub struct Range<Q: Quantity> {
        /// The least that will do.
        pub min: Option<Q>,
        /// What to aim at.
        pub preferred: Option<Q>,
        /// The most.
        pub max: Option<Q>,
    }
    checked by Self::check_order
}

impl<Q: Quantity> Range<Q> {
    fn check_order(&self, violations: &mut Violations) {
        let pairs = [
            ("preferred", self.preferred, "min", self.min),
            ("max", self.max, "preferred", self.preferred),
            ("max", self.max, "min", self.min),
        ];
        for (upper, high, lower, low) in pairs {
            if let (Some(high), Some(low)) = (high, low)
                && high < low
            {
                let (high, low) = (high.to_text(), low.to_text());
                violations.inside(Step::Field(upper.to_owned()), |v| {
                    v.note(format!("at least {lower}, which is {low}"), high, None);
                });
                return;
            }
        }
    }

    /// Notes stated amounts below `least`: nothing runs on them.
    fn check_least(&self, least: Q, violations: &mut Violations) {
        for (name, amount) in [("min", self.min), ("preferred", self.preferred), ("max", self.max)] {
            if let Some(amount) = amount
                && amount < least
            {
                violations.inside(Step::Field(name.to_owned()), |v| {
                    v.note(format!("at least {}", least.to_text()), amount.to_text(), None);
                });
            }
        }
    }
}

record! {
    /// What a VM may have.
    pub struct Resources {
        /// CPU time, in CPUs. The VM gets the next whole number of virtual CPUs, capped to exactly this.
        pub vcpus: Option<Range<MilliCpu>>,
        /// Memory.
        pub memory: Option<Range<Bytes>>,
        /// Rate of each disk.
        pub disk: Option<DiskResources>,
        /// Rate of the network link.
        pub network: Option<NetworkResources>,
    }
    checked by Self::check_least
}

record! {
    /// Rate of each disk of a VM.
    pub struct DiskResources {
        /// Reads and writes, operations per second.
        pub iops: Option<Range<PerSec>>,
        /// Reads and writes, bytes per second.
        pub bandwidth: Option<Range<BytesPerSec>>,
    }
}

record! {
    /// Rate of the network link of a VM.
    pub struct NetworkResources {
        /// Towards the guest.
        pub to_guest: Option<Range<BytesPerSec>>,
        /// From the guest.
        pub from_guest: Option<Range<BytesPerSec>>,
    }
}

/// 1/100 of a CPU: less is throttled for 99 of every 100 ms, and its agent no longer answers in time.
pub const CPU_MIN: MilliCpu = MilliCpu(10);

/// 32 MiB: less than a Linux kernel with an agent was ever seen to run in.
pub const MEMORY_MIN: Bytes = Bytes::mib(32);

/// 1 kB/s: less stalls every protocol with a timeout.
pub const RATE_MIN: BytesPerSec = BytesPerSec(1_000);

/// Virtual CPUs that an amount of CPU time needs: the next whole number.
pub fn vcpu_count(amount: MilliCpu) -> u32 {
    amount.0.div_ceil(1000)
}

/// The cap that brings that many virtual CPUs down to the amount; `None` where they are the amount.
pub fn cpu_cap(amount: MilliCpu) -> Option<MilliCpu> {
    (!amount.0.is_multiple_of(1000)).then_some(amount)
}

impl Resources {
    fn check_least(&self, violations: &mut Violations) {
        fn one<Q: Quantity>(path: &[&str], range: Option<&Range<Q>>, least: Q, violations: &mut Violations) {
            match (path, range) {
                ([], Some(range)) => range.check_least(least, violations),
                ([step, rest @ ..], Some(_)) => {
                    violations.inside(Step::Field((*step).to_owned()), |v| one(rest, range, least, v));
                }
                (_, None) => {}
            }
        }
        one(&["vcpus"], self.vcpus.as_ref(), CPU_MIN, violations);
        one(&["memory"], self.memory.as_ref(), MEMORY_MIN, violations);
        if let Some(disk) = &self.disk {
            one(&["disk", "iops"], disk.iops.as_ref(), PerSec(1), violations);
            one(&["disk", "bandwidth"], disk.bandwidth.as_ref(), RATE_MIN, violations);
        }
        if let Some(network) = &self.network {
            one(&["network", "to_guest"], network.to_guest.as_ref(), RATE_MIN, violations);
            one(&["network", "from_guest"], network.from_guest.as_ref(), RATE_MIN, violations);
        }
    }
}

/// How far the weights may be from 1.0 together: room for decimals such as 0.333333.
pub const WEIGHT_SUM_TOLERANCE: f64 = 1e-6;

/// The weight that favours nothing: a quarter for each of four resources.
pub const WEIGHT_NEUTRAL: f64 = 0.25;

record! {
    /// What the VM's share is spent on. Each from 0.0 to 1.0, together 1.0; 0.25 is neutral. All four are stated.
    pub struct ResourceWeights {
        /// CPU time.
        pub cpu: Ratio,
        /// Memory: a higher weight is reclaimed later.
        pub memory: Ratio,
        /// The link.
        pub network: Ratio,
        /// Disk operations.
        pub storage_io: Ratio,
    }
    checked by Self::check_sum
}

impl ResourceWeights {
    fn check_sum(&self, violations: &mut Violations) {
        let sum = self.cpu.get() + self.memory.get() + self.network.get() + self.storage_io.get();
        if (sum - 1.0).abs() > WEIGHT_SUM_TOLERANCE {
            let text = format!("{sum:.6}");
            let text = text.trim_end_matches('0').trim_end_matches('.');
            let hint = format!("{} {:.6}", if sum > 1.0 { "take away" } else { "add" }, (sum - 1.0).abs());
            let hint = hint.trim_end_matches('0').trim_end_matches('.').to_owned();
            violations.note("weights that sum to 1.0", format!("a sum of {text}"), Some(hint));
        }
    }

    /// By how much a base share is multiplied under contention: weight / 0.25.
    pub fn factor(weight: Ratio) -> f64 {
        weight.get() / WEIGHT_NEUTRAL
    }
}
