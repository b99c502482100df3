//! What the table refuses and why, and that nothing that can be done to it breaks an invariant.

use super::*;
use crate::unit::{Millis, UnixMillis};
use expect_test::expect;
use proptest::prelude::*;

fn host(n: u8) -> HostName {
    format!("host-{n}").parse().unwrap()
}

fn vm(n: u8) -> VmId {
    VmId::from_bits(u128::from(n))
}

fn morph(n: u64) -> MorphId {
    MorphId::from_bits(u128::from(n))
}

fn amount(cpu: u32, mib: u64) -> Amount {
    Amount::new(MilliCpu(cpu), Bytes::mib(mib))
}

fn capacity(cpus: u32, overcommit: u32, mib: u64) -> Capacity {
    Capacity { cpu: MilliCpu::cpus(cpus), cpu_overcommit: Permille(overcommit), memory: Bytes::mib(mib) }
}

/// Two hosts of 2 CPUs (twice over) and 1 GiB; VM 1 and 2 at host 1, with 1 CPU and 256 MiB each.
fn table() -> AllocationTable {
    let mut table = AllocationTable::new();
    table.set_host(host(1), capacity(2, 2000, 1024)).unwrap();
    table.set_host(host(2), capacity(2, 2000, 1024)).unwrap();
    for n in 1..=2 {
        let bounds = Bounds { floor: amount(500, 128), ceiling: amount(2000, 768) };
        table.admit(vm(n), host(1), amount(1000, 256), bounds).unwrap();
    }
    table
}

fn after(vm: VmId, generation: u64, slices: &[(u8, Amount)]) -> Reservation {
    let after = slices.iter().map(|(n, amount)| (host(*n), *amount)).collect();
    Reservation { vm, generation: Generation(generation), after }
}

/// What a refusal says, as a line.
fn says<T: std::fmt::Debug>(result: Result<T, AllocationError>) -> String {
    format!("{}\n", result.unwrap_err())
}

fn loan(lender: u8, borrower: u8, amount: Amount) -> LoanRequest {
    let (ends_at, return_within) = (UnixMillis(10_000), Millis(500));
    LoanRequest { lender: vm(lender), borrower: vm(borrower), host: host(1), amount, ends_at, return_within }
}

#[test]
fn a_reservation_holds_the_larger_until_it_ends() {
    let mut table = table();
    table.reserve(morph(1), after(vm(1), 1, &[(1, amount(1500, 128))])).unwrap();
    assert_eq!(table.held(&host(1)), amount(2500, 512), "more CPU, and still the memory that it has");
    table.reserve(morph(1), after(vm(1), 1, &[(1, amount(1500, 128))])).unwrap();
    table.release(morph(1)).unwrap();
    assert_eq!(table.vm(vm(1)).unwrap().total(), amount(1000, 256));
    table.reserve(morph(2), after(vm(1), 2, &[(1, amount(1500, 128))])).unwrap();
    table.settle(morph(2)).unwrap();
    assert_eq!(table.held(&host(1)), amount(2500, 384));
    assert_eq!(table.free(&host(1)).unwrap(), amount(1500, 640));
    assert_eq!(table.check(), []);
    table.reserve(morph(3), after(vm(1), 3, &[(1, amount(1000, 256))])).unwrap();
    table.hold(morph(3)).unwrap();
    assert_eq!(
        table.vm(vm(1)).unwrap().total(),
        amount(1500, 256),
        "what was left half done holds the larger"
    );
    assert_eq!(table.check(), []);
}

#[test]
fn a_move_holds_both_places() {
    let mut table = table();
    table.reserve(morph(1), after(vm(1), 1, &[(2, amount(1000, 512))])).unwrap();
    assert_eq!((table.held(&host(1)), table.held(&host(2))), (amount(2000, 512), amount(1000, 512)));
    assert!(matches!(table.remove_host(&host(2)), Err(AllocationError::HostInUse { .. })));
    table.settle(morph(1)).unwrap();
    assert_eq!((table.held(&host(1)), table.held(&host(2))), (amount(1000, 256), amount(1000, 512)));
}

#[test]
fn refusals_say_what_binds_and_by_how_much() {
    let mut table = table();
    let mut said = String::new();
    let before = table.clone();
    let mut reserve = |slices: &[(u8, Amount)]| table.reserve(morph(1), after(vm(1), 1, slices));
    said += &says(reserve(&[(1, amount(1000, 800))]));
    said += &says(reserve(&[(1, amount(400, 256))]));
    said += &says(reserve(&[(1, amount(1000, 64))]));
    said += &says(reserve(&[(7, amount(1000, 256))]));
    said += &says(reserve(&[]));
    said += &says(table.admit(vm(3), host(1), amount(1000, 513), Bounds::NONE));
    said += &says(table.admit(vm(3), host(1), amount(2001, 1), Bounds::NONE));
    said += &says(table.admit(vm(1), host(1), amount(1, 1), Bounds::NONE));
    said += &says(table.set_host(host(1), capacity(2, 900, 1024)));
    said += &says(table.set_host(host(1), capacity(2, 2000, 500)));
    let floor = Bounds { floor: amount(1000, 300), ceiling: Amount::MAX };
    said += &says(table.set_bounds(vm(1), floor));
    let none = Bounds { floor: amount(2, 2), ceiling: amount(1, 3) };
    said += &says(table.set_bounds(vm(1), none));
    said += &says(table.release(morph(1)));
    assert_eq!(table, before, "what is refused changes nothing");
    expect![[r#"
        VM 00000000000000000000000000000001 would be 32 MiB of memory above its ceiling: 800 MiB of memory, of which 768 MiB of memory is the most
        VM 00000000000000000000000000000001 would be 0.1 CPU below its floor: 0.4 CPU, of which 0.5 CPU was promised
        VM 00000000000000000000000000000001 would be 64 MiB of memory below its floor: 64 MiB of memory, of which 128 MiB of memory was promised
        host host-7 is not in the allocation table
        VM 00000000000000000000000000000001 would be 0.5 CPU below its floor: 0 CPU, of which 0.5 CPU was promised
        host host-1 is short by 1 MiB of memory: 513 MiB of memory asked for, 512 MiB of memory to be had
        host host-1 is short by 0.001 CPU: 2.001 CPU asked for, 2 CPU to be had
        VM 00000000000000000000000000000001 is in the allocation table already
        host host-1 is short by 0.2 CPU: 2 CPU asked for, 1.8 CPU to be had
        host host-1 is short by 12 MiB of memory: 512 MiB of memory asked for, 500 MiB of memory to be had
        VM 00000000000000000000000000000001 would be 44 MiB of memory below its floor: 256 MiB of memory, of which 300 MiB of memory was promised
        VM 00000000000000000000000000000001 cannot have a floor of 0.002 CPU and a ceiling of 0.001 CPU
        morph 00000000000000000000000000000001 holds no reservation
    "#]].assert_eq(&said);
}

#[test]
fn one_morph_at_a_time_and_generations_only_rise() {
    let mut table = table();
    let mut said = String::new();
    let wanted = |generation| after(vm(1), generation, &[(1, amount(1500, 256))]);
    table.reserve(morph(1), wanted(5)).unwrap();
    said += &says(table.reserve(morph(2), wanted(6)));
    said += &says(table.reserve(morph(1), wanted(6)));
    said += &says(table.remove(vm(1)));
    table.release(morph(1)).unwrap();
    said += &says(table.reserve(morph(2), wanted(5)));
    table.reserve(morph(2), wanted(6)).unwrap();
    table.settle(morph(2)).unwrap();
    table.remove(vm(1)).unwrap();
    expect![[r#"
        VM 00000000000000000000000000000001 is in the hands of morph 00000000000000000000000000000001
        morph 00000000000000000000000000000001 holds another reservation
        VM 00000000000000000000000000000001 is in the hands of morph 00000000000000000000000000000001
        VM 00000000000000000000000000000001 is at generation g5, g5 is not newer
    "#]]
    .assert_eq(&said);
}

#[test]
fn loans_keep_floors_and_do_not_chain() {
    let mut table = table();
    let mut said = String::new();
    table.admit(vm(3), host(1), amount(1000, 256), Bounds::NONE).unwrap();
    let now = UnixMillis(1_000);
    said += &says(table.lend(loan(1, 2, amount(600, 0)), now));
    said += &says(table.lend(loan(3, 2, amount(1001, 0)), now));
    said += &says(table.lend(loan(1, 1, amount(1, 0)), now));
    said += &says(table.lend(loan(1, 2, Amount::ZERO), now));
    said += &says(table.lend(loan(1, 2, amount(1, 0)), UnixMillis(10_000)));
    let id = table.lend(loan(1, 2, amount(500, 64)), now).unwrap();
    assert_eq!(table.usable(vm(1)).unwrap(), amount(500, 192));
    assert_eq!(table.usable(vm(2)).unwrap(), amount(1500, 320));
    assert_eq!(table.held(&host(1)), amount(3000, 768), "a loan holds nothing more");
    said += &says(table.lend(loan(2, 3, amount(1, 0)), now));
    said += &says(table.lend(loan(3, 1, amount(1, 0)), now));
    said += &says(table.lend(loan(3, 2, amount(501, 0)), now));
    said += &says(table.remove(vm(2)));
    // The slice cannot shrink below what is lent and promised, nor move away from the loan.
    said += &says(table.reserve(morph(1), after(vm(1), 1, &[(1, amount(900, 256))])));
    said += &says(table.reserve(morph(1), after(vm(2), 1, &[(2, amount(1000, 256))])));
    assert_eq!(table.demand(id, UnixMillis(2_000)).unwrap(), UnixMillis(2_500));
    assert_eq!(table.demand(id, UnixMillis(2_400)).unwrap(), UnixMillis(2_500), "asking again wins no time");
    assert_eq!(table.overdue(UnixMillis(2_499)).count(), 0);
    assert_eq!(table.overdue(UnixMillis(2_500)).count(), 1);
    assert_eq!(table.check(), []);
    table.give_back(id).unwrap();
    assert_eq!(table.usable(vm(1)).unwrap(), amount(1000, 256));
    said += &says(table.give_back(id));
    expect![[r#"
        VM 00000000000000000000000000000001 would be 0.1 CPU below its floor: 0.4 CPU, of which 0.5 CPU was promised
        VM 00000000000000000000000000000003 cannot lend 1.001 CPU out of 1 CPU
        VM 00000000000000000000000000000001 cannot lend to itself
        a loan needs an amount
        a loan needs an end in the future
        VM 00000000000000000000000000000002 is on the other side of loan 1; loans do not chain
        VM 00000000000000000000000000000001 is on the other side of loan 1; loans do not chain
        VM 00000000000000000000000000000002 would be 0.001 CPU above its ceiling: 2.001 CPU, of which 2 CPU is the most
        VM 00000000000000000000000000000002 is party to loan 1
        VM 00000000000000000000000000000001 would be 0.1 CPU below its floor: 0.4 CPU, of which 0.5 CPU was promised
        VM 00000000000000000000000000000002 is party to loan 1
        loan 1 is not in the allocation table
    "#]].assert_eq(&said);
}

#[test]
fn a_table_that_was_changed_by_hand_is_found_out() {
    let mut json = serde_json::to_value(table()).unwrap();
    json["hosts"]["host-1"]["memory"] = 1.into();
    json["vms"][vm(2).to_string()]["bounds"]["floor"]["cpu"] = 1500.into();
    json["reservations"][morph(9).to_string()] =
        serde_json::json!({ "vm": vm(8), "generation": 1, "after": {} });
    let terms = LoanRequest { ends_at: UnixMillis(0), ..loan(1, 2, amount(1, 1)) };
    json["loans"]["1"] = serde_json::to_value(Loan { id: LoanId(1), terms, demanded_at: None }).unwrap();
    let table: AllocationTable = serde_json::from_value(json).unwrap();
    let broken: String = table.check().iter().map(|b| format!("{b}\n")).collect();
    expect![[r#"
        invariant 1: 512 MiB of memory of host host-1 is held, 1 B of memory may be
        invariant 2
        invariant 3: loan 1 has no term, no amount or no way back
        morph 00000000000000000000000000000009 holds a reservation that VM 00000000000000000000000000000008 does not allow
    "#]].assert_eq(&broken);
}

/// One thing that can be done to the table.
#[derive(Debug, Clone)]
enum Act {
    Host(u8, u32, u32, u64),
    DropHost(u8),
    Admit(u8, u8, Amount, Amount, Amount),
    Remove(u8),
    Bounds(u8, Amount, Amount),
    Reserve(u64, u8, u64, Vec<(u8, Amount)>),
    Settle(u64),
    Release(u64),
    Hold(u64),
    Lend(u8, u8, u8, Amount, u64, u64),
    Demand(u64, u64),
    GiveBack(u64),
}

fn any_amount(cpu: u32, mib: u64) -> impl Strategy<Value = Amount> {
    (0..=cpu, 0..=mib).prop_map(|(cpu, mib)| amount(cpu, mib))
}

fn act() -> impl Strategy<Value = Act> {
    let (vms, hosts, morphs) = (1u8..5, 1u8..4, 1u64..6);
    let slices = proptest::collection::vec((hosts.clone(), any_amount(3000, 700)), 0..3);
    prop_oneof![
        1 => (hosts.clone(), 0u32..5, 500u32..3000, 0u64..2000).prop_map(|(h, c, o, m)| Act::Host(h, c, o, m)),
        1 => hosts.clone().prop_map(Act::DropHost),
        4 => (vms.clone(), hosts.clone(), any_amount(2000, 500), any_amount(800, 200), any_amount(4000, 900))
            .prop_map(|(v, h, a, f, c)| Act::Admit(v, h, a, f, c)),
        1 => vms.clone().prop_map(Act::Remove),
        1 => (vms.clone(), any_amount(900, 200), any_amount(4000, 900)).prop_map(|(v, f, c)| Act::Bounds(v, f, c)),
        4 => (morphs.clone(), vms.clone(), 0u64..30, slices).prop_map(|(m, v, g, s)| Act::Reserve(m, v, g, s)),
        3 => morphs.clone().prop_map(Act::Settle),
        2 => morphs.clone().prop_map(Act::Release),
        1 => morphs.prop_map(Act::Hold),
        4 => (vms.clone(), vms, hosts, any_amount(900, 200), 0u64..100, 0u64..70_000)
            .prop_map(|(l, b, h, a, e, r)| Act::Lend(l, b, h, a, e, r)),
        1 => (1u64..8, 0u64..100).prop_map(|(l, n)| Act::Demand(l, n)),
        1 => (1u64..8).prop_map(Act::GiveBack),
    ]
}

/// Does it; the error, if any, is checked by the caller against an unchanged table.
fn perform(table: &mut AllocationTable, act: &Act) -> Result<(), AllocationError> {
    match act.clone() {
        Act::Host(h, cpus, overcommit, mib) => table.set_host(host(h), capacity(cpus, overcommit, mib)),
        Act::DropHost(h) => table.remove_host(&host(h)),
        Act::Admit(v, h, given, floor, ceiling) => {
            table.admit(vm(v), host(h), given, Bounds { floor, ceiling })
        }
        Act::Remove(v) => table.remove(vm(v)),
        Act::Bounds(v, floor, ceiling) => table.set_bounds(vm(v), Bounds { floor, ceiling }),
        Act::Reserve(m, v, generation, slices) => table.reserve(morph(m), after(vm(v), generation, &slices)),
        Act::Settle(m) => table.settle(morph(m)),
        Act::Release(m) => table.release(morph(m)),
        Act::Hold(m) => table.hold(morph(m)),
        Act::Lend(lender, borrower, h, amount, ends_at, way_back) => {
            let (ends_at, return_within) = (UnixMillis(ends_at), Millis(way_back));
            let (lender, borrower) = (vm(lender), vm(borrower));
            let request = LoanRequest { lender, borrower, host: host(h), amount, ends_at, return_within };
            table.lend(request, UnixMillis(50)).map(|_| ())
        }
        Act::Demand(l, now) => table.demand(LoanId(l), UnixMillis(now)).map(|_| ()),
        Act::GiveBack(l) => table.give_back(LoanId(l)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_sequence_of_acts_breaks_an_invariant(acts in proptest::collection::vec(act(), 1..80)) {
        let mut table = AllocationTable::new();
        for act in &acts {
            let before = table.clone();
            if perform(&mut table, act).is_err() {
                prop_assert_eq!(&table, &before, "a refused act changed the table: {:?}", act);
            }
            prop_assert_eq!(table.check(), [], "after {:?}", act);
        }
        // Every morph can be given up and every loan given back, in any state.
        let morphs: Vec<MorphId> = table.reservations().keys().copied().collect();
        for morph in morphs {
            let slices: Vec<_> = table.vms().values().map(|a| a.slices.clone()).collect();
            table.release(morph).unwrap();
            prop_assert_eq!(&slices, &table.vms().values().map(|a| a.slices.clone()).collect::<Vec<_>>());
            prop_assert_eq!(table.check(), []);
        }
        let loans: Vec<LoanId> = table.loans().map(|loan| loan.id).collect();
        for loan in loans {
            table.give_back(loan).unwrap();
            prop_assert_eq!(table.check(), []);
        }
        let text = serde_json::to_string(&table).unwrap();
        prop_assert_eq!(serde_json::from_str::<AllocationTable>(&text).unwrap(), table);
    }

    #[test]
    fn settling_gives_exactly_what_was_reserved(cpu in 500u32..2000, mib in 128u64..700) {
        let mut table = table();
        let wanted = amount(cpu, mib);
        table.reserve(morph(1), after(vm(1), 1, &[(1, wanted)])).unwrap();
        prop_assert_eq!(table.held(&host(1)), wanted.max(amount(1000, 256)).plus(amount(1000, 256)));
        table.settle(morph(1)).unwrap();
        prop_assert_eq!(table.vm(vm(1)).unwrap().total(), wanted);
        prop_assert_eq!(table.check(), []);
    }
}
