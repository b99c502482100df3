//! What a file is by its name. Must never look further than the name: the content is another part's.

use proteus_protocol::guest::v1::findings::{FileKind, SensitiveClass};

/// Ends of names that say that a file was compressed, which says nothing of what it is.
const COMPRESSED: [&[u8]; 6] = [b"gz", b"xz", b"bz2", b"zst", b"lz4", b"z"];

/// What an end of a name, in lower case, says.
fn of_end(end: &[u8]) -> Option<FileKind> {
    Some(match end {
        b"pdf" | b"doc" | b"docx" | b"odt" | b"rtf" | b"xls" | b"xlsx" | b"ods" | b"ppt" | b"pptx"
        | b"odp" | b"txt" | b"md" | b"rst" | b"tex" | b"epub" | b"csv" | b"tsv" | b"html" | b"htm"
        | b"pages" | b"numbers" | b"vcf" | b"ics" | b"ps" => FileKind::Document,
        b"jpg" | b"jpeg" | b"png" | b"gif" | b"bmp" | b"tif" | b"tiff" | b"webp" | b"svg" | b"svgz"
        | b"heic" | b"raw" | b"cr2" | b"nef" | b"ico" | b"xpm" | b"psd" | b"avif" => FileKind::Image,
        b"mp3" | b"mp4" | b"mkv" | b"avi" | b"mov" | b"flac" | b"wav" | b"ogg" | b"oga" | b"ogv"
        | b"opus" | b"m4a" | b"m4v" | b"webm" | b"aac" | b"wma" | b"wmv" | b"mpg" | b"mpeg" | b"flv" => {
            FileKind::Media
        }
        b"zip" | b"tar" | b"tgz" | b"tbz" | b"txz" | b"tzst" | b"gz" | b"xz" | b"bz2" | b"zst" | b"lz4"
        | b"7z" | b"rar" | b"z" | b"cpio" | b"deb" | b"rpm" | b"jar" | b"war" | b"whl" | b"apk" | b"iso" => {
            FileKind::Archive
        }
        b"db" | b"sqlite" | b"sqlite3" | b"db3" | b"mdb" | b"accdb" | b"ibd" | b"myd" | b"myi" | b"frm"
        | b"dbf" | b"rdb" | b"aof" | b"ldb" | b"sst" | b"mdf" | b"ldf" | b"wal" | b"dump" | b"parquet" => {
            FileKind::Database
        }
        b"log" | b"journal" | b"err" | b"out" => FileKind::Log,
        b"c" | b"h" | b"cc" | b"cpp" | b"cxx" | b"hpp" | b"rs" | b"go" | b"py" | b"rb" | b"pl" | b"pm"
        | b"php" | b"js" | b"mjs" | b"ts" | b"tsx" | b"jsx" | b"java" | b"kt" | b"scala" | b"cs"
        | b"swift" | b"sh" | b"bash" | b"lua" | b"sql" | b"r" | b"hs" | b"ml" | b"el" | b"lisp" | b"asm"
        | b"s" | b"css" | b"scss" | b"vue" | b"ipynb" | b"patch" | b"diff" => FileKind::Source,
        b"so" | b"a" | b"o" | b"ko" | b"dll" | b"exe" | b"bin" | b"elf" | b"pyc" | b"pyo" | b"class"
        | b"wasm" | b"rlib" | b"mo" | b"appimage" | b"msi" => FileKind::Program,
        b"conf" | b"cfg" | b"cnf" | b"ini" | b"yaml" | b"yml" | b"toml" | b"json" | b"xml"
        | b"properties" | b"env" | b"service" | b"socket" | b"timer" | b"rules" | b"desktop" | b"plist"
        | b"pem" | b"crt" | b"key" | b"list" | b"sources" | b"pub" => FileKind::Configuration,
        b"qcow2" | b"qcow" | b"vmdk" | b"vdi" | b"vhd" | b"vhdx" | b"img" | b"ova" | b"dmg" => {
            FileKind::VirtualDisk
        }
        b"eml" | b"mbox" | b"msg" | b"pst" | b"ost" | b"maildir" => FileKind::Mail,
        _ => return None,
    })
}

/// The end of a name behind its last dot, in lower case, and what is before it. A dot that begins a name ends nothing.
fn split(name: &[u8]) -> Option<(&[u8], [u8; 12], usize)> {
    let dot = name.iter().rposition(|byte| *byte == b'.').filter(|dot| *dot > 0)?;
    let end = &name[dot + 1..];
    let mut lower = [0u8; 12];
    lower.get_mut(..end.len())?.copy_from_slice(end);
    lower.make_ascii_lowercase();
    Some((&name[..dot], lower, end.len()))
}

/// What a file is: by its end, without that of a rotation (`.1`) or a compression (`.gz`) where there is another one
/// before it; else by what it may be run as and where it lies.
pub fn kind(name: &[u8], is_executable: bool, is_below_etc: bool) -> FileKind {
    let (mut rest, mut first) = (name, None);
    // `a.log.2.gz` has three.
    for _ in 0..4 {
        let Some((before, end, length)) = split(rest) else { break };
        let end = &end[..length];
        let found = of_end(end);
        let is_wrapping = COMPRESSED.contains(&end) || end.iter().all(u8::is_ascii_digit);
        if !is_wrapping {
            return found.or(first).unwrap_or_else(|| unnamed(name, is_executable, is_below_etc));
        }
        first = first.or(found);
        rest = before;
    }
    first.unwrap_or_else(|| unnamed(rest, is_executable, is_below_etc))
}

/// What a file is whose name has no end that is known.
fn unnamed(name: &[u8], is_executable: bool, is_below_etc: bool) -> FileKind {
    match name {
        b"Makefile" | b"makefile" | b"Dockerfile" | b"CMakeLists" => FileKind::Source,
        b"syslog" | b"messages" | b"dmesg" | b"wtmp" | b"btmp" => FileKind::Log,
        _ if is_below_etc => FileKind::Configuration,
        _ if is_executable => FileKind::Program,
        _ => FileKind::Other,
    }
}

/// Whether the content of such a file may tell something: not what is compressed, encoded or a program.
pub fn is_samplable(kind: FileKind) -> bool {
    use FileKind::{Archive, Image, Media, Program, Unknown, VirtualDisk};
    !matches!(kind, Archive | Image | Media | Program | VirtualDisk | Unknown)
}

/// What a name says of the sensitive.
pub fn sensitive(name: &[u8]) -> Option<SensitiveClass> {
    match name {
        b"id_rsa" | b"id_dsa" | b"id_ecdsa" | b"id_ed25519" | b"id_ed25519_sk" | b"id_ecdsa_sk" => {
            return Some(SensitiveClass::PrivateKeys);
        }
        b".netrc" | b"_netrc" | b".pgpass" | b".my.cnf" | b".htpasswd" | b".git-credentials"
        | b"credentials" | b".env" | b".pypirc" | b".dockercfg" | b".vault-token" | b"shadow"
        | b"gshadow" | b"shadow-" | b"gshadow-" => return Some(SensitiveClass::Credentials),
        _ if name.starts_with(b"ssh_host_") && name.ends_with(b"_key") => {
            return Some(SensitiveClass::PrivateKeys);
        }
        _ => {}
    }
    let (_, end, length) = split(name)?;
    match &end[..length] {
        b"key" | b"p12" | b"pfx" | b"jks" | b"keystore" | b"ppk" => Some(SensitiveClass::PrivateKeys),
        b"kdbx" | b"kdb" | b"keytab" | b"env" => Some(SensitiveClass::Credentials),
        b"vcf" => Some(SensitiveClass::EmailAddresses),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_says_what_a_file_is() {
        for (name, wanted) in [
            ("a.PDF", FileKind::Document),
            ("syslog.1", FileKind::Log),
            ("x.log.2.gz", FileKind::Log),
            ("a.tar.gz", FileKind::Archive),
            ("notes.gz", FileKind::Archive),
            ("libc.so.6", FileKind::Program),
            ("libfoo.so.1.2.3", FileKind::Program),
            ("vm.qcow2", FileKind::VirtualDisk),
            (".bashrc", FileKind::Other),
            ("a.", FileKind::Other),
            ("a.very-long-end-of-a-name", FileKind::Other),
            ("1", FileKind::Other),
        ] {
            assert_eq!(kind(name.as_bytes(), false, false), wanted, "{name}");
        }
        assert_eq!(kind(b"ls", true, false), FileKind::Program);
        assert_eq!(kind(b"passwd", false, true), FileKind::Configuration);
    }

    #[test]
    fn a_name_says_what_is_sensitive() {
        assert_eq!(sensitive(b"id_ed25519"), Some(SensitiveClass::PrivateKeys));
        assert_eq!(sensitive(b"ssh_host_rsa_key"), Some(SensitiveClass::PrivateKeys));
        assert_eq!(sensitive(b"server.KEY"), Some(SensitiveClass::PrivateKeys));
        assert_eq!(sensitive(b".pgpass"), Some(SensitiveClass::Credentials));
        assert_eq!(sensitive(b"id_ed25519.pub"), None);
        assert_eq!(sensitive(b"key"), None);
    }

    proptest! {
        #[test]
        fn any_name_is_of_some_kind(name in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_ne!(kind(&name, false, false), FileKind::Unknown);
            let _ = sensitive(&name);
        }
    }
}
