//! Loans between VMs of one host: lender, borrower, amount, term, and a way back. A loan moves what may be used,
//! not what is held: the slice stays the lender's, so that no way back can fail for want of capacity.
//! Must never chain: who borrows does not lend.
//!
//! ```text
//!   lend --> running --demand--> demanded --give_back--> over
//!               `------------give_back-------------------^
//! ```

use super::{AllocationError, AllocationTable, Amount, Broken};
use crate::id::{HostName, VmId};
use crate::unit::{Millis, UnixMillis};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest way back that a lender may be asked to accept: a minute is already long for one who needs it now.
pub const LOAN_RETURN_MAX: Millis = Millis(60_000);

/// A loan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LoanId(pub u64);

impl fmt::Display for LoanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "loan {}", self.0)
    }
}

/// What a loan is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoanRequest {
    /// Who gives.
    pub lender: VmId,
    /// Who gets.
    pub borrower: VmId,
    /// Where.
    pub host: HostName,
    /// How much.
    pub amount: Amount,
    /// The end of its term.
    pub ends_at: UnixMillis,
    /// How long the way back may take once the lender demands it.
    pub return_within: Millis,
}

/// A loan that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loan {
    /// Its number.
    pub id: LoanId,
    /// What was agreed.
    #[serde(flatten)]
    pub terms: LoanRequest,
    /// When the lender asked for it back.
    pub demanded_at: Option<UnixMillis>,
}

impl std::ops::Deref for Loan {
    type Target = LoanRequest;
    fn deref(&self) -> &LoanRequest {
        &self.terms
    }
}

impl Loan {
    /// When it must be back: at the end of its term, or sooner if the lender demanded it.
    pub fn due_at(&self) -> UnixMillis {
        match self.demanded_at {
            Some(at) => self.ends_at.min(UnixMillis(at.0.saturating_add(self.return_within.0))),
            None => self.ends_at,
        }
    }
}

impl AllocationTable {
    /// The loans.
    pub fn loans(&self) -> impl Iterator<Item = &Loan> {
        self.loans.values()
    }

    pub(super) fn loans_of(&self, vm: VmId) -> impl Iterator<Item = &Loan> {
        self.loans.values().filter(move |loan| loan.lender == vm || loan.borrower == vm)
    }

    /// What a VM has lent to others.
    pub fn lent(&self, vm: VmId) -> Amount {
        let mine = self.loans.values().filter(|loan| loan.lender == vm);
        mine.fold(Amount::ZERO, |sum, loan| sum.plus(loan.amount))
    }

    /// What a VM has borrowed from others.
    pub fn borrowed(&self, vm: VmId) -> Amount {
        let mine = self.loans.values().filter(|loan| loan.borrower == vm);
        mine.fold(Amount::ZERO, |sum, loan| sum.plus(loan.amount))
    }

    /// Begins a loan. Refused where it would bring the lender below its floor or the borrower above its ceiling,
    /// now or once its morph is settled.
    pub fn lend(&mut self, request: LoanRequest, now: UnixMillis) -> Result<LoanId, AllocationError> {
        check_terms(&request, now)?;
        let (lender, borrower) = (request.lender, request.borrower);
        if lender == borrower {
            return Err(AllocationError::LoanToSelf { vm: lender });
        }
        for vm in [lender, borrower] {
            if !self.vm(vm)?.slices.contains_key(&request.host) {
                return Err(AllocationError::NotHere { vm, host: request.host });
            }
            let (least, _) = self.at_host(vm, &request.host);
            let given = if vm == lender { request.amount.plus(self.lent(vm)) } else { Amount::ZERO };
            if let Some(limit) = given.over(least) {
                return Err(AllocationError::LentOut { vm, limit });
            }
        }
        let chained = |loan: &&super::Loan| loan.borrower == lender || loan.lender == borrower;
        if let Some(loan) = self.loans.values().find(chained) {
            let vm = if loan.borrower == lender { lender } else { borrower };
            return Err(AllocationError::LoanChain { vm, loan: loan.id });
        }
        let id = LoanId(self.loan_last + 1);
        self.loans.insert(id, Loan { id, terms: request, demanded_at: None });
        let checked = self.check_party(lender).and_then(|()| self.check_party(borrower));
        match checked {
            Ok(()) => {
                self.loan_last = id.0;
                Ok(id)
            }
            Err(error) => {
                self.loans.remove(&id);
                Err(error)
            }
        }
    }

    /// The least and the most that a VM has at a host until its morph has ended.
    fn at_host(&self, vm: VmId, host: &HostName) -> (Amount, Amount) {
        let before = self.vms.get(&vm).map_or(Amount::ZERO, |allocation| allocation.at(host));
        let after = self.reservation_of(vm).map(|(_, r)| r.after.get(host).copied().unwrap_or(Amount::ZERO));
        let after = after.unwrap_or(before);
        (before.min(after), before.max(after))
    }

    fn check_party(&self, vm: VmId) -> Result<(), AllocationError> {
        let allocation = self.vm(vm)?;
        let before = allocation.total();
        let after = self.reservation_of(vm).map_or(before, |(_, r)| super::total_of(&r.after));
        self.check_use(vm, before.min(after), before.max(after), &allocation.bounds)
    }

    /// The lender wants it back. Answers when it must be; asking again changes nothing.
    pub fn demand(&mut self, loan: LoanId, now: UnixMillis) -> Result<UnixMillis, AllocationError> {
        let loan = self.loans.get_mut(&loan).ok_or(AllocationError::UnknownLoan { loan })?;
        loan.demanded_at.get_or_insert(now);
        Ok(loan.due_at())
    }

    /// The borrower no longer uses it: the loan is over.
    pub fn give_back(&mut self, loan: LoanId) -> Result<(), AllocationError> {
        self.loans.remove(&loan).map(|_| ()).ok_or(AllocationError::UnknownLoan { loan })
    }

    /// Loans that should be back by now.
    pub fn overdue(&self, now: UnixMillis) -> impl Iterator<Item = &Loan> {
        self.loans.values().filter(move |loan| loan.due_at() <= now)
    }

    /// Invariant 3: every loan has a lender, a term and a way back, and loans do not chain.
    pub fn check_loans(&self) -> Vec<Broken> {
        let wrong = |loan: &Loan| {
            let here = |vm| self.vms.get(&vm).is_some_and(|a| a.slices.contains_key(&loan.host));
            if !here(loan.lender) || !here(loan.borrower) {
                return Some("has a party that is not at its place");
            }
            if check_terms(loan, UnixMillis(0)).is_err() {
                return Some("has no term, no amount or no way back");
            }
            let chained = |other: &Loan| other.borrower == loan.lender;
            if loan.lender == loan.borrower || self.loans.values().any(chained) {
                return Some("is part of a chain");
            }
            let lent_here =
                self.loans.values().filter(|other| other.lender == loan.lender && other.host == loan.host);
            let lent_here = lent_here.fold(Amount::ZERO, |sum, other| sum.plus(other.amount));
            lent_here
                .over(self.at_host(loan.lender, &loan.host).0)
                .map(|_| "is more than the lender has at its place")
        };
        self.loans
            .values()
            .filter_map(|loan| Some(Broken::Loan { loan: loan.id, what: wrong(loan)? }))
            .collect()
    }
}

fn check_terms(request: &LoanRequest, now: UnixMillis) -> Result<(), AllocationError> {
    let what = if request.amount == Amount::ZERO {
        "an amount"
    } else if request.ends_at <= now {
        "an end in the future"
    } else if request.return_within > LOAN_RETURN_MAX {
        "a way back within a minute"
    } else {
        return Ok(());
    };
    Err(AllocationError::LoanTerms { what })
}
