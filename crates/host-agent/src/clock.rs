//! The host's clock, as what is told of guests needs it.

use proteus_model::unit::UnixMillis;
use std::time::{SystemTime, UNIX_EPOCH};

/// Now.
pub(crate) fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(0))
}
