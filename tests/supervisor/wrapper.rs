//! The wrapper that the tests drive: a small program on the public API. Events go out over the
//! control socket, one JSON line each, orders come in over it.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use officer::boot_time::BootTime;
use officer::supervisor::{
    Event, Guardian, LastWill, Launch, Leftovers, Pid, Policy, Received, Signal, Signals, let_go_of_stdio,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// What the wrapper is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) control: PathBuf,
    pub(crate) argv: Vec<OsString>,
    pub(crate) stop_signal: i32,
    pub(crate) grace: Duration,
    pub(crate) leftovers: Leftovers,
    pub(crate) isolate: bool,
    /// From the start on.
    pub(crate) deadline: Option<Duration>,
    /// Where the last will leaves its mark.
    pub(crate) will: Option<PathBuf>,
    /// A socket to connect to and to have kept open.
    pub(crate) keep_open: Option<PathBuf>,
    /// Exit without starting anything.
    pub(crate) leave_early: bool,
    /// Start nothing, ever.
    pub(crate) wait: bool,
}

/// What the last will gets on its stdin.
pub(crate) const SECRET: &str = "open sesame";

/// The exit code if the command could not be started.
pub(crate) const NOT_STARTED: i32 = 99;

pub(crate) fn main(plan: OsString) {
    let plan: Plan = serde_json::from_str(plan.to_str().expect("a plan is text")).expect("a plan");
    let guardian = Guardian::fork().expect("the guardian is forked");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let code = runtime.block_on(supervise(guardian, plan));
    std::process::exit(code);
}

async fn supervise(mut guardian: Guardian, plan: Plan) -> i32 {
    let mut signals = Signals::listen().expect("signals can be heard");
    let mut control = Control::connect(&plan).await;
    if let Some(will) = will(&plan) {
        guardian.bequeath(will).expect("there is room for a will");
    }
    control
        .tell(json!({"event": "ready", "pid": std::process::id(), "guardian": guardian.pid().as_raw()}))
        .await;
    if plan.leave_early {
        return 0;
    }
    if plan.wait {
        std::future::pending().await
    }
    match guardian.start(launch(&plan)).await {
        Ok(pid) => control.tell(json!({"event": "started", "pid": pid.as_raw()})).await,
        Err(error) => {
            control.tell(json!({"event": "not_started", "error": format!("{error:?}")})).await;
            guardian.dismiss().await;
            return NOT_STARTED;
        }
    }
    let_go_of_stdio().expect("the null device is there");
    loop {
        tokio::select! {
            event = guardian.event() => {
                control.tell(described(&event)).await;
                if let Event::TreeDead { exit, .. } = event {
                    guardian.dismiss().await;
                    return exit.shell_code();
                }
            }
            order = control.orders.next_line() => match order.expect("the control socket works") {
                Some(order) => {
                    obey(&mut guardian, &order);
                    if order.starts_with("spare") {
                        control.tell(json!({"event": "spared"})).await;
                    }
                }
                None => panic!("the test is gone"),
            },
            received = signals.next() => {
                let Received { signal, from_terminal } = received.expect("signals can be heard");
                let told = json!({"event": "signal", "signal": signal as i32, "from_terminal": from_terminal});
                control.tell(told).await;
                if !from_terminal {
                    guardian.signal(signal);
                }
            }
        }
    }
}

fn launch(plan: &Plan) -> Launch {
    Launch {
        argv: plan.argv.clone(),
        env: vec![("OFFICER_TEST".into(), Some("a value".into()))],
        policy: Policy {
            stop_signal: Signal::try_from(plan.stop_signal).expect("a signal"),
            grace: plan.grace,
            leftovers: plan.leftovers,
        },
        isolate: plan.isolate,
        kill_deadline: plan.deadline.map(|after| BootTime::now() + after),
        will: will(plan),
        keep_open: plan.keep_open.as_ref().map(|path| {
            OwnedFd::from(std::os::unix::net::UnixStream::connect(path).expect("the test listens"))
        }),
    }
}

fn will(plan: &Plan) -> Option<LastWill> {
    let argv = vec!["officer-will".into(), "will".into(), plan.will.as_ref()?.into()];
    Some(LastWill { argv, stdin: SECRET.into() })
}

fn obey(guardian: &mut Guardian, order: &str) {
    let (verb, argument) = order.split_once(' ').unwrap_or((order, ""));
    let number = || argument.parse::<i32>().expect("a number");
    match verb {
        "stop" => guardian.stop(),
        "kill" => guardian.kill(),
        "freeze" => guardian.freeze(),
        "thaw" => guardian.thaw(),
        "signal" => guardian.signal(Signal::try_from(number()).expect("a signal")),
        "spare" => guardian.spare(Pid::from_raw(number())),
        "deadline" => {
            let after = Duration::from_millis(argument.parse().expect("milliseconds"));
            guardian.set_kill_deadline(Some(BootTime::now() + after));
        }
        other => panic!("no such order: {other}"),
    }
}

fn described(event: &Event) -> Value {
    match event {
        Event::Ended(exit) => json!({"event": "ended", "exit": exit}),
        Event::Leftovers(list) => json!({"event": "leftovers", "list": list}),
        Event::Unkillable(list) => json!({"event": "unkillable", "list": list}),
        Event::TreeDead { exit, killed_by } => {
            json!({"event": "tree_dead", "exit": exit, "killed_by": killed_by})
        }
        Event::GuardianDied => json!({"event": "guardian_died"}),
        Event::GuardianGivenUp => json!({"event": "guardian_given_up"}),
    }
}

/// The test's end of the line.
struct Control {
    orders: Lines<BufReader<OwnedReadHalf>>,
    events: OwnedWriteHalf,
}

impl Control {
    async fn connect(plan: &Plan) -> Self {
        let (orders, events) =
            UnixStream::connect(&plan.control).await.expect("the test listens").into_split();
        Self { orders: BufReader::new(orders).lines(), events }
    }

    async fn tell(&mut self, event: Value) {
        self.events.write_all(format!("{event}\n").as_bytes()).await.expect("the test listens");
    }
}
