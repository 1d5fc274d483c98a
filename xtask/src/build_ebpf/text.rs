//! Makes bpftool print our text fields as text.
//!
//! bpftool prints an array as a string if its elements are of a one-byte integer called `char`. Rust has none of that name:
//! the fields are `[i8; N]`. So `i8` is called `char` in the object's BTF (the kernel's "BPF Type Format"): the name is
//! added to the strings, and a longer copy of the section is put at the end of the file.

use anyhow::{Context, Result, ensure};

const SECTION: &[u8] = b".BTF\0";
const NAME: &[u8] = b"char\0";
const KIND_INT: u32 = 1;

/// The object with `i8` called `char`; unchanged if it has no such type.
pub(super) fn show_as_text(mut object: Vec<u8>) -> Result<Vec<u8>> {
    let (header, start, length) = section(&object)?;
    let mut btf = object
        .get(start..start + length)
        .context("the section lies outside the file")?
        .to_vec();
    let (types, strings, strings_length) = layout(&btf)?;
    ensure!(
        strings + strings_length == btf.len(),
        "the strings are not at the end"
    );
    let Some(place) = find_i8(&btf, types, strings)? else {
        return Ok(object);
    };

    write_u32(&mut btf, place, strings_length as u32)?;
    write_u32(&mut btf, 20, (strings_length + NAME.len()) as u32)?;
    btf.extend_from_slice(NAME);

    object.resize(object.len().next_multiple_of(8), 0);
    let moved_to = object.len() as u64;
    object
        .get_mut(header + 24..header + 32)
        .context("short file")?
        .copy_from_slice(&moved_to.to_le_bytes());
    let grown = btf.len() as u64;
    object
        .get_mut(header + 32..header + 40)
        .context("short file")?
        .copy_from_slice(&grown.to_le_bytes());
    object.extend_from_slice(&btf);
    Ok(object)
}

/// Where the header of `.BTF` lies in this ELF file (64 bits, little endian), and where the section lies and how long it is.
fn section(elf: &[u8]) -> Result<(usize, usize, usize)> {
    ensure!(
        elf.starts_with(b"\x7fELF\x02\x01"),
        "not an ELF file of 64 bits, little endian"
    );
    let headers = u64_at(elf, 40)?;
    let (size, count, names) = (u16_at(elf, 58)?, u16_at(elf, 60)?, u16_at(elf, 62)?);
    let names = u64_at(elf, headers + names * size + 24)?;
    for header in (0..count).map(|index| headers + index * size) {
        let name = names + u32_at(elf, header)?;
        if elf.get(name..name + SECTION.len()) == Some(SECTION) {
            return Ok((header, u64_at(elf, header + 24)?, u64_at(elf, header + 32)?));
        }
    }
    anyhow::bail!("no section .BTF: was it linked with --btf?")
}

/// `struct btf_header`: where the types and the strings begin, and how long the strings are.
fn layout(btf: &[u8]) -> Result<(usize, usize, usize)> {
    ensure!(btf.starts_with(&[0x9f, 0xeb]), "no BTF");
    let header = u32_at(btf, 4)?;
    Ok((
        header + u32_at(btf, 8)?,
        header + u32_at(btf, 16)?,
        u32_at(btf, 20)?,
    ))
}

/// Where the name of the integer type `i8` stands: the first word of its `struct btf_type`.
fn find_i8(btf: &[u8], mut at: usize, strings: usize) -> Result<Option<usize>> {
    while at < strings {
        let name = strings + u32_at(btf, at)?;
        let info = u32_at(btf, at + 4)? as u32;
        let (kind, members) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
        if kind == KIND_INT && btf.get(name..name + 3) == Some(b"i8\0") {
            return Ok(Some(at));
        }
        at += 12 + trailing(kind, members)?;
    }
    Ok(None)
}

/// How many bytes follow a `struct btf_type` of this kind (Documentation/bpf/btf.rst of the kernel).
fn trailing(kind: u32, members: usize) -> Result<usize> {
    Ok(match kind {
        // Pointers, forward declarations, typedefs, qualifiers, functions, floats, type tags.
        2 | 7..=12 | 16 | 18 => 0,
        // Integers, variables, declaration tags.
        1 | 14 | 17 => 4,
        // Arrays.
        3 => 12,
        // Structs, unions, data sections, 64-bit enums.
        4 | 5 | 15 | 19 => 12 * members,
        // Enums, prototypes.
        6 | 13 => 8 * members,
        other => anyhow::bail!("unknown kind {other}"),
    })
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> Result<[u8; N]> {
    let bytes = from
        .get(at..at + N)
        .with_context(|| format!("ends before byte {at}"))?;
    Ok(bytes.try_into()?)
}

fn u16_at(from: &[u8], at: usize) -> Result<usize> {
    Ok(u16::from_le_bytes(bytes(from, at)?).into())
}

fn u32_at(from: &[u8], at: usize) -> Result<usize> {
    Ok(u32::from_le_bytes(bytes(from, at)?) as usize)
}

fn u64_at(from: &[u8], at: usize) -> Result<usize> {
    Ok(usize::try_from(u64::from_le_bytes(bytes(from, at)?))?)
}

fn write_u32(to: &mut [u8], at: usize, value: u32) -> Result<()> {
    to.get_mut(at..at + 4)
        .context("short section")?
        .copy_from_slice(&value.to_le_bytes());
    Ok(())
}
