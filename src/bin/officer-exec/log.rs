//! Our own log, on stderr only. A stderr that nobody reads costs lines (counted), never time: a
//! thread of its own does the writing, so nothing that decides about a lock waits for it.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use clap::ValueEnum;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::cli::LogPlan;

/// Lines that wait for a slow stderr; further ones are lost.
const QUEUED_LINES: usize = 1024;

/// How long the end of the program waits for a slow stderr.
const FLUSH_BOUND: Duration = Duration::from_secs(1);

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// From which level on lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
#[allow(missing_docs)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// Starts logging. Nothing is made before the first line: most runs have none.
pub fn start(plan: LogPlan) {
    let level = LevelFilter::from(plan.level);
    let subscriber = Late { wanted: whose(level), level, format: plan.format, subscriber: OnceLock::new() };
    tracing::subscriber::set_global_default(subscriber).expect("logging is started once");
}

/// Makes the real subscriber when there is something to be told.
struct Late {
    wanted: Targets,
    level: LevelFilter,
    format: LogFormat,
    subscriber: OnceLock<Box<dyn Subscriber + Send + Sync>>,
}

impl Late {
    fn subscriber(&self) -> &(dyn Subscriber + Send + Sync) {
        self.subscriber.get_or_init(|| {
            let builder =
                tracing_subscriber::fmt().with_max_level(self.level).with_writer(Stderr).with_ansi(false);
            match self.format {
                LogFormat::Text => Box::new(builder.event_format(Plain).finish()),
                LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
            }
        })
    }
}

impl Subscriber for Late {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.wanted.would_enable(metadata.target(), metadata.level())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        self.subscriber().new_span(attributes)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        self.subscriber().record(span, values);
    }

    fn record_follows_from(&self, span: &Id, follows: &Id) {
        self.subscriber().record_follows_from(span, follows);
    }

    fn event(&self, event: &Event<'_>) {
        self.subscriber().event(event);
    }

    fn enter(&self, span: &Id) {
        self.subscriber().enter(span);
    }

    fn exit(&self, span: &Id) {
        self.subscriber().exit(span);
    }

    fn clone_span(&self, span: &Id) -> Id {
        self.subscriber().clone_span(span)
    }

    fn try_close(&self, span: Id) -> bool {
        self.subscriber().try_close(span)
    }
}

/// Ours alone, unless someone is looking for a fault: what a library has to say of an engine comes to
/// us as an error, and is told once, in our words.
fn whose(level: LevelFilter) -> Targets {
    let of_libraries = if level >= LevelFilter::DEBUG { level } else { LevelFilter::OFF };
    Targets::new().with_default(of_libraries).with_target("officer", level).with_target("officer_exec", level)
}

/// Starts the log of a server, whose lines bear the time: nobody may collect them but a file.
pub fn start_timed(level: LevelFilter) {
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_writer(Stderr)
        .with_ansi(false)
        .init();
}

/// Waits, for a bounded time, until what was logged is written.
pub fn finish() {
    if let Some(sink) = SINK.get() {
        sink.flush();
    }
}

static SINK: OnceLock<Sink> = OnceLock::new();

struct Sink {
    /// `None`: no thread could be made, so lines are written where they come up.
    entries: Option<SyncSender<Entry>>,
    lost: AtomicU64,
}

enum Entry {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

impl Sink {
    fn start() -> Self {
        let (entries, queued) = sync_channel(QUEUED_LINES);
        let started = std::thread::Builder::new().spawn(move || write_all(&queued));
        Self { entries: started.is_ok().then_some(entries), lost: AtomicU64::new(0) }
    }

    fn push(&self, line: Vec<u8>) {
        let taken = match &self.entries {
            Some(entries) => entries.try_send(Entry::Line(line)).is_ok(),
            None => write_if_it_does_not_block(&line),
        };
        if !taken {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            self.push(
                format!("officer-exec: {lost} log lines were lost, stderr was not read\n").into_bytes(),
            );
        }
        let Some(entries) = &self.entries else { return };
        let (done, flushed) = sync_channel(1);
        if entries.try_send(Entry::Flush(done)).is_ok() {
            // A stderr that is stuck for good must not keep us: whatever is left is lost.
            let _ = flushed.recv_timeout(FLUSH_BOUND);
        }
    }
}

fn write_all(queued: &Receiver<Entry>) {
    // A terminal that stops whoever writes to it from behind (stty tostop) would stop us and the command
    // for a line of ours. That this fails is not to be feared, and no reason to write nothing.
    let _ = terminal_stop().thread_block();
    for entry in queued {
        match entry {
            // A stderr that is closed can't be told.
            Entry::Line(line) => drop(io::stderr().write_all(&line)),
            Entry::Flush(done) => drop(done.send(())),
        }
    }
}

fn terminal_stop() -> SigSet {
    SigSet::from_iter([Signal::SIGTTOU])
}

/// Writes what fits at once, on the thread that has other things to do; returns whether it did.
fn write_if_it_does_not_block(line: &[u8]) -> bool {
    let stderr = io::stderr();
    let mut room = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    let is_ready = line.len() <= libc::PIPE_BUF && poll(&mut room, PollTimeout::ZERO) == Ok(1);
    let Ok(mask) = terminal_stop().thread_swap_mask(SigmaskHow::SIG_BLOCK) else { return false };
    let written = is_ready && io::stderr().write_all(line).is_ok();
    let _ = mask.thread_set_mask();
    written
}

/// Makes a writer for each event.
struct Stderr;

/// Collects one event, and queues it as a whole.
struct Line(Vec<u8>);

impl MakeWriter<'_> for Stderr {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line(Vec::new())
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        SINK.get_or_init(Sink::start).push(std::mem::take(&mut self.0));
    }
}

/// `officer-exec: message field=value`: whoever collects stderr adds the time.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        context.format_fields(Writer::new(&mut text), event)?;
        writer.write_str("officer-exec: ")?;
        write_on_one_line(&mut writer, &text)?;
        writeln!(writer)
    }
}

/// A lock's name and another's command line may have any character; one event stays one line.
fn write_on_one_line(writer: &mut Writer<'_>, text: &str) -> fmt::Result {
    for character in text.chars() {
        match character.is_control() {
            true => write!(writer, "{}", character.escape_default())?,
            false => writer.write_char(character)?,
        }
    }
    Ok(())
}
