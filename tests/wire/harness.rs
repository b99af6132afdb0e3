//! Servers to talk to and clients that talk lines. Nothing here sleeps: a client waits for a line with
//! one generous deadline, and silence is shown by the next answer being the one to the next question.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use officer::server::{Address, Config, Handle, Listener, ServeError, Server};
use serde_json::Value;

pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A server in this process, on a TCP port and a UNIX socket.
pub(crate) struct TestServer {
    pub(crate) tcp: SocketAddr,
    pub(crate) unix: PathBuf,
    handle: Handle,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
    _dir: tempfile::TempDir,
}

impl TestServer {
    pub(crate) fn start() -> Self {
        Self::with(Config::default())
    }

    pub(crate) fn with(config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let unix = dir.path().join("socket");
        let listeners = vec![Listener::tcp("127.0.0.1:0").unwrap(), Listener::unix(&unix).unwrap()];
        let server = Server::bind(config, listeners).unwrap();
        let Address::Tcp(tcp) = server.addresses()[0] else { panic!("the first is TCP") };
        let handle = server.handle();
        let thread = Some(std::thread::spawn(|| server.run()));
        Self { tcp, unix, handle, thread, _dir: dir }
    }

    pub(crate) fn client(&self) -> Client {
        Client::tcp(self.tcp)
    }

    pub(crate) fn unix_client(&self) -> Client {
        Client::unix(&self.unix)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.handle.stop();
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

/// The real binary.
pub(crate) struct ServerProcess {
    pub(crate) tcp: SocketAddr,
    child: Child,
    /// What it logs, so that its pipe never fills.
    log: Option<JoinHandle<String>>,
}

impl ServerProcess {
    pub(crate) fn start(args: &[&str], data_dir: &Path) -> Self {
        Self::try_start(args, data_dir).unwrap_or_else(|log| panic!("the server didn't start: {log}"))
    }

    /// What it says instead of serving, if it ends at once.
    pub(crate) fn try_start(args: &[&str], data_dir: &Path) -> Result<Self, String> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_officer-exec"))
            .args(["serve", "--port", "0", "--data-dir"])
            .arg(data_dir)
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut log = String::new();
        let tcp = loop {
            let start = log.len();
            if stderr.read_line(&mut log).unwrap() == 0 {
                child.wait().unwrap();
                return Err(log);
            }
            if let Some((_, address)) = log[start..].split_once("listening address=") {
                break address.trim().parse().unwrap();
            }
        };
        let log = std::thread::spawn(move || {
            stderr.read_to_string(&mut log).unwrap();
            log
        });
        Ok(Self { tcp, child, log: Some(log) })
    }

    pub(crate) fn client(&self) -> Client {
        Client::tcp(self.tcp)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// SIGKILL, and gone when this comes back.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; its exit code and log.
    pub(crate) fn terminate(mut self) -> (Option<i32>, String) {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        let status = self.child.wait().unwrap();
        (status.code(), self.log.take().unwrap().join().unwrap())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // It is gone already where the test has ended it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One connection that sends and reads lines.
pub(crate) struct Client {
    pub(crate) stream: Stream,
    reader: BufReader<Stream>,
    pub(crate) label: String,
}

pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Client {
    pub(crate) fn tcp(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let label = stream.local_addr().unwrap().to_string();
        let reader = BufReader::new(Stream::Tcp(stream.try_clone().unwrap()));
        Self { stream: Stream::Tcp(stream), reader, label }
    }

    pub(crate) fn unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let reader = BufReader::new(Stream::Unix(stream.try_clone().unwrap()));
        Self { stream: Stream::Unix(stream), reader, label: "UNIX socket client".into() }
    }

    pub(crate) fn send(&mut self, line: &str) {
        self.send_bytes(format!("{line}\n").as_bytes());
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next line, without its end.
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a line comes before the deadline");
        assert!(line.ends_with('\n'), "the connection ended after {line:?}");
        line.pop();
        line
    }

    /// How long [`Client::try_hear`] waits.
    pub(crate) fn set_patience(&self, patience: Duration) {
        match &self.stream {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(patience)).unwrap(),
            Stream::Unix(stream) => stream.set_read_timeout(Some(patience)).unwrap(),
        }
    }

    /// The next line if it comes soon; for one who has something to say in the meantime.
    pub(crate) fn try_hear(&mut self) -> Option<String> {
        match self.reader.fill_buf() {
            Ok(_) => Some(self.hear()),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
                None
            }
        }
    }

    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.hear()
    }

    pub(crate) fn ask_json(&mut self, line: &str) -> Value {
        serde_json::from_str(&self.ask(line)).unwrap()
    }

    pub(crate) fn hear_json(&mut self) -> Value {
        serde_json::from_str(&self.hear()).unwrap()
    }

    pub(crate) fn lock(&mut self, name: &str) -> String {
        self.ask(&format!(r#"{{"command":"lock","name":"{name}"}}"#))
    }

    pub(crate) fn unlock(&mut self, name: &str) -> String {
        self.ask(&format!(r#"{{"command":"unlock","name":"{name}"}}"#))
    }

    pub(crate) fn send_lock(&mut self, name: &str) {
        self.send(&format!(r#"{{"command":"lock","name":"{name}"}}"#));
    }

    /// Nothing has come and everything sent before is served: the next line answers this question.
    pub(crate) fn is_silent(&mut self) {
        let answer = self.ask(r#"{"command":"my_locks"}"#);
        assert!(answer.ends_with(r#""result":"my_locks"}"#), "an unasked line came: {answer}");
    }

    /// The connection ends, and nothing comes before.
    pub(crate) fn hears_the_end(&mut self) {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => assert!(rest.is_empty(), "came before the end: {:?}", String::from_utf8_lossy(&rest)),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
        }
    }

    /// Everything until the end of the connection.
    pub(crate) fn hear_all(&mut self) -> String {
        let mut rest = String::new();
        self.reader.read_to_string(&mut rest).unwrap();
        rest
    }

    pub(crate) fn end_sending(&mut self) {
        match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write).unwrap(),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write).unwrap(),
        }
    }

    /// Opens a session; its secret.
    pub(crate) fn open(&mut self, ttl: f64) -> String {
        let opened = self.ask_json(&format!(
            r#"{{"command":"open","ttl":{ttl},"who":{{"host":"h","pid":7,"user":"u","run":"x"}}}}"#
        ));
        assert_eq!(opened["result"], "opened", "{opened}");
        opened["session"].as_str().unwrap().to_owned()
    }

    pub(crate) fn resume(&mut self, session: &str) -> Value {
        self.ask_json(&format!(r#"{{"command":"resume","session":"{session}"}}"#))
    }

    /// Asks for a lock with a limit; the grant.
    pub(crate) fn take(&mut self, name: &str, limit: u32) -> Value {
        self.ask_json(&format!(r#"{{"command":"lock","name":"{name}","limit":{limit}}}"#))
    }
}

/// Asks as somebody else until the answer is the expected one: for what happens to others in its own time.
pub(crate) fn wait_until(client: &mut Client, question: &str, mut expected: impl FnMut(&Value) -> bool) {
    let started = std::time::Instant::now();
    loop {
        let answer = client.ask_json(question);
        if expected(&answer) {
            return;
        }
        assert!(started.elapsed() < DEADLINE, "still {answer}");
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
