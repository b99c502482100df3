//! What people do in this guest, as far as they allow it: what is told is all made where their consent is kept. Must
//! never add anything of its own.

use super::{Collect, Step, found, wall_ms};
use crate::consent::Store;
use proteus_protocol::guest::v1::findings::{Collector, Findings};
use std::time::Duration;

/// The people of this guest.
#[derive(Default)]
pub struct People {
    store: Store,
}

impl Collect for People {
    fn name(&self) -> Collector {
        Collector::Users
    }

    /// Soon after it is withdrawn the host must know.
    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn missing(&mut self) -> Option<String> {
        self.store.missing()
    }

    fn step(&mut self, findings: &mut Findings) -> Step {
        // What cannot be read or written down is not told; the next round tries again.
        findings.users = self.store.told(wall_ms()).ok().and_then(found);
        Step::Done
    }

    fn forget(&mut self) {}
}
