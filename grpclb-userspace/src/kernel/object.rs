//! The kernel programs' object: embedded at build time, checked before it is loaded.

use grpclb_abi::{ABI_SECTION, ABI_VERSION};
use object::{Object as _, ObjectSection as _};

use super::{Error, Result};

/// What build.rs found; empty if it found nothing. Aligned, as an ELF file's parser wants it.
static EMBEDDED: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/grpclb.bpf.o"));

/// The embedded object.
pub(super) fn embedded() -> Result<&'static [u8]> {
    if EMBEDDED.is_empty() {
        Err(Error::NoObject)
    } else {
        Ok(EMBEDDED)
    }
}

/// Refuses an object that speaks another ABI version than this agent: it would read the maps wrongly.
pub(super) fn check_abi(object: &[u8]) -> Result<()> {
    match abi_version(object) {
        Some(ABI_VERSION) => Ok(()),
        found => Err(Error::AbiMismatch {
            found,
            expected: ABI_VERSION,
        }),
    }
}

fn abi_version(object: &[u8]) -> Option<u32> {
    let file = object::File::parse(object).ok()?;
    let data = file.section_by_name(ABI_SECTION)?.data().ok()?;
    Some(u32::from_le_bytes(data.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_object_has_no_version() {
        for bytes in [&b""[..], b"\x7fELF", &[0; 64]] {
            assert!(matches!(
                check_abi(bytes),
                Err(Error::AbiMismatch { found: None, .. })
            ));
        }
    }
}
