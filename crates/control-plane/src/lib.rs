//! The control role: which VMs there are, what they are asked to be, and the morphs that take them there. Talks to
//! hosts only through the node API. Must never import the hypervisor.

pub mod store;

mod record;

mod hand;

mod made;

mod act;

pub mod audit;

pub mod control;

pub mod vm;

mod template;

mod seen;

mod look;

pub mod snapshot;

pub mod backup;

pub mod check;

mod import;

pub mod personality;

pub mod uplink;

pub mod exec;

mod console;

pub mod profile;

pub mod allocation;

pub mod abort;

pub mod arm;

pub mod plan;

pub mod execution;

pub mod verification;

pub mod history;

pub mod api;
