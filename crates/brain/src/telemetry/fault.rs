//! What is wrong with samples: told apart and counted. Must never stop a stream.

use serde::{Deserialize, Serialize};

/// What can be wrong with a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Older than what was taken in already.
    Late,
    /// Of the same moment as the last.
    Repeated,
    /// Of a moment that has not come.
    Future,
    /// The clock was set back: what came before it is later than now.
    ClockBack,
    /// The clock was set forward.
    ClockForward,
    /// A counter is less than it was: its owner began anew.
    Reset,
    /// Nothing came for so long that no rate can be told.
    Gap,
    /// A value that cannot be.
    Absurd,
    /// What a guest said is out of bounds, all of it or one part, and nothing of that is believed.
    Refused,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Late,
        Self::Repeated,
        Self::Future,
        Self::ClockBack,
        Self::ClockForward,
        Self::Reset,
        Self::Gap,
        Self::Absurd,
        Self::Refused,
    ];

    /// Its name, as on the wire and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Repeated => "repeated",
            Self::Future => "future",
            Self::ClockBack => "clock_back",
            Self::ClockForward => "clock_forward",
            Self::Reset => "reset",
            Self::Gap => "gap",
            Self::Absurd => "absurd",
            Self::Refused => "refused",
        }
    }
}

/// How often each came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults([u64; Fault::ALL.len()]);

impl Faults {
    /// Counts one.
    pub fn count(&mut self, fault: Fault) {
        let slot = &mut self.0[fault as usize];
        *slot = slot.saturating_add(1);
    }

    /// How often it came.
    pub fn of(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    /// Adds what somebody else counted.
    pub fn add(&mut self, other: &Self) {
        for (slot, more) in self.0.iter_mut().zip(other.0) {
            *slot = slot.saturating_add(more);
        }
    }

    /// Those that came, with how often.
    pub fn counted(&self) -> impl Iterator<Item = (Fault, u64)> {
        Fault::ALL.into_iter().map(|fault| (fault, self.of(fault))).filter(|(_, times)| *times > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_a_place_of_its_own() {
        let mut faults = Faults::default();
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault as usize, index);
            assert_eq!(serde_json::to_value(fault).unwrap(), fault.name());
            for _ in 0..=index {
                faults.count(fault);
            }
        }
        let mut twice = faults;
        twice.add(&faults);
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!((faults.of(fault), twice.of(fault)), (index as u64 + 1, 2 * (index as u64 + 1)));
        }
        assert_eq!(faults.counted().count(), Fault::ALL.len());
    }
}
