//! Embeds the kernel programs' object, which `cargo xtask build-ebpf` makes.
//!
//! Without it the agent still builds (the splitter and its tests need no kernel programs), warns, and says at run time
//! what is missing.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-env-changed=GRPCLB_EBPF_OBJECT");
    let object = env::var_os("GRPCLB_EBPF_OBJECT").map_or_else(default_object, PathBuf::from);
    println!("cargo:rerun-if-changed={}", object.display());

    let bytes = match fs::read(&object) {
        Ok(bytes) => bytes,
        Err(error) => {
            println!(
                "cargo:warning=no kernel programs at {} ({error}): run cargo xtask build-ebpf",
                object.display()
            );
            Vec::new()
        }
    };
    let out = env::var_os("OUT_DIR")
        .map(PathBuf::from)
        .ok_or_else(|| io::Error::other("cargo sets OUT_DIR"))?;
    fs::write(out.join("grpclb.bpf.o"), bytes)
}

/// Where the xtask puts it, whatever the target directory of this build is.
fn default_object() -> PathBuf {
    let here = env::var_os("CARGO_MANIFEST_DIR").map_or_else(PathBuf::new, PathBuf::from);
    here.parent()
        .unwrap_or(Path::new("."))
        .join("target/bpf/grpclb.bpf.o")
}
