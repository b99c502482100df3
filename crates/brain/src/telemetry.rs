//! From counters to a history: the first stage. What a host counts and what a guest says become readings, readings
//! become buckets. Must never take what is missing for zero, nor a guest's word against the host's.

mod application;

mod fault;

pub mod csv;

mod latency;

mod merge;

mod series;

pub use application::Applications;

pub use fault::{Fault, Faults};

pub use latency::LatencyWatch;

pub use merge::{Disagreement, Merger, dirty_rate};

pub use series::{Closed, Series, pool};
