//! Python beside ours: scripts of `peers/` with the libraries from PyPI that they need, and programs
//! from there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::engines::process::run;
use crate::peer::Peer;

/// Starts a script.
pub(crate) fn script(name: &str, arguments: &[&str]) -> Peer {
    let mut command = Command::new(python());
    command.arg(root().join("tests/backends/peers").join(name)).args(arguments);
    Peer::start(command, "python3")
}

/// What runs an installed module as a program.
#[cfg(feature = "zookeeper")]
pub(crate) fn module(name: &str) -> Command {
    let mut command = Command::new(python());
    command.args(["-m", name]);
    command
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The interpreter of the virtual environment, which is made once.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let mut script = Command::new(root().join("contrib/test/interop-venv"));
        script.arg(root().join("target/interop-venv")).current_dir(root());
        PathBuf::from(run(script, "python3-venv").trim())
    })
}
