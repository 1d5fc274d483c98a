//! Finds the values within a JSON text without decoding them: whatever they hold, only their ends matter.

use serde::de::IgnoredAny;

/// The values of the array `items` of the object `text`; `None` if it is no object that has one.
///
/// Bytes that are no JSON end the row.
pub(super) fn items(text: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let mut rest = after(member(text, "items")?, b'[')?;
    Some(std::iter::from_fn(move || {
        let (value, behind) = split(rest)?;
        rest = after(behind, b',').unwrap_or_default();
        Some(value)
    }))
}

/// The value that the object `text` has under a key.
pub(super) fn member<'a>(text: &'a [u8], key: &str) -> Option<&'a [u8]> {
    let mut rest = after(text, b'{')?;
    loop {
        let (name, behind) = split(rest)?;
        let (value, behind) = split(after(behind, b':')?)?;
        if name.strip_prefix(b"\"").and_then(|name| name.strip_suffix(b"\"")) == Some(key.as_bytes()) {
            return Some(value);
        }
        rest = after(behind, b',')?;
    }
}

/// Splits the first value off.
fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.trim_ascii_start();
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
    values.next()?.ok()?;
    text.split_at_checked(values.byte_offset())
}

/// The text behind the byte that it has to begin with.
fn after(text: &[u8], byte: u8) -> Option<&[u8]> {
    text.trim_ascii_start().strip_prefix(&[byte])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_finds_values_whatever_they_hold() {
        let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
        let text = [
            &br#" {"a": {"items": [0]}, "items" : [ {"x":"]},"}, 1e999 ,"\ud800","#[..],
            b"\"\xff\" , ",
            &deep[..],
            b" ] , \"b\":1}",
        ]
        .concat();
        let found: Vec<&[u8]> = items(&text).unwrap().collect();
        let wanted: [&[u8]; 5] = [br#"{"x":"]},"}"#, b"1e999", br#""\ud800""#, b"\"\xff\"", &deep];
        assert_eq!(found, wanted);
        assert_eq!(items(br#"{"items":[]}"#).unwrap().count(), 0);
        for none in [&b""[..], b"[]", b"{}", br#"{"items":{}}"#, br#"{"items""#] {
            assert!(items(none).is_none(), "{none:?}");
        }
    }
}
