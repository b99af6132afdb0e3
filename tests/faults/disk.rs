//! The server's disk is full or can't be written: what runs goes on, nobody gets what isn't stored.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use officer::boot_time::BootTime;

use crate::scene::{Ending, LONG, SHORT, Scene, lasting};
use crate::server::{Prepare, Server};
use crate::table::Proof;

crate::faults![
    a_full_disk_grants_nothing_and_ends_nothing: "server's disk full",
    a_read_only_store_is_refused: "server restarted on a read-only store",
];

pub(crate) const NOTHING: Option<&str> = None;

/// A file system of its own for the data directory, as small as this, seen by nobody else.
const SIZE: &str = "size=512k";

pub(crate) const NO_MOUNTS: &str = "mounting needs root";

pub(crate) fn may_mount() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Nobody else sees what is mounted from here on.
pub(crate) fn leave_the_others_mounts() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING)
}

fn on_a_small_disk(folder: PathBuf) -> Prepare {
    Arc::new(move || {
        leave_the_others_mounts()?;
        Ok(mount(Some("tmpfs"), &folder, Some("tmpfs"), MsFlags::empty(), Some(SIZE))?)
    })
}

fn on_a_read_only_disk(folder: PathBuf) -> Prepare {
    Arc::new(move || {
        leave_the_others_mounts()?;
        mount(Some(&folder), &folder, NOTHING, MsFlags::MS_BIND, NOTHING)?;
        let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        Ok(mount(NOTHING, &folder, NOTHING, read_only, NOTHING)?)
    })
}

/// A path as the server sees it.
fn in_the_world_of(server: &Server, path: &Path) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{}/root", server.pid()));
    root.join(path.strip_prefix("/").expect("it is absolute"))
}

/// Takes all the room there is.
fn fill(file: &Path) {
    let mut filler = std::fs::File::create(file).expect("there is room for a name");
    let chunk = [0; 4096];
    let full = std::iter::repeat_with(|| filler.write(&chunk)).find_map(Result::err).expect("it is small");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull, "{full}");
}

fn a_full_disk_grants_nothing_and_ends_nothing() -> Proof {
    if !may_mount() {
        return Proof::Skipped(NO_MOUNTS);
    }
    let scene = Scene::with(|server| {
        std::fs::create_dir(server.data_dir()).expect("there is room");
        server.prepare(Some(on_a_small_disk(server.data_dir())));
    });
    let mut holder = scene.hold();
    let next = scene.next();
    let filler = in_the_world_of(&scene.server, &scene.server.data_dir().join("filler"));
    fill(&filler);
    lasting(LONG);
    assert!(holder.wrapper.is_running());
    scene.tell_to_end();
    scene.server.wait_for_log("answers are held back");
    let code = holder.ends_with(0);
    lasting(SHORT);
    assert_eq!(scene.runs(), 1, "a grant was told that isn't stored");
    let begun = BootTime::now();
    std::fs::remove_file(filler).expect("it is there");
    scene.judge(next, Ending::new(code, begun))
}

fn a_read_only_store_is_refused() -> Proof {
    if !may_mount() {
        return Proof::Skipped(NO_MOUNTS);
    }
    let mut scene = Scene::new();
    let holder = scene.hold();
    let next = scene.next();
    let begun = BootTime::now();
    scene.server.end(Signal::SIGKILL);
    scene.server.prepare(Some(on_a_read_only_disk(scene.server.data_dir())));
    let code = scene.server.start_in_vain();
    assert_eq!(code, Some(70), "{}", scene.server.log());
    assert!(scene.server.log().contains("Read-only file system"), "{}", scene.server.log());
    lasting(LONG);
    scene.server.prepare(None);
    scene.server.start();
    let code = holder.ends_with(79);
    scene.judge(next, Ending::new(code, begun))
}
