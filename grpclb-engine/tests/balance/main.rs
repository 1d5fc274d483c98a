//! How calls spread: each policy against its expected distribution, weights, subsets, and who is left out. Seeds are
//! fixed, so that bounds are exact and a failure repeats.

mod members;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use grpclb_engine::Time;
use grpclb_engine::balance::{Endpoint, MemberKey, Picker, Policy, Service, Standing, State};
use grpclb_engine::rng::Rng;

fn endpoint(n: usize, weight: u32) -> Endpoint {
    Endpoint {
        id: format!("pod-{n}").into(),
        address: SocketAddr::from(([10, 1, (n >> 8) as u8, n as u8], 50051)),
        weight,
        state: State::Ready,
    }
}

fn service(policy: Policy, weights: &[u32]) -> Service {
    Service {
        name: "test".into(),
        policy,
        subset: 20,
        per_connection: false,
        endpoints: weights
            .iter()
            .enumerate()
            .map(|(n, &weight)| endpoint(n, weight))
            .collect(),
    }
}

fn now() -> Time {
    Time::ZERO + Duration::from_secs(1000)
}

/// Which endpoint a member is.
fn number(picker: &Picker, key: MemberKey) -> usize {
    let id = &picker.get(key).expect("it is there").endpoint().id;
    id.trim_start_matches("pod-").parse().expect("it is there")
}

fn pick(picker: &mut Picker, rng: &mut Rng) -> MemberKey {
    picker
        .pick(now(), rng, &[], |_| Standing::Room)
        .expect("it is there")
        .member
}

/// Picks for calls that end at once.
fn counts(policy: Policy, weights: &[u32], picks: usize) -> Vec<usize> {
    let (mut picker, mut rng) = (Picker::new(&service(policy, weights), 3), Rng::seeded(5));
    let mut counts = vec![0; weights.len()];
    for _ in 0..picks {
        let member = pick(&mut picker, &mut rng);
        counts[number(&picker, member)] += 1;
    }
    counts
}

/// Pearson's statistic of `counts` against shares in proportion to `weights`.
fn chi_square(counts: &[usize], weights: &[u32]) -> f64 {
    let (picks, total): (usize, u32) = (counts.iter().sum(), weights.iter().sum());
    let expected = |weight: u32| picks as f64 * f64::from(weight) / f64::from(total);
    counts
        .iter()
        .zip(weights)
        .map(|(&n, &w)| (n as f64 - expected(w)).powi(2) / expected(w))
        .sum()
}

#[test]
fn round_robin_is_exact_in_every_round_whatever_the_weights() {
    for weights in [
        &[1, 1, 1][..],
        &[5, 1, 1],
        &[3, 7, 2, 1],
        &[100, 1],
        &[65_535, 65_535],
    ] {
        let round: u32 = weights.iter().sum::<u32>().min(200_000);
        let picked = counts(Policy::RoundRobin, weights, round as usize);
        assert_eq!(
            picked,
            weights.iter().map(|&weight| weight as usize).collect::<Vec<_>>()
        );
    }
}

#[test]
fn round_robin_interleaves_smoothly() {
    let (mut picker, mut rng) = (
        Picker::new(&service(Policy::RoundRobin, &[4, 1, 1]), 3),
        Rng::seeded(5),
    );
    let turns: Vec<usize> = (0..12)
        .map(|_| {
            let member = pick(&mut picker, &mut rng);
            number(&picker, member)
        })
        .collect();
    let longest = turns
        .chunk_by(|a, b| a == b)
        .map(<[usize]>::len)
        .max()
        .expect("it is there");
    assert!(longest <= 3, "{turns:?}");
    assert_eq!(turns[..6].iter().filter(|&&n| n == 0).count(), 4);
}

/// An application that asks for a light thing and then for a heavy one, each time: over two endpoints, or four, a fixed order
/// would give all that is heavy to one half of them.
#[test]
fn round_robin_does_not_give_each_of_two_alternating_kinds_of_calls_its_own_half() {
    for endpoints in [2, 4, 12] {
        let (mut picker, mut rng) = (
            Picker::new(&service(Policy::RoundRobin, &vec![1; endpoints]), 3),
            Rng::seeded(5),
        );
        let mut heavy = vec![0; endpoints];
        for _ in 0..1000 * endpoints {
            let _light = pick(&mut picker, &mut rng);
            let member = pick(&mut picker, &mut rng);
            heavy[number(&picker, member)] += 1;
        }
        // A fair share is 1000; its standard deviation is below 30 where halves are drawn.
        assert!(heavy.iter().all(|calls| (900..1100).contains(calls)), "{heavy:?}");
    }
}

#[test]
fn random_picks_follow_the_weights() {
    // Four degrees of freedom: 99.9 % of fair draws lie below 18.47.
    for weights in [[1, 1, 1, 1, 1], [5, 4, 3, 2, 1], [1, 100, 1, 1, 1]] {
        let chi = chi_square(&counts(Policy::Random, &weights, 20_000), &weights);
        assert!(chi < 18.47, "{weights:?}: {chi}");
    }
}

#[test]
fn without_load_two_choices_follow_the_weights_of_two_endpoints() {
    for policy in [Policy::LeastRequest, Policy::PeakEwma] {
        let chi = chi_square(&counts(policy, &[1, 1, 1, 1], 20_000), &[1, 1, 1, 1]);
        assert!(chi < 16.27, "{policy}: {chi}");
        let picked = counts(policy, &[3, 1], 20_000);
        assert!((14_700..15_300).contains(&picked[0]), "{policy}: {picked:?}");
    }
}

#[test]
fn least_request_keeps_calls_in_flight_level_and_in_proportion_to_weights() {
    for weights in [&[1, 1, 1, 1][..], &[4, 2, 1]] {
        let (mut picker, mut rng) = (
            Picker::new(&service(Policy::LeastRequest, weights), 3),
            Rng::seeded(5),
        );
        for _ in 0..7000 {
            let member = pick(&mut picker, &mut rng);
            picker.start(member);
        }
        let total: u32 = weights.iter().sum();
        for (key, member) in picker.members() {
            let weight = weights[number(&picker, key)];
            let expected = f64::from(7000 * weight / total);
            let found = f64::from(member.load().in_flight());
            assert!(
                (found - expected).abs() < expected * 0.02 + 10.0,
                "{weights:?}: {found} where {expected} is due"
            );
        }
    }
}

#[test]
fn peak_ewma_leaves_a_slow_endpoint_mostly_alone_and_comes_back_to_it() {
    let (mut picker, mut rng) = (
        Picker::new(&service(Policy::PeakEwma, &[1, 1, 1]), 3),
        Rng::seeded(5),
    );
    let mut time = now();
    let mut run = |picker: &mut Picker, slow: Option<usize>, time: &mut Time| {
        let mut counts = [0; 3];
        for _ in 0..3000 {
            let member = picker
                .pick(*time, &mut rng, &[], |_| Standing::Room)
                .expect("it is there")
                .member;
            let n = number(picker, member);
            counts[n] += 1;
            picker.start(member);
            let took = Duration::from_millis(if Some(n) == slow { 200 } else { 2 });
            *time += Duration::from_millis(2);
            picker.succeed(member, *time, took);
            picker.finish(member);
        }
        counts
    };
    let with_slow = run(&mut picker, Some(1), &mut time);
    assert!(with_slow[1] < 100, "{with_slow:?}");
    time += Duration::from_mins(2);
    run(&mut picker, None, &mut time);
    let again = run(&mut picker, None, &mut time);
    assert!(again.iter().all(|&n| n > 600), "{again:?}");
}

#[test]
fn an_endpoint_without_room_is_passed_over_but_wanted() {
    let (mut picker, mut rng) = (
        Picker::new(&service(Policy::RoundRobin, &[1, 1, 1]), 3),
        Rng::seeded(5),
    );
    let keys: Vec<_> = picker.members().map(|(key, _)| key).collect();
    let mut wanted = BTreeSet::new();
    for _ in 0..9 {
        let standing = |key| {
            if key == keys[2] {
                Standing::Room
            } else {
                Standing::Absent
            }
        };
        let choice = picker.pick(now(), &mut rng, &[], standing).expect("it is there");
        assert_eq!((choice.member, choice.standing), (keys[2], Standing::Room));
        wanted.extend(choice.wanted.map(|key| number(&picker, key)));
    }
    assert!(!wanted.is_empty());
    // When they are there, they get what they missed, but not as a flood.
    let mut row = 0;
    while pick(&mut picker, &mut rng) != keys[2] {
        row += 1;
    }
    // Four rounds of credit on one side, as many of debt on the other, two others.
    assert!((2..=24).contains(&row), "{row} calls in a row for others");
}

#[test]
fn a_member_to_avoid_is_taken_only_when_there_is_nobody_else() {
    for policy in Policy::ALL {
        let (mut picker, mut rng) = (Picker::new(&service(policy, &[1, 1]), 3), Rng::seeded(5));
        let keys: Vec<_> = picker.members().map(|(key, _)| key).collect();
        for _ in 0..50 {
            let choice = picker
                .pick(now(), &mut rng, &keys[..1], |_| Standing::Room)
                .expect("it is there");
            assert_eq!(choice.member, keys[1], "{policy}");
        }
        assert!(
            picker.pick(now(), &mut rng, &keys, |_| Standing::Room).is_some(),
            "{policy}"
        );
    }
}

#[test]
fn failed_members_are_out_and_the_next_in_rank_moves_up() {
    let mut of_thirty = service(Policy::RoundRobin, &[1; 30]);
    of_thirty.subset = 4;
    let (mut picker, mut rng) = (Picker::new(&of_thirty, 3), Rng::seeded(5));
    assert_eq!(picker.members().count(), 4);
    let failed = pick(&mut picker, &mut rng);
    let until = picker.fail(failed, now(), &mut rng).expect("it is there");
    assert_eq!(picker.members().count(), 5);
    for _ in 0..40 {
        assert_ne!(pick(&mut picker, &mut rng), failed);
    }
    let picked: BTreeSet<usize> = (0..5)
        .map(|_| {
            let member = picker
                .pick(until, &mut rng, &[], |_| Standing::Room)
                .expect("it is there")
                .member;
            number(&picker, member)
        })
        .collect();
    assert!(
        picked.contains(&number(&picker, failed)),
        "its time is over: {picked:?}"
    );
}

#[test]
fn when_all_are_out_one_a_second_is_tried() {
    let (mut picker, mut rng) = (
        Picker::new(&service(Policy::RoundRobin, &[1, 1]), 3),
        Rng::seeded(5),
    );
    let keys: Vec<_> = picker.members().map(|(key, _)| key).collect();
    for _ in 0..5 {
        for &key in &keys {
            picker.fail(key, now(), &mut rng);
        }
    }
    assert_eq!(picker.pick(now(), &mut rng, &[], |_| Standing::Absent), None);
    assert!(
        picker
            .pick(now() + Duration::from_secs(1), &mut rng, &[], |_| {
                Standing::Absent
            })
            .is_some()
    );
}

#[test]
fn when_a_member_leaves_nothing_but_its_place_changes() {
    let weights = vec![1; 100];
    let mut whole = service(Policy::RoundRobin, &weights);
    whole.subset = 20;
    for seed in 0..50 {
        let members = |service: &Service| -> BTreeSet<usize> {
            let picker = Picker::new(service, seed);
            picker.members().map(|(key, _)| number(&picker, key)).collect()
        };
        let before = members(&whole);
        assert_eq!(before.len(), 20);
        for &gone in &before {
            let mut less = whole.clone();
            less.endpoints = whole
                .endpoints
                .iter()
                .filter(|one| *one.id != *format!("pod-{gone}"))
                .cloned()
                .collect();
            let after = members(&less);
            assert_eq!(after.len(), 20, "topped up");
            assert_eq!(before.difference(&after).copied().collect::<Vec<_>>(), [gone]);
        }
    }
}

#[test]
fn subsets_of_many_pods_load_all_endpoints_alike_and_begin_with_different_ones() {
    let mut whole = service(Policy::RoundRobin, &[1; 100]);
    whole.subset = 10;
    let (mut used, mut first) = (BTreeMap::<usize, usize>::new(), BTreeMap::<usize, usize>::new());
    for seed in 0..2000 {
        let (mut picker, mut rng) = (Picker::new(&whole, seed), Rng::seeded(seed));
        for (key, _) in picker.members() {
            *used.entry(number(&picker, key)).or_default() += 1;
        }
        let member = pick(&mut picker, &mut rng);
        *first.entry(number(&picker, member)).or_default() += 1;
    }
    // 99 degrees of freedom: 99.9 % lie below 148.2. (Members of a subset exclude each other, which only lowers it.)
    let values =
        |counts: &BTreeMap<usize, usize>| (0..100).map(|n| counts.get(&n).copied().unwrap_or(0)).collect();
    let (used, first): (Vec<usize>, Vec<usize>) = (values(&used), values(&first));
    assert!(chi_square(&used, &[1; 100]) < 148.2, "{used:?}");
    assert!(chi_square(&first, &[1; 100]) < 148.2, "{first:?}");
}

#[test]
fn an_update_keeps_keys_and_turns_of_those_that_stay() {
    let (mut picker, mut rng) = (
        Picker::new(&service(Policy::RoundRobin, &[1, 1, 1]), 3),
        Rng::seeded(5),
    );
    let before: BTreeMap<usize, MemberKey> = picker
        .members()
        .map(|(key, _)| (number(&picker, key), key))
        .collect();
    let first = pick(&mut picker, &mut rng);
    picker.update(now(), &service(Policy::RoundRobin, &[1, 1, 1, 1]));
    for (key, _) in picker.members() {
        let n = number(&picker, key);
        assert!(n == 3 || before[&n] == key);
    }
    assert_ne!(pick(&mut picker, &mut rng), first, "it has had its turn");
    let gone = before[&0];
    let mut rest = service(Policy::RoundRobin, &[1, 1, 1]);
    rest.endpoints = rest.endpoints[1..].into();
    picker.update(now(), &rest);
    assert!(picker.get(gone).is_none(), "a key of one that left names nobody");
}

/// Weights come from the API, and may be as large as their type.
#[test]
fn weights_of_any_size_neither_overflow_nor_starve_anybody() {
    let weights = [u32::MAX; 3000];
    for policy in Policy::ALL {
        let few = counts(policy, &[u32::MAX, u32::MAX, 1, 0], 1000);
        assert!(few[0] > 400 && few[1] > 400, "{policy}: {few:?}");
        let mut service = service(policy, &weights);
        service.subset = usize::MAX;
        let (mut picker, mut rng) = (Picker::new(&service, 3), Rng::seeded(5));
        let mut picked = BTreeSet::new();
        for _ in 0..300 {
            let member = pick(&mut picker, &mut rng);
            picker.start(member);
            picker.succeed(member, now(), Duration::MAX);
            picked.insert(number(&picker, member));
        }
        assert!(picked.len() > 200, "{policy}: {} endpoints", picked.len());
    }
}
