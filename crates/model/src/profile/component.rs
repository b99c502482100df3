//! The swappable parts that a VM is built of, the scripts that guide it and the posture that it must keep.

use super::quantity::Ratio;
use super::record::{choice, record, whole};
use super::text::{Line, Script, TraitName};
use crate::id::ImageName;
use crate::unit::{Bytes, MilliCpu, Millis};
use semver::VersionReq;
use std::collections::BTreeMap;

choice! {
    /// What a component is.
    pub enum ComponentKind {
        /// A kernel.
        "kernel" => Kernel,
        /// A tree of libraries.
        "library_tree" => LibraryTree,
        /// A service.
        "service" => Service,
        /// A virtual network card.
        "nic" => Nic,
        /// An emulated device.
        "device" => Device,
        /// A network policy.
        "network_policy" => NetworkPolicy,
        /// A set of kernel tuning.
        "kernel_tuning" => KernelTuning,
    }
}

choice! {
    /// How far a component is kept apart from the rest of its VM.
    pub enum Isolation {
        /// Not at all.
        "none" => None,
        /// Its own cgroup.
        "cgroup" => Cgroup,
        /// Its own cgroup and namespaces.
        "namespace" => Namespace,
        /// Its own VM.
        "vm" => Vm,
    }
}

record! {
    /// A part that the VM must have.
    pub struct Component {
        /// What it is.
        pub kind: ComponentKind,
        /// Its name.
        pub name: ImageName,
        /// Which versions will do.
        pub version: VersionReq,
        /// What it needs.
        pub dependencies: Vec<ComponentRef>,
        /// What it cannot be together with.
        pub conflicts: Vec<ComponentRef>,
        /// What it uses itself.
        pub resources: Option<ComponentResources>,
        /// How it behaves.
        pub performance: Option<ComponentPerformance>,
        /// How far it is kept apart.
        pub isolation: Option<Isolation>,
    }
}

record! {
    /// Another component.
    pub struct ComponentRef {
        /// Its name.
        pub name: ImageName,
        /// Which versions are meant; none: all.
        pub version: Option<VersionReq>,
    }
}

record! {
    /// What a component uses.
    pub struct ComponentResources {
        /// CPU time, in CPUs.
        pub vcpus: Option<MilliCpu>,
        /// Memory.
        pub memory: Option<Bytes>,
        /// Storage.
        pub disk: Option<Bytes>,
    }
}

record! {
    /// How a component behaves.
    pub struct ComponentPerformance {
        /// From start to its first answer.
        pub start_time: Option<Millis>,
        /// How long nobody is served while it is swapped.
        pub blackout: Option<Millis>,
        /// Which traits of a VM it serves, and how well.
        pub suits: BTreeMap<TraitName, Ratio>,
    }
}

choice! {
    /// What a rule script can listen to.
    pub enum RuleEvent {
        /// The VM took this profile.
        "profile_entered" => ProfileEntered,
        /// The VM is about to leave this profile.
        "profile_left" => ProfileLeft,
        /// An application began.
        "application_started" => ApplicationStarted,
        /// An application ended.
        "application_stopped" => ApplicationStopped,
        /// CPU is short.
        "pressure_cpu" => PressureCpu,
        /// Memory is short.
        "pressure_memory" => PressureMemory,
        /// Storage is slow.
        "pressure_io" => PressureIo,
        /// A user inside asked for something.
        "user_request" => UserRequest,
        /// A period of the synthesis loop passed.
        "tick" => Tick,
    }
}

choice! {
    /// What a rule script may do.
    pub enum RuleCapability {
        /// See what is measured of its VM.
        "read_telemetry" => ReadTelemetry,
        /// Change an application's priority.
        "set_priority" => SetPriority,
        /// Move weight between the VM's resources.
        "set_weights" => SetWeights,
        /// Ask for a loan.
        "borrow" => Borrow,
        /// Offer what is free.
        "lend" => Lend,
        /// Ask for another profile.
        "request_profile" => RequestProfile,
        /// Tell the operator.
        "notify" => Notify,
    }
}

record! {
    /// A script that guides the VM, with bounded time, memory and capabilities.
    pub struct BehavioralRule {
        /// Its name, once in a profile.
        pub name: ImageName,
        /// What it is for.
        pub summary: Option<Line>,
        /// What it listens to.
        pub events: Vec<RuleEvent>,
        /// What it may do; nothing else.
        pub capabilities: Vec<RuleCapability>,
        /// Its text, in Luau.
        pub script: Script,
    }
}

whole! {
    /// How well a VM is guarded, from 0 to 100.
    pub struct PostureScore(u8) in 0..=100;
}

record! {
    /// The posture that the VM must keep.
    pub struct Security {
        /// The least score that will do.
        pub posture_score: Option<PostureScore>,
        /// Components, by name, that must be there.
        pub required_components: Vec<ImageName>,
    }
}
