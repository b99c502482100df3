//! The control role: profiles, morph sagas, the allocation table, the audit log and the API, over one store.
//! Must never call a hypervisor: that is the host agent's work.

pub mod store;

pub mod audit;
