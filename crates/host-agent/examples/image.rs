//! Builds images by hand: `cargo run --example image -- OUT AGENT [NAME...]`. The `proteus` program does the same.

use proteus_host_agent::image::{
    FullOptions, SmallOptions, build_full, build_package_image, build_small, built_in,
};
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [out, agent, names @ ..] = args.as_slice() else {
        return Err("usage: image OUT AGENT [NAME...]".into());
    };
    let progress = |step: &str| println!("{step}");
    let small =
        build_small(&SmallOptions { agent: Path::new(agent), busybox: true }, Path::new(out), &progress)?;
    println!("{} {}", small.kernel.display(), small.initramfs.display());
    for name in names {
        if name == "debian-12" {
            let options = FullOptions {
                agent: Path::new(agent),
                extra_packages: &[],
                cloud_init: false,
                disk_mib: 2048,
            };
            println!("{}", build_full(&options, Path::new(out), &progress)?.disk.display());
            continue;
        }
        let image = build_package_image(&built_in(name)?, Path::new(out), &progress)?;
        println!("{}", image.path.display());
    }
    Ok(())
}
