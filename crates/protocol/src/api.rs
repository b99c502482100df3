//! What people and programs ask of a control plane, over HTTP.

pub mod v1;
