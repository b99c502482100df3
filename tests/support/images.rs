//! The folder of guests and images. Shared by the tests of several crates, which name it by its path.

use std::path::{Path, PathBuf};

/// The folder, which must hold `needed`. Tests fail without: a skipped proof is none.
pub fn image_dir(needed: &[&str]) -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build/images");
    let dir = std::env::var_os("PROTEUS_TEST_IMAGES").map_or_else(default, PathBuf::from);
    for file in ["small/vmlinuz", "small/initramfs.cpio"].iter().chain(needed) {
        assert!(
            dir.join(file).is_file(),
            "{} is missing: run `proteus image build small nginx redis postgresql --out DIR` and set \
             PROTEUS_TEST_IMAGES to DIR",
            dir.join(file).display()
        );
    }
    dir.canonicalize().expect("a folder that holds these has a whole name")
}
