//! Which shared libraries a program needs, read from the program itself (System V ABI, "Dynamic Section"), so that
//! an image is checked without being run. 64-bit little-endian only: that is what guests here run.

use super::{ImageError, file_error};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
/// Where Debian keeps libraries, inside a tree.
const LIBRARY_DIRS: [&str; 6] = [
    "usr/lib/x86_64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "usr/lib64",
    "lib64",
    "usr/lib",
    "usr/lib/x86_64-linux-gnu/systemd",
];

fn number<const N: usize>(data: &[u8], at: u64) -> Option<[u8; N]> {
    let at = usize::try_from(at).ok()?;
    data.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(data: &[u8], at: u64) -> Option<u16> {
    number(data, at).map(u16::from_le_bytes)
}

fn u32_at(data: &[u8], at: u64) -> Option<u32> {
    number(data, at).map(u32::from_le_bytes)
}

fn u64_at(data: &[u8], at: u64) -> Option<u64> {
    number(data, at).map(u64::from_le_bytes)
}

fn text_at(data: &[u8], at: u64) -> Option<String> {
    let rest = data.get(usize::try_from(at).ok()?..)?;
    let end = rest.iter().position(|b| *b == 0)?;
    String::from_utf8(rest[..end].to_vec()).ok()
}

/// A part of a program: type, place in the file, address, size in the file.
struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    bytes: u64,
}

fn segments(data: &[u8]) -> Option<Vec<Segment>> {
    if !data.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, entry, count) = (u64_at(data, 32)?, u16_at(data, 54)?, u16_at(data, 56)?);
    let read = |index: u16| {
        let at = table.checked_add(u64::from(index) * u64::from(entry))?;
        let field = |offset| u64_at(data, at.checked_add(offset)?);
        Some(Segment { kind: u32_at(data, at)?, offset: field(8)?, address: field(16)?, bytes: field(32)? })
    };
    (0..count).map(read).collect()
}

/// What a program asks the loader for; `None`: it is no program of this kind.
fn needed(data: &[u8]) -> Option<Vec<String>> {
    let segments = segments(data)?;
    let Some(dynamic) = segments.iter().find(|s| s.kind == PT_DYNAMIC) else { return Some(Vec::new()) };
    let entries: Vec<(u64, u64)> = (0..dynamic.bytes / 16)
        .map_while(|i| {
            Some((u64_at(data, dynamic.offset + 16 * i)?, u64_at(data, dynamic.offset + 16 * i + 8)?))
        })
        .take_while(|(tag, _)| *tag != 0)
        .collect();
    let address = entries.iter().find(|(tag, _)| *tag == DT_STRTAB)?.1;
    let holder = segments
        .iter()
        .find(|s| s.kind == PT_LOAD && address >= s.address && address - s.address < s.bytes)?;
    let strings = holder.offset + (address - holder.address);
    let names = entries.iter().filter(|(tag, _)| *tag == DT_NEEDED);
    names.map(|(_, at)| text_at(data, strings.checked_add(*at)?)).collect()
}

/// Whether a program runs without a loader.
pub fn is_static(program: &Path) -> Result<bool, ImageError> {
    let data = std::fs::read(program).map_err(file_error("read", program))?;
    Ok(segments(&data).is_some_and(|s| s.iter().all(|s| s.kind != PT_INTERP)))
}

/// Where a library lies in a tree. Links are followed inside the tree only as far as one step: Debian's are `a → b`
/// in one folder.
fn find_library(tree: &Path, name: &str) -> Option<PathBuf> {
    LIBRARY_DIRS.iter().map(|dir| tree.join(dir).join(name)).find(|path| path.symlink_metadata().is_ok())
}

/// All libraries that a program in a tree needs, by their paths in the tree as they are asked for.
pub fn libraries(tree: &Path, program: &str) -> Result<BTreeSet<PathBuf>, ImageError> {
    let mut found = BTreeSet::new();
    let mut open = vec![tree.join(program.trim_start_matches('/'))];
    while let Some(file) = open.pop() {
        let data = std::fs::read(&file).map_err(file_error("read", &file))?;
        for library in needed(&data).unwrap_or_default() {
            let missing = || ImageError::NoLibrary { program: program.to_owned(), library: library.clone() };
            let path = find_library(tree, &library).ok_or_else(missing)?;
            if found.insert(path.clone()) {
                open.push(path);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_needs_libc_and_has_a_loader() {
        let me = std::env::current_exe().unwrap();
        let names = needed(&std::fs::read(&me).unwrap()).unwrap();
        assert!(names.iter().any(|name| name.starts_with("libc.so")), "{names:?}");
        assert!(!is_static(&me).unwrap());
    }

    #[test]
    fn any_bytes_are_survived() {
        let me = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for length in (0..me.len().min(4096)).step_by(7) {
            let _ = needed(&me[..length]);
        }
        assert!(needed(b"#!/bin/sh\n").is_none());
    }
}
