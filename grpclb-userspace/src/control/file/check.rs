//! Checks of single values: a number in its range, a word that is known, an address that can be dialled.
//!
//! A value that is wrong is noted and replaced by a harmless one, so that the rest is checked too.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use serde_saphyr::{Location, Spanned};

use super::problem::Collector;

/// Ports that can be dialled.
pub(super) const PORTS: RangeInclusive<i64> = 1..=65_535;

/// A list that must be there and have entries; `expected` says what an entry is.
pub(super) fn list<'v, T>(
    problems: &mut Collector,
    key: &str,
    place: Location,
    written: Option<&'v Spanned<Vec<T>>>,
    expected: &str,
) -> &'v [T] {
    match written {
        None => missing(problems, key, place, &format!("a list of {expected}")),
        Some(list) if list.value.is_empty() => {
            problems.add(
                list.referenced,
                key,
                format!("the list is empty: expected {expected}"),
            );
        }
        Some(list) => return &list.value,
    }
    &[]
}

/// Notes that a key is not there; `place` is where the thing begins that should have it.
pub(super) fn missing(problems: &mut Collector, key: &str, place: Location, expected: &str) {
    problems.add(place, key, format!("is missing: expected {expected}"));
}

/// A number within a range; 0 when it is not.
pub(super) fn number(
    problems: &mut Collector,
    key: &str,
    written: &Spanned<i64>,
    range: &RangeInclusive<i64>,
) -> u32 {
    if range.contains(&written.value) {
        return u32::try_from(written.value).unwrap_or(u32::MAX);
    }
    let message = format!(
        "{} is out of range: expected {} to {}",
        written.value,
        range.start(),
        range.end()
    );
    problems.add(written.referenced, key, message);
    0
}

/// A port; 0 when it is none.
pub(super) fn port(problems: &mut Collector, key: &str, written: &Spanned<i64>) -> u16 {
    u16::try_from(number(problems, key, written, &PORTS)).unwrap_or(0)
}

/// One of a few words; the default where none is written.
pub(super) fn word<T: Copy + Default>(
    problems: &mut Collector,
    key: &str,
    written: Option<&Spanned<String>>,
    words: &[(&str, T)],
) -> T {
    let Some(written) = written else {
        return T::default();
    };
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == written.value) {
        return *value;
    }
    let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let message = format!(
        "`{}` is not known: expected one of `{}`",
        written.value,
        names.join("`, `")
    );
    problems.add(written.referenced, key, message);
    T::default()
}

/// An address that can be dialled from any pod.
pub(super) fn address(problems: &mut Collector, key: &str, written: &Spanned<String>) -> Option<IpAddr> {
    let Ok(ip) = written.value.parse::<IpAddr>() else {
        let message = format!(
            "`{}` is no IP address: expected one such as 10.96.7.1 or fd00::1",
            written.value
        );
        problems.add(written.referenced, key, message);
        return None;
    };
    let fault = match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "an IPv4 address in IPv6 form: write it as IPv4",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            "link-local: it cannot be dialled without an interface"
        }
        ip if ip.is_unspecified() => "the unspecified address: it cannot be dialled",
        ip if ip.is_multicast() => "a multicast address: TCP cannot dial it",
        ip if ip.is_loopback() => "a loopback address: it is another place in each pod",
        _ => return Some(ip),
    };
    problems.add(written.referenced, key, format!("`{ip}` is {fault}"));
    None
}
