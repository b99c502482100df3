//! Where functions are in the file of a shared library, by its dynamic symbols. The file is somebody else's and may be
//! anything. Must never read more of it than the bounds here, nor believe a place outside of it.

use object::elf::{ET_DYN, FileHeader64, PF_X, PT_LOAD, SHN_UNDEF, SHT_DYNSYM, STT_FUNC, Sym64};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader, Sym};
use object::{Endianness, ReadCache, ReadCacheOps, ReadRef};

/// Most parts of a file's two tables: libraries have about ten and thirty.
const SEGMENTS_MAX: u16 = 64;
const SECTIONS_MAX: u16 = 256;
/// Largest table of symbols, and of their names, 1 MiB: those of OpenSSL's libcrypto have 150 and 170 KiB.
const TABLE_BYTES_MAX: u64 = 1 << 20;
/// Most places of one function: a library keeps it for programs of before under the same name.
const PLACES_MAX: usize = 4;

type Header = FileHeader64<Endianness>;

/// Places of functions in a file, each with which it is of `names`; each place once. `None`: it is no such library, or
/// beyond the bounds.
pub fn places<R: ReadCacheOps>(file: R, names: &[&str]) -> Option<Vec<(usize, u64)>> {
    let cache = ReadCache::new(file);
    let data = &cache;
    let header = Header::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let is_sane = header.e_type(endian) == ET_DYN
        && (1..=SEGMENTS_MAX).contains(&header.e_phnum(endian))
        && (1..=SECTIONS_MAX).contains(&header.e_shnum(endian));
    if !is_sane {
        return None;
    }
    let segments = header.program_headers(endian, data).ok()?;
    let sections = header.section_headers(endian, data).ok()?;
    let table = sections.iter().find(|section| section.sh_type(endian) == SHT_DYNSYM)?;
    let strings = sections.get(usize::try_from(table.sh_link(endian)).ok()?)?;
    if table.sh_size(endian) > TABLE_BYTES_MAX || strings.sh_size(endian) > TABLE_BYTES_MAX {
        return None;
    }
    let symbols: &[Sym64<Endianness>] = table.data_as_array(endian, data).ok()?;
    let strings = strings.data(endian, data).ok()?;
    let length = data.len().ok()?;
    // From the address at which it is loaded to the place in the file, of what can run only.
    let place = |address: u64| {
        segments.iter().find_map(|segment| {
            let is_code = segment.p_type(endian) == PT_LOAD && segment.p_flags(endian).contains(PF_X);
            let within = address.checked_sub(segment.p_vaddr(endian)).filter(|_| is_code)?;
            let is_there = within < segment.p_filesz(endian);
            is_there.then(|| segment.p_offset(endian).checked_add(within)).flatten()
        })
    };
    let mut found: Vec<(usize, u64)> = Vec::new();
    for symbol in symbols {
        if symbol.st_type() != STT_FUNC || symbol.st_shndx(endian) == SHN_UNDEF {
            continue;
        }
        let Some(which) = name(strings, symbol.st_name(endian), names) else { continue };
        let known = found.iter().filter(|(of, _)| *of == which).count();
        let Some(at) = place(symbol.st_value(endian)).filter(|at| *at < length) else { continue };
        if known < PLACES_MAX && !found.iter().any(|(_, place)| *place == at) {
            found.push((which, at));
        }
    }
    Some(found)
}

/// Which of `names` begins at a place of the names' table and ends there with a zero byte.
fn name(strings: &[u8], at: u32, names: &[&str]) -> Option<usize> {
    let rest = strings.get(usize::try_from(at).ok()?..)?;
    names
        .iter()
        .position(|name| rest.strip_prefix(name.as_bytes()).is_some_and(|after| after.first() == Some(&0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    const NAMES: [&str; 3] = ["getaddrinfo", "pthread_create", "no_such_function"];

    /// The library of C that this test runs with.
    fn own_library() -> Vec<u8> {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let path = maps
            .lines()
            .find_map(|line| line.split_ascii_whitespace().nth(5).filter(|p| p.contains("/libc.so")));
        std::fs::read(path.unwrap()).unwrap()
    }

    #[test]
    fn functions_are_where_this_process_has_them() {
        let bytes = own_library();
        let found = places(Cursor::new(&bytes), &NAMES).unwrap();
        assert!(found.iter().all(|(which, _)| *which < 2), "{found:?}");
        let mapped = |which: usize, address: usize| {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            let of = maps.lines().find_map(|line| {
                let mut words = line.split_ascii_whitespace();
                let (from, until) = words.next()?.split_once('-')?;
                let number = |hex: &str| usize::from_str_radix(hex, 16).unwrap();
                let offset = number(words.nth(1)?);
                let range = number(from)..number(until);
                range.contains(&address).then(|| address - range.start + offset)
            });
            found.iter().any(|(of_which, at)| *of_which == which && Some(*at as usize) == of)
        };
        assert!(mapped(0, libc::getaddrinfo as *const () as usize));
        assert!(mapped(1, libc::pthread_create as *const () as usize));
    }

    #[test]
    fn what_is_no_library_is_none() {
        for bytes in [&b""[..], b"\x7fELF", b"#!/bin/sh\n", &[0; 4096]] {
            assert_eq!(places(Cursor::new(bytes), &NAMES), None);
        }
    }

    #[test]
    fn tables_beyond_the_bounds_are_not_read() {
        let mut bytes = own_library();
        // e_shoff of the header, then sh_size of each section, at 32 of its 64 bytes.
        let sections = u64::from_le_bytes(bytes[40..48].try_into().unwrap()) as usize;
        for size in [TABLE_BYTES_MAX + 24, u64::MAX, 1 << 40] {
            for header in bytes[sections..].chunks_exact_mut(64) {
                header[32..40].copy_from_slice(&size.to_le_bytes());
            }
            assert_eq!(places(Cursor::new(&bytes), &NAMES), None);
        }
        bytes[60..62].copy_from_slice(&u16::MAX.to_le_bytes());
        assert_eq!(places(Cursor::new(&bytes), &NAMES), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn a_library_of_any_bytes(
            cut in any::<prop::sample::Index>(),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4usize), 0..24)
        ) {
            let mut bytes = own_library();
            let sections = u64::from_le_bytes(bytes[40..48].try_into().unwrap()) as usize;
            // Most of what is damaged is what is read: the header, the segments, the sections, the symbols.
            for (at, value, part) in flips {
                let range = [0..64, 64..1024, sections..bytes.len(), 0..65536][part].clone();
                let at = range.start + at.index(range.len());
                bytes[at] ^= value;
            }
            if cut.index(4) == 0 {
                bytes.truncate(cut.index(bytes.len()));
            }
            let length = bytes.len() as u64;
            let found = places(Cursor::new(&bytes), &NAMES).unwrap_or_default();
            prop_assert!(found.len() <= NAMES.len() * PLACES_MAX);
            prop_assert!(found.iter().all(|(which, at)| *which < NAMES.len() && *at < length));
        }
    }
}
