//! Has the functions that run at each start laid side by side in the program: `link/start.ld`.
//!
//! A program's code is mapped 16 pages at a time, where it is first touched. In the compiler's order those
//! functions lie all over the program, and each start maps most of it.

use std::env;

/// Linkers that know no `INSERT` in a linker script, by what names them in a compiler's flags.
const WITHOUT_INSERT: [&str; 3] = ["gold", "mold", "wild"];

fn main() {
    println!("cargo:rerun-if-changed=link/start.ld");
    // A build to work with links sooner without.
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let linux = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux");
    let linker = ["RUSTC_LINKER", "CARGO_ENCODED_RUSTFLAGS"].map(|name| env::var(name).unwrap_or_default());
    let understood = !WITHOUT_INSERT.iter().any(|known| linker.iter().any(|setting| setting.contains(known)));
    if release && linux && understood {
        let folder = env::var("CARGO_MANIFEST_DIR").unwrap();
        println!("cargo:rustc-link-arg-bin=officer-exec=-Wl,-T,{folder}/link/start.ld");
    }
}
