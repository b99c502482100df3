//! Wire types, one frozen module per version, and the traits of our own interfaces. Must never hold logic that
//! decides: it says how things are written down, and refuses what is not written so.

pub mod cause;

pub mod guest;

pub mod node;

#[cfg(feature = "api")]
pub mod api;
