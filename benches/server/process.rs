//! The servers that are measured, as processes of their own, and what they cost.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server that runs until it is dropped.
pub struct ServerProcess {
    pub tcp: SocketAddr,
    pub unix: PathBuf,
    child: Child,
    _dir: tempfile::TempDir,
}

impl ServerProcess {
    /// Our own, with its store on disk.
    pub fn officer(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let unix = dir.path().join("socket");
        let program = std::env::var("OFFICER_BENCH_PROGRAM")
            .unwrap_or_else(|_| env!("CARGO_BIN_EXE_officer-exec").to_owned());
        let mut child = Command::new(program)
            .args(["serve", "--port", "0", "-o", "TCP,UNIX", "-f"])
            .arg(&unix)
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines.find_map(|line| Some(line.unwrap().split_once("address=")?.1.to_owned()));
        let tcp = address.expect("it says where it listens").trim().parse().unwrap();
        // Whatever else it says is of interest only if it is much; then it must not block.
        std::thread::spawn(move || lines.for_each(drop));
        wait_for(&unix);
        Self { tcp, unix, child, _dir: dir }
    }

    /// Debian's Redis, without its own files.
    pub fn redis() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let unix = dir.path().join("socket");
        let tcp = free_port();
        let child = Command::new("redis-server")
            .args(["--port", &tcp.port().to_string(), "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&unix)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        wait_for(&unix);
        Self { tcp, unix, child, _dir: dir }
    }

    /// This program as a bare echo server: what the kernel and epoll cost alone.
    pub fn echo() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let unix = dir.path().join("socket");
        let tcp = free_port();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--echo-server", &tcp.to_string()])
            .arg(&unix)
            .spawn()
            .unwrap();
        wait_for(&unix);
        Self { tcp, unix, child, _dir: dir }
    }

    /// CPU time that all its threads have used.
    pub fn cpu(&self) -> Duration {
        let mut sum = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap() {
            let Ok(text) = std::fs::read_to_string(task.unwrap().path().join("schedstat")) else { continue };
            sum += text.split(' ').next().unwrap().parse::<u64>().unwrap();
        }
        Duration::from_nanos(sum)
    }

    /// Resident memory in KiB.
    pub fn memory_kib(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// Its own memory, without the file pages of the program and its libraries.
    pub fn own_memory_kib(&self) -> u64 {
        self.status("RssAnon:")
    }

    fn status(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn wait_for(unix: &Path) {
    let until = Instant::now() + Duration::from_secs(20);
    while UnixStream::connect(unix).is_err() {
        assert!(Instant::now() < until, "the server doesn't listen on {}", unix.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Where a load goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Unix,
}

/// A client's socket.
pub enum Socket {
    Tcp(mio::net::TcpStream),
    Unix(mio::net::UnixStream),
}

impl Socket {
    pub fn connect(server: &ServerProcess, transport: Transport) -> Self {
        match transport {
            Transport::Tcp => {
                let stream = TcpStream::connect(server.tcp).unwrap();
                stream.set_nodelay(true).unwrap();
                stream.set_nonblocking(true).unwrap();
                Self::Tcp(mio::net::TcpStream::from_std(stream))
            }
            Transport::Unix => {
                let stream = UnixStream::connect(&server.unix).unwrap();
                stream.set_nonblocking(true).unwrap();
                Self::Unix(mio::net::UnixStream::from_std(stream))
            }
        }
    }

    pub fn source(&mut self) -> &mut dyn mio::event::Source {
        match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
        }
    }

    pub fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => std::io::Read::read(stream, buffer),
            Self::Unix(stream) => std::io::Read::read(stream, buffer),
        }
    }

    /// What is sent here always fits into a socket's buffer.
    pub fn write(&mut self, bytes: &[u8]) {
        let written = match self {
            Self::Tcp(stream) => std::io::Write::write(stream, bytes),
            Self::Unix(stream) => std::io::Write::write(stream, bytes),
        };
        assert_eq!(written.unwrap(), bytes.len());
    }
}
