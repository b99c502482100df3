//! Why the allocation table refuses, in numbers.

use super::loan::LoanId;
use crate::id::{Generation, HostName, MorphId, VmId};
use crate::unit::{Bytes, MilliCpu};
use std::fmt;

/// An amount of one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// CPU time.
    Cpu(MilliCpu),
    /// Memory.
    Memory(Bytes),
}

impl Level {
    pub(super) fn is_zero(self) -> bool {
        match self {
            Self::Cpu(cpu) => cpu.0 == 0,
            Self::Memory(memory) => memory.0 == 0,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Exact: a shortage of one thousandth must not read as none.
            Self::Cpu(cpu) => write!(f, "{} CPU", f64::from(cpu.0) / 1000.0),
            Self::Memory(memory) => write!(f, "{memory} of memory"),
        }
    }
}

/// The constraint that binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// What was asked for.
    pub asked: Level,
    /// What may be.
    pub limit: Level,
    /// The difference.
    pub by: Level,
}

/// Why the table was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllocationError {
    /// The host does not have as much.
    #[error("host {host} is short by {}: {} asked for, {} to be had", limit.by, limit.asked, limit.limit)]
    HostShort {
        /// The host.
        host: HostName,
        /// How much is missing.
        limit: Limit,
    },
    /// The VM would get less than it was promised.
    #[error("VM {vm} would be {} below its floor: {}, of which {} was promised", limit.by, limit.asked, limit.limit)]
    BelowFloor {
        /// The VM.
        vm: VmId,
        /// How far below.
        limit: Limit,
    },
    /// The VM would get more than it may have.
    #[error("VM {vm} would be {} above its ceiling: {}, of which {} is the most", limit.by, limit.asked, limit.limit)]
    AboveCeiling {
        /// The VM.
        vm: VmId,
        /// How far above.
        limit: Limit,
    },
    /// A floor above the ceiling.
    #[error("VM {vm} cannot have a floor of {} and a ceiling of {}", limit.asked, limit.limit)]
    NoRoom {
        /// The VM.
        vm: VmId,
        /// The two.
        limit: Limit,
    },
    /// More is lent than would be left.
    #[error("VM {vm} cannot lend {} out of {}", limit.asked, limit.limit)]
    LentOut {
        /// The VM.
        vm: VmId,
        /// How much.
        limit: Limit,
    },
    /// Another morph has the VM.
    #[error("VM {vm} is in the hands of morph {morph}")]
    VmBusy {
        /// The VM.
        vm: VmId,
        /// The other morph.
        morph: MorphId,
    },
    /// The generation is not newer than the one that the table knows.
    #[error("VM {vm} is at generation {current}, {given} is not newer")]
    Stale {
        /// The VM.
        vm: VmId,
        /// What was given.
        given: Generation,
        /// What is known.
        current: Generation,
    },
    /// The morph already holds something else.
    #[error("morph {morph} holds another reservation")]
    MorphReused {
        /// The morph.
        morph: MorphId,
    },
    /// The morph holds nothing.
    #[error("morph {morph} holds no reservation")]
    NoReservation {
        /// The morph.
        morph: MorphId,
    },
    /// No such host.
    #[error("host {host} is not in the allocation table")]
    UnknownHost {
        /// The host.
        host: HostName,
    },
    /// The host is used.
    #[error("host {host} is used by VM {vm}")]
    HostInUse {
        /// The host.
        host: HostName,
        /// One of its users.
        vm: VmId,
    },
    /// No such VM.
    #[error("VM {vm} is not in the allocation table")]
    UnknownVm {
        /// The VM.
        vm: VmId,
    },
    /// The VM is there already.
    #[error("VM {vm} is in the allocation table already")]
    VmExists {
        /// The VM.
        vm: VmId,
    },
    /// A loan holds the VM.
    #[error("VM {vm} is party to {loan}")]
    OnLoan {
        /// The VM.
        vm: VmId,
        /// The loan.
        loan: LoanId,
    },
    /// Lender and borrower are the same.
    #[error("VM {vm} cannot lend to itself")]
    LoanToSelf {
        /// The VM.
        vm: VmId,
    },
    /// Loans do not chain: who borrows does not lend, who lends does not borrow.
    #[error("VM {vm} is on the other side of {loan}; loans do not chain")]
    LoanChain {
        /// The VM.
        vm: VmId,
        /// The loan that it is party to.
        loan: LoanId,
    },
    /// A loan of nothing, without term, or with too long a way back.
    #[error("a loan needs {what}")]
    LoanTerms {
        /// What is missing.
        what: &'static str,
    },
    /// The VM has nothing at the place of the loan.
    #[error("VM {vm} has no slice at host {host}")]
    NotHere {
        /// The VM.
        vm: VmId,
        /// The place.
        host: HostName,
    },
    /// No such loan.
    #[error("{loan} is not in the allocation table")]
    UnknownLoan {
        /// The loan.
        loan: LoanId,
    },
}

/// An invariant that does not hold: a bug, or a table that was changed by hand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Invariant 1.
    #[error("invariant 1: {} of host {host} is held, {} may be", limit.asked, limit.limit)]
    HostShort {
        /// The host.
        host: HostName,
        /// How much too much.
        limit: Limit,
    },
    /// Invariant 1, at a place that is not known.
    #[error("invariant 1: VM {vm} holds something of host {host}, which is not known")]
    NoSuchHost {
        /// The VM.
        vm: VmId,
        /// The host.
        host: HostName,
    },
    /// Invariant 2.
    #[error("invariant 2")]
    Bounds {
        /// Which bound, and by how much.
        #[source]
        error: Box<AllocationError>,
    },
    /// Invariant 3.
    #[error("invariant 3: {loan} {what}")]
    Loan {
        /// The loan.
        loan: LoanId,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A reservation without its VM, or a second one for it.
    #[error("morph {morph} holds a reservation that VM {vm} does not allow")]
    Reservation {
        /// The morph.
        morph: MorphId,
        /// The VM.
        vm: VmId,
    },
}
