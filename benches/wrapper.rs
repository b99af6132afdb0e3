//! What the wrapper costs: start-up beside flock(1), and how soon the next one starts.
//!
//! `cargo bench --bench wrapper`; see `benches/README.md` for the static build. Prints ratios, for
//! absolute times say more of the machine than of the program.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// Pairs of runs for the start-up.
const PAIRS: usize = 300;

/// Wrappers in a queue.
const QUEUED: usize = 20;

/// Hand-overs after the death of a holder's wrapper.
const DEATHS: usize = 20;

/// How the program calls itself as the command under the lock.
const STAMP: &str = "--stamp";

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(position) = args.iter().position(|arg| arg == STAMP) {
        return stamp(Path::new(&args[position + 1]), args[position + 2].parse().unwrap());
    }
    let program = std::env::var("OFFICER_BENCH_PROGRAM")
        .unwrap_or_else(|_| env!("CARGO_BIN_EXE_officer-exec").to_owned());
    let folder = tempfile::tempdir().unwrap();
    let bench =
        Bench { server: Server::start(&program, folder.path()), program, folder: folder.path().to_owned() };
    println!("program: {}\n", bench.program);
    bench.start_up();
    bench.hand_over();
    bench.death();
}

/// The command: writes when it starts, works, writes when it ends.
fn stamp(file: &Path, work: u64) {
    let mut file = OpenOptions::new().append(true).create(true).open(file).unwrap();
    writeln!(file, "start {}", now_nanos()).unwrap();
    std::thread::sleep(Duration::from_millis(work));
    writeln!(file, "end {}", now_nanos()).unwrap();
}

fn now_nanos() -> u128 {
    Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()).as_nanos()
}

struct Server(Child);

impl Server {
    fn start(program: &str, folder: &Path) -> Self {
        let socket = folder.join("socket");
        let mut command = Command::new(program);
        command.args(["serve", "-o", "UNIX", "-f"]).arg(&socket).arg("--data-dir").arg(folder.join("data"));
        let server = Self(command.stderr(Stdio::null()).spawn().unwrap());
        while UnixStream::connect(&socket).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Bench {
    #[allow(dead_code, reason = "ends the server when the benchmark ends")]
    server: Server,
    program: String,
    folder: std::path::PathBuf,
}

impl Bench {
    fn wrapped(&self, lock: &str, words: &[&str]) -> Command {
        let mut command = program(&self.program);
        command.arg("-s").arg(format!("unix:{}", self.folder.join("socket").display()));
        command.args(["-i", lock, "--"]).args(words);
        command
    }

    fn flock(&self, words: &[&str]) -> Command {
        let mut command = program("flock");
        command.arg(self.folder.join("flock")).args(words);
        command
    }

    /// `WRAPPER -- true` and `flock FILE true`, in turn.
    fn start_up(&self) {
        let (mut ours, mut flock) = (Vec::new(), Vec::new());
        for _ in 0..PAIRS {
            ours.push(wall(&mut self.wrapped("start-up", &["true"])));
            flock.push(wall(&mut self.flock(&["true"])));
        }
        let (ours, flock) = (Figures::of(ours), Figures::of(flock));
        println!("start-up, {PAIRS} pairs           min      median   max (ms)");
        println!("  officer-exec -- true        {ours}");
        println!("  flock FILE true             {flock}");
        println!("  ratio of medians            {:.2}\n", ours.median / flock.median);
    }

    /// From one command's end to the next one's start, in a queue.
    fn hand_over(&self) {
        let ours = Figures::of(self.gaps("ours", |words| self.wrapped("hand-over", words)));
        let flock = Figures::of(self.gaps("flock", |words| self.flock(words)));
        println!("hand-over, {QUEUED} in the queue     min      median   max (ms)");
        println!("  officer-exec                {ours}");
        println!("  flock                       {flock}\n");
    }

    fn gaps(&self, name: &str, wrapped: impl Fn(&[&str]) -> Command) -> Vec<f64> {
        const WORK_MILLIS: &str = "20";
        let log = self.folder.join(name);
        let this = std::env::current_exe().unwrap();
        let words = [this.to_str().unwrap(), STAMP, log.to_str().unwrap(), WORK_MILLIS];
        let queue: Vec<Child> = (0..QUEUED).map(|_| wrapped(&words).spawn().unwrap()).collect();
        for mut child in queue {
            assert!(child.wait().unwrap().success());
        }
        let stamps = stamps(&log);
        stamps[1..].chunks_exact(2).map(|pair| millis(pair[1] - pair[0])).collect()
    }

    /// From SIGKILL of the holder's wrapper to the next command's start.
    fn death(&self) {
        let this = std::env::current_exe().unwrap();
        let log = self.folder.join("death");
        let mut times = Vec::new();
        for round in 0..DEATHS {
            let lock = format!("death-{round}");
            let mut holder = self.wrapped(&lock, &["sleep", "1000"]).spawn().unwrap();
            self.wait_for_queue(&lock, 1);
            let mut next = self
                .wrapped(&lock, &[this.to_str().unwrap(), STAMP, log.to_str().unwrap(), "0"])
                .spawn()
                .unwrap();
            self.wait_for_queue(&lock, 2);
            let killed = now_nanos();
            kill(Pid::from_raw(holder.id() as i32), Signal::SIGKILL).unwrap();
            holder.wait().unwrap();
            next.wait().unwrap();
            times.push(millis(stamps(&log)[2 * round] - killed));
        }
        println!("SIGKILL of the holder's wrapper, {DEATHS} times, to the next start");
        println!("  officer-exec                {}", Figures::of(times));
    }

    fn wait_for_queue(&self, lock: &str, len: usize) {
        use std::io::{BufRead, BufReader};
        loop {
            let mut stream = UnixStream::connect(self.folder.join("socket")).unwrap();
            stream.write_all(b"{\"command\":\"locks\"}\n").unwrap();
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).unwrap();
            let reply: serde_json::Value = serde_json::from_str(&line).unwrap();
            if reply["value"][lock].as_array().map_or(0, Vec::len) == len {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A program in the environment that it has in a shell.
fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    // Of cargo. It has each program search some folders more for its libraries: flock too.
    command.env_remove("LD_LIBRARY_PATH");
    command
}

fn wall(command: &mut Command) -> f64 {
    let started = Instant::now();
    assert!(command.status().unwrap().success());
    started.elapsed().as_secs_f64() * 1e3
}

/// The times in a log of stamps, in the order they were written.
fn stamps(log: &Path) -> Vec<u128> {
    let text = std::fs::read_to_string(log).unwrap();
    text.lines().map(|line| line.split_once(' ').unwrap().1.parse().unwrap()).collect()
}

fn millis(nanos: u128) -> f64 {
    nanos as f64 / 1e6
}

struct Figures {
    min: f64,
    median: f64,
    max: f64,
}

impl Figures {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { min: values[0], median: values[values.len() / 2], max: values[values.len() - 1] }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:8.2} {:8.2} {:8.2}", self.min, self.median, self.max)
    }
}
