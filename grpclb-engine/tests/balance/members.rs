//! Which endpoints may be picked, and what is kept of them: subsets that fill up and shrink, snapshots, slow dials.

use std::time::Duration;

use grpclb_engine::Time;
use grpclb_engine::balance::{Member, MemberKey, Picker, Policy, Standing};
use grpclb_engine::rng::Rng;

use crate::{now, pick, service};

/// The first `count` of the pod's ranking, by failing them one after the other.
fn fail_first(picker: &mut Picker, rng: &mut Rng, count: usize) -> Vec<MemberKey> {
    (0..count)
        .map(|_| {
            let first = picker.picked().next().expect("one may be picked").0;
            picker.fail(first, now(), rng);
            first
        })
        .collect()
}

#[test]
fn subset_is_filled_up_until_every_endpoint_has_failed() {
    for (subset, endpoints) in [(1, 10), (4, 10), (20, 300)] {
        let mut service = service(Policy::RoundRobin, &vec![1; endpoints]);
        service.subset = subset;
        let (mut picker, mut rng) = (Picker::new(&service, 3), Rng::seeded(5));
        for failed in 0..endpoints {
            assert_eq!(picker.picked().count(), subset.min(endpoints - failed));
            fail_first(&mut picker, &mut rng, 1);
        }
        assert_eq!(picker.picked().count(), 0);
        assert_eq!(picker.pick(now(), &mut rng, &[], |_| Standing::Absent), None);
        // Their time is over for all of them: no more return at once than the subset has places.
        let later = now() + Duration::from_secs(2);
        assert!(picker.pick(later, &mut rng, &[], |_| Standing::Absent).is_some());
        assert_eq!(picker.picked().count(), subset);
    }
}

#[test]
fn members_shrink_to_the_subset_after_a_recovery_and_loads_stay_right() {
    let mut service = service(Policy::LeastRequest, &[1; 10]);
    service.subset = 2;
    let (mut picker, mut rng) = (Picker::new(&service, 3), Rng::seeded(5));
    let first: Vec<MemberKey> = picker.picked().map(|(key, _)| key).collect();
    let failed = fail_first(&mut picker, &mut rng, 2);
    assert_eq!(failed, first);
    let stand_ins: Vec<MemberKey> = picker.picked().map(|(key, _)| key).collect();
    for &key in &stand_ins {
        picker.start(key);
        picker.start_opaque(key);
    }
    for &key in &failed {
        picker.connected(key, now());
    }
    assert_eq!(picker.picked().map(|(key, _)| key).collect::<Vec<_>>(), first);
    assert_eq!(picker.members().count(), 2);
    // What runs on the stand-ins is counted on, and is there when they are needed again.
    for &key in &stand_ins {
        picker.finish_opaque(key);
    }
    let again = fail_first(&mut picker, &mut rng, 2);
    assert_eq!(again, first);
    for (key, member) in picker.picked() {
        assert!(stand_ins.contains(&key));
        assert_eq!(
            (member.load().in_flight(), member.picks(), member.opaque()),
            (1, 2, 0)
        );
    }
}

#[test]
fn snapshots_change_no_state_of_the_endpoints_in_them() {
    let mut service = service(Policy::RoundRobin, &[1; 30]);
    service.subset = 4;
    let (mut picker, mut rng) = (Picker::new(&service, 3), Rng::seeded(5));
    for _ in 0..10 {
        let member = pick(&mut picker, &mut rng);
        picker.start(member);
    }
    fail_first(&mut picker, &mut rng, 3);
    let state = |picker: &Picker| -> Vec<(MemberKey, u32, u64, u32, Option<Time>)> {
        let of = |(key, member): (MemberKey, &Member)| {
            (
                key,
                member.load().in_flight(),
                member.picks(),
                member.backoff().failures(),
                member.out_until(now()),
            )
        };
        picker.members().map(of).collect()
    };
    let before = state(&picker);
    assert_eq!(before.len(), 7);
    for _ in 0..2 {
        picker.update(now(), &service);
        assert_eq!(state(&picker), before);
    }
}

#[test]
fn endpoint_that_comes_back_while_its_calls_run_has_them_counted() {
    let whole = service(Policy::LeastRequest, &[1, 1]);
    let mut less = whole.clone();
    less.endpoints = whole.endpoints[1..].into();
    let (mut picker, mut rng) = (Picker::new(&whole, 3), Rng::seeded(5));
    let key = picker.find(&whole.endpoints[0]).expect("a member");
    picker.start(key);
    picker.start(key);
    picker.fail(key, now(), &mut rng);
    picker.update(now(), &less);
    assert!(!picker.is_used(key));
    picker.finish(key);
    picker.update(now(), &whole);
    let member = picker.get(key).expect("it is known");
    assert!(picker.is_used(key));
    assert_eq!((member.load().in_flight(), member.backoff().failures()), (1, 1));
    // Without calls it is forgotten.
    picker.update(now(), &less);
    picker.finish(key);
    assert!(picker.get(key).is_none());
}

#[test]
fn endpoint_whose_dial_is_slow_is_picked_only_when_no_other_may_be() {
    let (mut picker, mut rng) = (
        Picker::new(&service(Policy::RoundRobin, &[1, 1]), 3),
        Rng::seeded(5),
    );
    let keys: Vec<_> = picker.members().map(|(key, _)| key).collect();
    picker.suspend(keys[0], now(), now() + Duration::from_secs(19));
    for _ in 0..10 {
        assert_eq!(pick(&mut picker, &mut rng), keys[1]);
    }
    picker.fail(keys[1], now(), &mut rng);
    assert_eq!(pick(&mut picker, &mut rng), keys[0]);
    assert!(!picker.connected(keys[0], now()), "it had not failed");
    assert!(!picker.has_other(now(), keys[0]));
    assert!(picker.connected(keys[1], now() + Duration::from_secs(1)));
    assert!(picker.has_other(now(), keys[0]));
}

#[test]
fn snapshot_that_has_an_endpoint_twice_counts_it_once() {
    let mut twice = service(Policy::RoundRobin, &[1, 1]);
    twice.endpoints = [&twice.endpoints[..], &twice.endpoints[..]].concat().into();
    let mut picker = Picker::new(&twice, 3);
    for _ in 0..3 {
        picker.update(now(), &twice);
        assert_eq!(picker.members().count(), 2);
    }
}
