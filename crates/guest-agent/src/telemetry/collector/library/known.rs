//! The libraries and functions of which calls are counted: what programs of many kinds do their work with. Of each pair
//! of functions of which one calls the other only the inner is here, so that no call counts twice. Allocation of memory
//! is left out: it is what programs call most, and a hit would cost far more than the call.

/// A library.
pub struct Library {
    /// As it is told.
    pub name: &'static str,
    /// How the names of its files begin.
    files: &'static [&'static str],
    /// Classes and functions.
    pub functions: &'static [(&'static str, &'static str)],
}

/// All of them.
pub const LIBRARIES: [Library; 12] = [
    Library {
        name: "libssl",
        files: &["libssl.so."],
        functions: &[
            ("tls", "SSL_do_handshake"),
            ("tls", "SSL_read"),
            ("tls", "SSL_read_ex"),
            ("tls", "SSL_write"),
            ("tls", "SSL_write_ex"),
        ],
    },
    Library {
        name: "libgnutls",
        files: &["libgnutls.so."],
        functions: &[
            ("tls", "gnutls_handshake"),
            ("tls", "gnutls_record_recv"),
            ("tls", "gnutls_record_send"),
        ],
    },
    Library {
        name: "libcrypto",
        files: &["libcrypto.so."],
        functions: &[
            ("crypto", "EVP_EncryptUpdate"),
            ("crypto", "EVP_DecryptUpdate"),
            ("crypto", "EVP_DigestUpdate"),
        ],
    },
    Library {
        name: "libz",
        files: &["libz.so."],
        functions: &[("compression", "deflate"), ("compression", "inflate")],
    },
    Library {
        name: "libzstd",
        files: &["libzstd.so."],
        functions: &[
            ("compression", "ZSTD_compressStream2"),
            ("compression", "ZSTD_compressCCtx"),
            ("compression", "ZSTD_decompressStream"),
            ("compression", "ZSTD_decompressDCtx"),
        ],
    },
    Library { name: "liblzma", files: &["liblzma.so."], functions: &[("compression", "lzma_code")] },
    Library {
        name: "libbz2",
        files: &["libbz2.so."],
        functions: &[("compression", "BZ2_bzCompress"), ("compression", "BZ2_bzDecompress")],
    },
    Library {
        name: "libpq",
        files: &["libpq.so."],
        functions: &[
            ("database", "PQsendQuery"),
            ("database", "PQsendQueryParams"),
            ("database", "PQsendQueryPrepared"),
        ],
    },
    Library {
        name: "libmysql",
        files: &["libmysqlclient.so.", "libmariadb.so."],
        functions: &[("database", "mysql_real_query"), ("database", "mysql_stmt_execute")],
    },
    Library { name: "libsqlite3", files: &["libsqlite3.so."], functions: &[("database", "sqlite3_step")] },
    Library {
        name: "libc",
        files: &["libc.so.", "libc-2.", "ld-musl-"],
        functions: &[("names", "getaddrinfo"), ("threads", "pthread_create")],
    },
    Library {
        name: "libpthread",
        files: &["libpthread.so.", "libpthread-2."],
        functions: &[("threads", "pthread_create")],
    },
];

/// Which library a file is, by its path.
pub fn library(path: &str) -> Option<usize> {
    let file = path.strip_suffix(" (deleted)").unwrap_or(path).rsplit('/').next()?;
    LIBRARIES.iter().position(|library| library.files.iter().any(|begin| file.starts_with(begin)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proteus_protocol::guest::v1::findings::{LibraryCalls, LibraryClass};

    #[test]
    fn files_are_known_by_their_names() {
        let name = |path: &str| library(path).map(|which| LIBRARIES[which].name);
        assert_eq!(name("/usr/lib/x86_64-linux-gnu/libssl.so.3"), Some("libssl"));
        assert_eq!(name("/lib/libz.so.1.2.13 (deleted)"), Some("libz"));
        assert_eq!(name("/lib/libc-2.31.so"), Some("libc"));
        for other in ["", "/", "/usr/lib/libssl3.so", "/lib/libcurl.so.4", "[vdso]", "/lib/libc++.so.1"] {
            assert_eq!(name(other), None, "{other}");
        }
    }

    #[test]
    fn all_that_is_known_may_be_told() {
        for library in &LIBRARIES {
            assert!(library.functions.len() <= 5, "{}", library.name);
            for (class, _) in library.functions {
                let one = LibraryClass {
                    library: library.name.to_owned(),
                    class: (*class).to_owned(),
                    window_ms: 500,
                    calls: Some(1),
                    left_out: 0,
                };
                let told = LibraryCalls { classes: vec![one], ..LibraryCalls::default() };
                assert!(proteus_model::telemetry::LibrariesObserved::try_from(told).is_ok());
            }
        }
    }
}
