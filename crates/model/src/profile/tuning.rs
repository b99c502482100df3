//! Kernel settings inside the guest.

use super::field::Violations;
use super::record::{choice, record, whole};
use super::text::SysctlValue;
use super::tree::Step;
use crate::setting::{SysctlKey, ThpMode};
use std::collections::BTreeMap;

record! {
    /// Kernel settings inside the guest.
    pub struct Tuning {
        /// Kernel parameters, under vm., net., fs. and kernel.sched_.
        pub sysctl: BTreeMap<SysctlKey, SysctlValue>,
        /// CPU scheduler.
        pub scheduler: Option<Scheduler>,
        /// Transparent huge pages.
        pub thp: Option<ThpMode>,
        /// IO scheduler of every disk.
        pub io_scheduler: Option<IoScheduler>,
    }
    checked by Self::check_said_once
}

whole! {
    /// A time slice, in milliseconds.
    pub struct SliceMillis(u32) in 1..=1000;
}

record! {
    /// CPU scheduler of the guest's kernel. Each field is one kernel parameter.
    pub struct Scheduler {
        /// Tasks of one terminal session share as one (`kernel.sched_autogroup_enabled`): good for desktops,
        /// bad for servers, where it overrides nice values between sessions.
        pub autogroup: Option<bool>,
        /// Turn of a round-robin real-time task, in ms (`kernel.sched_rr_timeslice_ms`).
        pub round_robin_slice_ms: Option<SliceMillis>,
    }
}

choice! {
    /// How the guest's kernel orders disk operations.
    pub enum IoScheduler {
        /// As they come: best where the host orders them.
        "none" => None,
        /// By a time limit.
        "mq-deadline" => MqDeadline,
        /// By latency targets.
        "kyber" => Kyber,
        /// Fairly between processes.
        "bfq" => Bfq,
    }
}

impl Scheduler {
    /// The kernel parameters that this stands for.
    fn sysctl(&self) -> Vec<(&'static str, String)> {
        let autogroup = self.autogroup.map(|on| ("kernel.sched_autogroup_enabled", u8::from(on).to_string()));
        let slice =
            self.round_robin_slice_ms.map(|ms| ("kernel.sched_rr_timeslice_ms", ms.get().to_string()));
        autogroup.into_iter().chain(slice).collect()
    }
}

impl Tuning {
    fn check_said_once(&self, violations: &mut Violations) {
        for (key, _) in self.scheduler.iter().flat_map(Scheduler::sysctl) {
            if self.sysctl.keys().any(|stated| stated.as_str() == key) {
                violations.inside(Step::Field("sysctl".to_owned()), |v| {
                    v.inside(Step::Field(key.to_owned()), |v| {
                        v.note("each parameter once", "it under scheduler too", None);
                    });
                });
            }
        }
    }

    /// Every kernel parameter that this asks for, those of the scheduler included.
    pub fn kernel_parameters(&self) -> BTreeMap<SysctlKey, SysctlValue> {
        let typed = self.scheduler.iter().flat_map(Scheduler::sysctl);
        let typed = typed.filter_map(|(key, value)| Some((key.parse().ok()?, value.parse().ok()?)));
        typed.chain(self.sysctl.iter().map(|(key, value)| (key.clone(), value.clone()))).collect()
    }
}
