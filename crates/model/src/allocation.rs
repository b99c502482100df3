//! The allocation table: which VM has how much of which host. Reserve before acting, settle or release after;
//! every refusal says which constraint binds and by how much. Pure data: a change returns the error and leaves
//! the table as it was, or makes all of it. Must never be changed by hand: its invariants are kept by its methods.
//!
//! ```text
//!             reserve(morph, after)            settle(morph)
//!   before ------------------------> max(before, after) -----> after
//!      ^                                   |
//!      `-----------------------------------'
//!                  release(morph)
//! ```

mod error;

mod loan;

#[cfg(test)]
mod tests;

pub use error::{AllocationError, Broken, Level, Limit};
pub use loan::{LOAN_RETURN_MAX, Loan, LoanId, LoanRequest};

use crate::id::{Generation, HostName, MorphId, VmId};
use crate::unit::{Bytes, MilliCpu, Permille};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An amount of each resource that is shared out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Amount {
    /// CPU time.
    pub cpu: MilliCpu,
    /// Memory.
    pub memory: Bytes,
}

impl Amount {
    /// Nothing of anything.
    pub const ZERO: Self = Self { cpu: MilliCpu(0), memory: Bytes(0) };

    /// As much as there can be.
    pub const MAX: Self = Self { cpu: MilliCpu(u32::MAX), memory: Bytes(u64::MAX) };

    /// An amount.
    pub const fn new(cpu: MilliCpu, memory: Bytes) -> Self {
        Self { cpu, memory }
    }

    /// The larger of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self { cpu: self.cpu.max(other.cpu), memory: self.memory.max(other.memory) }
    }

    /// The smaller of each.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self { cpu: self.cpu.min(other.cpu), memory: self.memory.min(other.memory) }
    }

    /// Both together, not above the largest.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let cpu = MilliCpu(self.cpu.0.saturating_add(other.cpu.0));
        Self { cpu, memory: self.memory.saturating_add(other.memory) }
    }

    /// This less the other, not below zero.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        let cpu = MilliCpu(self.cpu.0.saturating_sub(other.cpu.0));
        Self { cpu, memory: self.memory.saturating_sub(other.memory) }
    }

    /// Each resource with its level.
    fn levels(self) -> [Level; 2] {
        [Level::Cpu(self.cpu), Level::Memory(self.memory)]
    }

    /// The first resource of which this is more than `limit`: it, what may be, and by how much it is more.
    fn over(self, limit: Self) -> Option<Limit> {
        let by = self.minus(limit).levels();
        let all = self.levels().into_iter().zip(limit.levels()).zip(by);
        all.filter(|(_, by)| !by.is_zero()).map(|((asked, limit), by)| Limit { asked, limit, by }).next()
    }
}

/// What a host has to share out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Its CPUs.
    pub cpu: MilliCpu,
    /// How much CPU may be shared out of what there is: 1000 ‰ is all of it once, 4000 ‰ four times over.
    pub cpu_overcommit: Permille,
    /// Its memory, less what it keeps for itself. Never shared out twice.
    pub memory: Bytes,
}

impl Capacity {
    /// What may be shared out.
    pub fn shareable(&self) -> Amount {
        let cpu = u64::from(self.cpu.0).saturating_mul(u64::from(self.cpu_overcommit.0)) / 1000;
        Amount { cpu: MilliCpu(u32::try_from(cpu).unwrap_or(u32::MAX)), memory: self.memory }
    }
}

/// Between what a VM's allocation stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// Never less.
    pub floor: Amount,
    /// Never more.
    pub ceiling: Amount,
}

impl Bounds {
    /// A VM that nothing was promised to.
    pub const NONE: Self = Self { floor: Amount::ZERO, ceiling: Amount::MAX };
}

/// What the table knows of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmAllocation {
    /// What it was promised.
    pub bounds: Bounds,
    /// The newest generation that took it in hand.
    pub generation: Generation,
    /// What it has, by place. Two places only while it moves.
    pub slices: BTreeMap<HostName, Amount>,
}

impl VmAllocation {
    /// All of its slices together.
    pub fn total(&self) -> Amount {
        self.slices.values().fold(Amount::ZERO, |sum, slice| sum.plus(*slice))
    }

    fn at(&self, host: &HostName) -> Amount {
        self.slices.get(host).copied().unwrap_or(Amount::ZERO)
    }
}

/// What a morph holds until it is settled or released: at each place the larger of before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// For which VM.
    pub vm: VmId,
    /// The generation of the morph.
    pub generation: Generation,
    /// The VM's slices once the morph is done.
    pub after: BTreeMap<HostName, Amount>,
}

/// Who has what where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocationTable {
    hosts: BTreeMap<HostName, Capacity>,
    vms: BTreeMap<VmId, VmAllocation>,
    reservations: BTreeMap<MorphId, Reservation>,
    loans: BTreeMap<LoanId, Loan>,
    loan_last: u64,
}

impl AllocationTable {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// The hosts.
    pub fn hosts(&self) -> &BTreeMap<HostName, Capacity> {
        &self.hosts
    }

    /// The VMs.
    pub fn vms(&self) -> &BTreeMap<VmId, VmAllocation> {
        &self.vms
    }

    /// What morphs hold.
    pub fn reservations(&self) -> &BTreeMap<MorphId, Reservation> {
        &self.reservations
    }

    /// Adds a host or changes what it has. Refused where more is held of it already.
    pub fn set_host(&mut self, host: HostName, capacity: Capacity) -> Result<(), AllocationError> {
        let held = self.held(&host);
        if let Some(limit) = held.over(capacity.shareable()) {
            return Err(AllocationError::HostShort { host, limit });
        }
        self.hosts.insert(host, capacity);
        Ok(())
    }

    /// Takes a host out. Refused while a VM has or may get something there.
    pub fn remove_host(&mut self, host: &HostName) -> Result<(), AllocationError> {
        self.capacity(host)?;
        let user = self.vms.iter().find(|(vm, allocation)| {
            let to_be = self.reservation_of(**vm).is_some_and(|(_, r)| r.after.contains_key(host));
            to_be || allocation.slices.contains_key(host)
        });
        if let Some((vm, _)) = user {
            return Err(AllocationError::HostInUse { host: host.clone(), vm: *vm });
        }
        self.hosts.remove(host);
        Ok(())
    }

    fn capacity(&self, host: &HostName) -> Result<&Capacity, AllocationError> {
        self.hosts.get(host).ok_or_else(|| AllocationError::UnknownHost { host: host.clone() })
    }

    /// The allocation of a VM.
    pub fn vm(&self, vm: VmId) -> Result<&VmAllocation, AllocationError> {
        self.vms.get(&vm).ok_or(AllocationError::UnknownVm { vm })
    }

    fn reservation_of(&self, vm: VmId) -> Option<(MorphId, &Reservation)> {
        self.reservations.iter().find(|(_, r)| r.vm == vm).map(|(morph, r)| (*morph, r))
    }

    /// What a VM keeps from others at a host: what it has there, or the larger of that and what it will have.
    fn held_by(&self, vm: VmId, host: &HostName) -> Amount {
        let before = self.vms.get(&vm).map_or(Amount::ZERO, |allocation| allocation.at(host));
        let after = self.reservation_of(vm).and_then(|(_, r)| r.after.get(host).copied());
        before.max(after.unwrap_or(Amount::ZERO))
    }

    /// What is held of a host, reservations included. Loans move nothing here: the lender's slice stays its own.
    pub fn held(&self, host: &HostName) -> Amount {
        self.vms.keys().fold(Amount::ZERO, |sum, vm| sum.plus(self.held_by(*vm, host)))
    }

    /// What is free at a host.
    pub fn free(&self, host: &HostName) -> Result<Amount, AllocationError> {
        Ok(self.capacity(host)?.shareable().minus(self.held(host)))
    }

    /// Whether `amount` fits at a host beside what all VMs but `vm` hold.
    fn fits(&self, vm: VmId, host: &HostName, amount: Amount) -> Result<(), AllocationError> {
        let shareable = self.capacity(host)?.shareable();
        let others = self.vms.keys().filter(|other| **other != vm);
        let others = others.fold(Amount::ZERO, |sum, other| sum.plus(self.held_by(*other, host)));
        match amount.over(shareable.minus(others)) {
            Some(limit) => Err(AllocationError::HostShort { host: host.clone(), limit }),
            None => Ok(()),
        }
    }

    fn within(vm: VmId, total: Amount, bounds: &Bounds) -> Result<(), AllocationError> {
        if let Some(limit) = bounds.floor.over(total) {
            // The floor is more than there would be: told the other way round.
            let limit = Limit { asked: limit.limit, limit: limit.asked, by: limit.by };
            return Err(AllocationError::BelowFloor { vm, limit });
        }
        match total.over(bounds.ceiling) {
            Some(limit) => Err(AllocationError::AboveCeiling { vm, limit }),
            None => Ok(()),
        }
    }

    /// Gives a new VM its first slice.
    pub fn admit(
        &mut self,
        vm: VmId,
        host: HostName,
        amount: Amount,
        bounds: Bounds,
    ) -> Result<(), AllocationError> {
        if self.vms.contains_key(&vm) {
            return Err(AllocationError::VmExists { vm });
        }
        if let Some(limit) = bounds.floor.over(bounds.ceiling) {
            return Err(AllocationError::NoRoom { vm, limit });
        }
        Self::within(vm, amount, &bounds)?;
        self.fits(vm, &host, amount)?;
        let slices = BTreeMap::from([(host, amount)]);
        self.vms.insert(vm, VmAllocation { bounds, generation: Generation::default(), slices });
        Ok(())
    }

    /// Takes a VM out. Refused while a morph or a loan holds it.
    pub fn remove(&mut self, vm: VmId) -> Result<(), AllocationError> {
        self.vm(vm)?;
        if let Some((morph, _)) = self.reservation_of(vm) {
            return Err(AllocationError::VmBusy { vm, morph });
        }
        if let Some(loan) = self.loans_of(vm).next() {
            return Err(AllocationError::OnLoan { vm, loan: loan.id });
        }
        self.vms.remove(&vm);
        Ok(())
    }

    /// Changes what a VM is promised. Refused where it has less or more now, or would after its morph.
    pub fn set_bounds(&mut self, vm: VmId, bounds: Bounds) -> Result<(), AllocationError> {
        if let Some(limit) = bounds.floor.over(bounds.ceiling) {
            return Err(AllocationError::NoRoom { vm, limit });
        }
        let before = self.vm(vm)?.total();
        let after = self.reservation_of(vm).map_or(before, |(_, r)| total_of(&r.after));
        self.check_use(vm, before.min(after), before.max(after), &bounds)?;
        if let Some(allocation) = self.vms.get_mut(&vm) {
            allocation.bounds = bounds;
        }
        Ok(())
    }

    /// Whether a VM stays within bounds with its slices between `least` and `most`, loans reckoned in.
    fn check_use(
        &self,
        vm: VmId,
        least: Amount,
        most: Amount,
        bounds: &Bounds,
    ) -> Result<(), AllocationError> {
        let lent = self.lent(vm);
        if let Some(limit) = lent.over(least) {
            return Err(AllocationError::LentOut { vm, limit });
        }
        Self::within(vm, least.minus(lent), &Bounds { ceiling: Amount::MAX, ..*bounds })?;
        Self::within(vm, most.plus(self.borrowed(vm)), &Bounds { floor: Amount::ZERO, ..*bounds })
    }

    /// Holds for a morph what its VM has and will have. Asking again for the same is answered the same.
    pub fn reserve(&mut self, morph: MorphId, reservation: Reservation) -> Result<(), AllocationError> {
        match self.reservations.get(&morph) {
            Some(held) if *held == reservation => return Ok(()),
            Some(_) => return Err(AllocationError::MorphReused { morph }),
            None => {}
        }
        let vm = reservation.vm;
        let allocation = self.vm(vm)?;
        if let Some((holder, _)) = self.reservation_of(vm) {
            return Err(AllocationError::VmBusy { vm, morph: holder });
        }
        if reservation.generation <= allocation.generation {
            let (given, current) = (reservation.generation, allocation.generation);
            return Err(AllocationError::Stale { vm, given, current });
        }
        let (before, after) = (allocation.total(), total_of(&reservation.after));
        self.check_use(vm, before.min(after), before.max(after), &allocation.bounds)?;
        for (host, amount) in &reservation.after {
            self.fits(vm, host, amount.max(allocation.at(host)))?;
        }
        // Loans stay at the place where they were made.
        for loan in self.loans_of(vm) {
            if !reservation.after.contains_key(&loan.host) {
                return Err(AllocationError::OnLoan { vm, loan: loan.id });
            }
        }
        if let Some(allocation) = self.vms.get_mut(&vm) {
            allocation.generation = reservation.generation;
        }
        self.reservations.insert(morph, reservation);
        Ok(())
    }

    /// The morph is done: its VM has what was asked for.
    pub fn settle(&mut self, morph: MorphId) -> Result<(), AllocationError> {
        let reservation = self.reservations.remove(&morph).ok_or(AllocationError::NoReservation { morph })?;
        if let Some(allocation) = self.vms.get_mut(&reservation.vm) {
            allocation.slices = reservation.after;
        }
        Ok(())
    }

    /// The morph was undone: its VM has what it had.
    pub fn release(&mut self, morph: MorphId) -> Result<(), AllocationError> {
        self.reservations.remove(&morph).map(|_| ()).ok_or(AllocationError::NoReservation { morph })
    }

    /// The morph was left where it is: its VM may have what it had or what was asked for, and holds the larger of
    /// both at each place that it had. A place that it was to move to is given back.
    pub fn hold(&mut self, morph: MorphId) -> Result<(), AllocationError> {
        let reservation = self.reservations.remove(&morph).ok_or(AllocationError::NoReservation { morph })?;
        if let Some(allocation) = self.vms.get_mut(&reservation.vm) {
            for (host, slice) in &mut allocation.slices {
                *slice = slice.max(reservation.after.get(host).copied().unwrap_or(Amount::ZERO));
            }
        }
        Ok(())
    }

    /// What a VM may use now: its slices, less what it lent, with what it borrowed.
    pub fn usable(&self, vm: VmId) -> Result<Amount, AllocationError> {
        Ok(self.vm(vm)?.total().minus(self.lent(vm)).plus(self.borrowed(vm)))
    }

    /// Invariant 1: memory held of a host never exceeds its memory; CPU obeys its stated overcommit.
    pub fn check_capacity(&self) -> Vec<Broken> {
        let unknown = |host: &HostName| !self.hosts.contains_key(host);
        let slices = self.vms.iter().flat_map(|(vm, a)| a.slices.keys().map(move |host| (*vm, host)));
        let reserved = self.reservations.values().flat_map(|r| r.after.keys().map(move |host| (r.vm, host)));
        let nowhere = slices.chain(reserved).filter(|(_, host)| unknown(host));
        let nowhere = nowhere.map(|(vm, host)| Broken::NoSuchHost { vm, host: host.clone() });
        let over = self.hosts.iter().filter_map(|(host, capacity)| {
            let limit = self.held(host).over(capacity.shareable())?;
            Some(Broken::HostShort { host: host.clone(), limit })
        });
        nowhere.chain(over).collect()
    }

    /// Invariant 2: no VM is below its floor or above its ceiling, now or once its morph is settled.
    pub fn check_bounds(&self) -> Vec<Broken> {
        let check = |(vm, allocation): (&VmId, &VmAllocation)| {
            let before = allocation.total();
            let after = self.reservation_of(*vm).map_or(before, |(_, r)| total_of(&r.after));
            let result = self.check_use(*vm, before.min(after), before.max(after), &allocation.bounds);
            result.err().map(|error| Broken::Bounds { error: Box::new(error) })
        };
        self.vms.iter().filter_map(check).collect()
    }

    /// Invariants 1 to 3; an empty answer means that all hold.
    pub fn check(&self) -> Vec<Broken> {
        let mut broken = self.check_capacity();
        broken.append(&mut self.check_bounds());
        broken.append(&mut self.check_loans());
        let mut seen = std::collections::BTreeSet::new();
        for (morph, reservation) in &self.reservations {
            let known = self.vms.contains_key(&reservation.vm);
            if !known || !seen.insert(reservation.vm) {
                broken.push(Broken::Reservation { morph: *morph, vm: reservation.vm });
            }
        }
        broken
    }
}

fn total_of(slices: &BTreeMap<HostName, Amount>) -> Amount {
    slices.values().fold(Amount::ZERO, |sum, slice| sum.plus(*slice))
}
