//! A program of the tree comes from a file server that answers no more, as over a network that was cut:
//! whoever asks for anything there waits for ever. A small server of our own on FUSE is so.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use officer::boot_time::BootTime;

use crate::disk::{NO_MOUNTS, leave_the_others_mounts, may_mount};
use crate::scene::{Ending, LONG, Scene, lasting};
use crate::support::wait_until;
use crate::table::Proof;

crate::faults![
    a_dead_file_server_holds_up_no_guardian: "file server of the tree dead, wrapper SIGSTOP, then SIGCONT",
];

/// The one file on it.
const PROGRAM: &str = "program";

/// Its files by number.
const ROOT: u64 = 1;
const FILE: u64 = 2;

/// Asked for, by number: see fuse(4).
mod operation {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const RELEASE: u32 = 18;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const BATCH_FORGET: u32 = 42;
}

/// A read-only file system with one program.
struct FileServer {
    device: Arc<File>,
    is_dead: Arc<AtomicBool>,
}

impl FileServer {
    /// `None`: there is no FUSE here.
    fn new() -> Option<Self> {
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").ok()?;
        Some(Self { device: Arc::new(device), is_dead: Arc::default() })
    }

    /// For the process that is to see it at `folder`, alone.
    fn mount_at(&self, folder: &Path) -> impl Fn() -> std::io::Result<()> + Send + Sync + use<> {
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", self.device.as_raw_fd());
        let folder = folder.to_owned();
        move || {
            leave_the_others_mounts()?;
            let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
            Ok(mount(Some("officer-exec-test"), &folder, Some("fuse"), flags, Some(options.as_str()))?)
        }
    }

    /// Once it is mounted.
    fn serve(&self, content: Vec<u8>) {
        let (device, is_dead) = (self.device.clone(), self.is_dead.clone());
        std::thread::spawn(move || {
            let mut request = vec![0; 1 << 18];
            while let Ok(length) = (&*device).read(&mut request) {
                if is_dead.load(Ordering::SeqCst) {
                    continue;
                }
                if let Some(answer) = answer(&request[..length], &content)
                    && (&*device).write_all(&answer).is_err()
                {
                    return;
                }
            }
        });
    }

    fn die(&self) {
        self.is_dead.store(true, Ordering::SeqCst);
    }
}

/// An answer's bytes.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u16(self, value: u16) -> Self {
        self.raw(&value.to_ne_bytes())
    }

    fn u32(self, value: u32) -> Self {
        self.raw(&value.to_ne_bytes())
    }

    fn u64(self, value: u64) -> Self {
        self.raw(&value.to_ne_bytes())
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// What `stat` shows; it may not be kept, so each `stat` asks anew.
    fn attributes(self, node: u64, content: &[u8]) -> Self {
        let (mode, size) = match node {
            ROOT => (libc::S_IFDIR | 0o755, 0),
            _ => (libc::S_IFREG | 0o755, content.len() as u64),
        };
        let times = [0; 3 * 8 + 3 * 4];
        let numbered = self.u64(node).u64(size).u64(size.div_ceil(512)).raw(&times);
        numbered.u32(mode).u32(1).u32(0).u32(0).u32(0).u32(4096).u32(0)
    }
}

/// `None`: nobody waits for one.
fn answer(request: &[u8], content: &[u8]) -> Option<Vec<u8>> {
    let u32_at = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_ne_bytes(request[at..at + 8].try_into().expect("eight bytes"));
    const HEAD: usize = 40;
    let (operation, unique, node) = (u32_at(4), u64_at(8), u64_at(16));
    let body = Bytes::default();
    let told = match operation {
        operation::FORGET | operation::BATCH_FORGET => return None,
        // Version 7.31, and nothing beyond the least of it.
        operation::INIT => {
            let head = body.u32(7).u32(31).u32(1 << 16).u32(0).u16(12).u16(10).u32(1 << 16).u32(1);
            Ok(head.raw(&[0; 36]))
        }
        operation::LOOKUP if request[HEAD..].starts_with(PROGRAM.as_bytes()) => {
            Ok(body.u64(FILE).u64(0).u64(0).u64(0).u64(0).attributes(FILE, content))
        }
        operation::LOOKUP => Err(libc::ENOENT),
        operation::GETATTR => Ok(body.u64(0).u64(0).attributes(node, content)),
        operation::OPEN => Ok(body.u64(0).u32(0).u32(0)),
        operation::READ => {
            let (from, size) = (u64_at(HEAD + 8) as usize, u32_at(HEAD + 16) as usize);
            let rest = content.get(from..).unwrap_or_default();
            Ok(body.raw(&rest[..size.min(rest.len())]))
        }
        operation::RELEASE | operation::FLUSH => Ok(body),
        _ => Err(libc::ENOSYS),
    };
    let (error, Bytes(told)) = told.map_or_else(|errno| (-errno, Bytes::default()), |told| (0, told));
    let head = Bytes::default().u32(16 + told.len() as u32).u32(error as u32).u64(unique);
    Some(head.raw(&told).0)
}

fn a_dead_file_server_holds_up_no_guardian() -> Proof {
    let Some(files) = FileServer::new().filter(|_| may_mount()) else {
        return Proof::Skipped(NO_MOUNTS);
    };
    let scene = Scene::new();
    let mounted = scene.path().join("files");
    std::fs::create_dir(&mounted).expect("there is room");
    let mut command = scene.holding_command_beside(&mounted.join(PROGRAM));
    // SAFETY: system calls with what was made before; nothing else runs in the child.
    unsafe { command.pre_exec(files.mount_at(&mounted)) };
    let holder = scene.hold_by(&mut command);
    files.serve(std::fs::read("/bin/sleep").expect("it is there"));
    let next = scene.next();
    let runs_from_there =
        |pid| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|file| file.ends_with(PROGRAM));
    wait_until("the program from there runs", || {
        crate::support::children(holder.command).into_iter().any(runs_from_there)
    });
    let begun = BootTime::now();
    files.die();
    holder.wrapper.signal(Signal::SIGSTOP);
    lasting(LONG);
    holder.wrapper.signal(Signal::SIGCONT);
    let code = holder.ends_with(79);
    scene.judge(next, Ending::new(code, begun))
}
