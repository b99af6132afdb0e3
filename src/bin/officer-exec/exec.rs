//! The story of one command: acquire, run, watch, end the tree, release. The only place that sees a
//! backend and a supervisor.

use std::ffi::OsString;
use std::time::Duration;

use officer::backend::{
    self, AcquireError, Busy, ConnectError, ConnectOptions, Grant, Guard, Wait, WaitEnd, Will,
};
use officer::boot_time::BootTime;
use officer::boot_timer::BootTimer;
use officer::lease::{Lease, TermsError, TooLate};
use officer::protocol::Who;
use officer::supervisor::{Guardian, LastWill, Launch, Signals, StartError, let_go_of_stdio};

use crate::cli::{Plan, VERBS};
use crate::exit_status::ExitStatus;
use crate::hooks::{Hooks, Occasion};
use crate::last_will;
use crate::request::asks_for_the_end;
use crate::status_file::{Report, StatusFile, seconds};
use crate::user;
use crate::watch::{Parts, Watch};

/// How long giving the lock back may take without a lease that would end by itself.
const RELEASE_BOUND: Duration = Duration::from_secs(10);

/// How long it may take at least, also when the lease is over: a server that gets the request passes
/// the lock on at once, whatever it has heard from us before.
const LEAST_RELEASE_BOUND: Duration = Duration::from_millis(200);

/// The same once a signal has asked us to end. Whoever signals our whole group, as shells and service
/// managers do, ends the command by it too: that signal must not keep the lock from the next one.
const HURRIED_RELEASE_BOUND: Duration = Duration::from_secs(2);

/// Runs the plan's command under its lock and the guardian's eyes.
pub fn run(plan: Plan, guardian: Guardian) -> ExitStatus {
    let status_file = match plan.status_file.as_deref().map(StatusFile::create).transpose() {
        Ok(file) => file,
        Err(error) => {
            let path = plan.status_file.unwrap_or_default();
            tracing::error!("cannot write the status file {}: {error}", path.display());
            return ExitStatus::Usage;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let mut report = Report { lock: plan.wanted.name.clone(), ..Report::default() };
    let entered = runtime.enter();
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return failed(&error),
    };
    let told = runtime.block_on(story(&plan, guardian, &mut signals, &mut report));
    let status = told.unwrap_or_else(|end| end);
    if let Some(file) = status_file {
        file.write(status, &report);
    }
    drop(entered);
    // The process ends here: to take these apart would cost time, and a thread that hangs (a name
    // lookup, say) must not keep the program.
    std::mem::forget((signals, runtime));
    status
}

/// Says what broke on our side.
pub fn failed(error: &dyn std::fmt::Display) -> ExitStatus {
    tracing::error!("{error}");
    ExitStatus::Internal
}

/// `Err` is an end before the command ran.
async fn story(
    plan: &Plan,
    mut guardian: Guardian,
    signals: &mut Signals,
    report: &mut Report,
) -> Result<ExitStatus, ExitStatus> {
    let timer = BootTimer::new().map_err(|error| failed(&error))?;
    if plan.server_is_assumed {
        tracing::warn!(
            "no lock server is configured: the lock {} is local to this host and user; --server local silences this",
            plan.wanted.name
        );
    }
    let asked = BootTime::now();
    let acquired = acquire(plan, signals, &mut guardian).await;
    report.waited = seconds(BootTime::now().saturating_since(asked));
    let (mut guard, mut lease) = acquired?;
    let granted = BootTime::now();
    report.granted(guard.grant());
    tracing::info!(lock = report.lock, token = report.token, slot = report.slot, "acquired");

    let environment = environment(plan, guard.grant());
    let mut hooks = Hooks::new(plan.hooks.clone(), environment.clone());
    if let Some(hook) = hooks.start(Occasion::Acquired) {
        guardian.spare(hook);
    }
    let status = match guardian.start(launch(plan, environment, &*guard, &lease)).await {
        Err(error) => not_started(plan, &error),
        Ok(command) => {
            if let Err(error) = let_go_of_stdio() {
                tracing::info!("stdin and stdout stay open in the wrapper: {error}");
            }
            let parts = Parts { guard: &mut *guard, lease: &mut lease, guardian: &mut guardian, command };
            Watch::new(plan, parts, signals, &mut hooks, timer, granted).run_to_end(report).await
        }
    };
    // On its way, a release isn't lost by our death, so the last will isn't needed any more: the
    // guardian leaves while the engine answers.
    let farewell = async {
        tokio::task::yield_now().await;
        guardian.dismiss().await;
    };
    let (released, ()) = tokio::join!(release(guard, &lease, signals), farewell);
    // What has come by now was meant for a command that has ended since, and may be what has ended it.
    while signals.find_pending(|_| true).is_some() {}
    if released {
        hooks.start(Occasion::Released);
    }
    report.held = Some(seconds(BootTime::now().saturating_since(granted)));
    // How the command ended stays true, whatever becomes of the hooks: its code is told all the same.
    hooks.finish(ending_signal(signals)).await;
    Ok(status)
}

/// Takes the lock, again if a grant came too late to be used.
async fn acquire(
    plan: &Plan,
    signals: &mut Signals,
    guardian: &mut Guardian,
) -> Result<(Box<dyn Guard>, Lease), ExitStatus> {
    let options = ConnectOptions { who: who(plan).await, ..plan.connect.clone() };
    let mut wanted = plan.wanted.clone();
    loop {
        let mut backend = tokio::select! {
            backend = backend::connect(&plan.server, &options) => backend.map_err(|error| not_connected(&error))?,
            end = end_of_wait(signals, guardian) => return Err(end),
        };
        // Before we ask: from then on we may have a place.
        if let Some(Err(error)) = backend.will(&wanted).map(|will| guardian.bequeath(last_will(&will))) {
            tracing::info!("killed while waiting, we would keep our place until its lease ends: {error}");
        }
        let asked = BootTime::now();
        let result = tokio::select! {
            result = backend.acquire(&wanted) => result.map_err(|error| not_acquired(plan, error)),
            end = end_of_wait(signals, guardian) => Err(end),
        };
        let guard = match result {
            Ok(guard) => guard,
            Err(status) => {
                backend.leave().await;
                return Err(status);
            }
        };
        match lease_of(plan, guard.grant()) {
            Ok(lease) => match pending_end(signals) {
                None => return Ok((guard, lease)),
                Some(end) => {
                    give_back(guard).await;
                    return Err(end);
                }
            },
            Err(NoLease::TooLate(error)) => {
                tracing::warn!(lock = plan.wanted.name, "{error}; giving it back and asking again");
                give_back(guard).await;
                if let Wait::AtMost(limit) = &mut wanted.wait {
                    *limit = limit.saturating_sub(BootTime::now().saturating_since(asked));
                }
            }
            Err(NoLease::Terms(error)) => {
                tracing::error!("the lock server granted another ttl than --ttl: {error}");
                give_back(guard).await;
                return Err(ExitStatus::Usage);
            }
        }
    }
}

enum NoLease {
    TooLate(TooLate),
    Terms(TermsError),
}

fn lease_of(plan: &Plan, grant: &Grant) -> Result<Lease, NoLease> {
    let terms = plan.terms.with_ttl(grant.ttl).map_err(NoLease::Terms)?;
    Lease::start(terms, grant.proven_at, BootTime::now()).map_err(NoLease::TooLate)
}

async fn give_back(guard: Box<dyn Guard>) {
    if let Err(error) = guard.release(RELEASE_BOUND).await {
        tracing::warn!("{error}; its lease will end it");
    }
}

/// What ends a wait before the engine has answered: a signal, or that nobody is left to watch over
/// the command.
async fn end_of_wait(signals: &mut Signals, guardian: &mut Guardian) -> ExitStatus {
    tokio::select! {
        signal = ending_signal(signals) => ExitStatus::Signal(signal),
        _ = guardian.event() => failed(&StartError::GuardianGone),
    }
}

/// Whether a signal that ends a wait has come together with the lock: then nothing is started. One that
/// comes later is the command's.
fn pending_end(signals: &mut Signals) -> Option<ExitStatus> {
    let received = signals.find_pending(|received| asks_for_the_end(received.signal))?;
    Some(ExitStatus::Signal(received.signal as i32))
}

/// The next signal that ends a wait.
async fn ending_signal(signals: &mut Signals) -> i32 {
    loop {
        let received = signals.next().await.expect("our own pipe can be read");
        if asks_for_the_end(received.signal) {
            return received.signal as i32;
        }
    }
}

fn not_connected(error: &ConnectError) -> ExitStatus {
    tracing::error!("{error}");
    error.into()
}

fn not_acquired(plan: &Plan, mut error: AcquireError) -> ExitStatus {
    // It may have been asked for twice; the limit is that of both waits together.
    if let (AcquireError::Busy(Busy { ended_by: WaitEnd::WaitLimit(limit), .. }), Wait::AtMost(whole)) =
        (&mut error, plan.wanted.wait)
    {
        *limit = whole;
    }
    match &error {
        AcquireError::Connection(error) => return not_connected(error),
        AcquireError::Busy(_) | AcquireError::NotReady { .. } => tracing::warn!("not acquired: {error}"),
        AcquireError::LimitMismatch { .. } | AcquireError::Protocol { .. } => tracing::error!("{error}"),
    }
    match error {
        AcquireError::Busy(_) | AcquireError::NotReady { .. } => {
            ExitStatus::NotAcquired(plan.conflict_exit_code)
        }
        AcquireError::LimitMismatch { .. } => ExitStatus::Usage,
        AcquireError::Protocol { .. } | AcquireError::Connection(_) => ExitStatus::Internal,
    }
}

/// What the guardian is to start, and what it must know if we die.
fn launch(plan: &Plan, env: Vec<(OsString, Option<OsString>)>, guard: &dyn Guard, lease: &Lease) -> Launch {
    let will = guard.will().map(|will| last_will(&will));
    Launch {
        argv: plan.argv.clone(),
        env,
        policy: plan.policy,
        isolate: plan.isolate,
        kill_deadline: lease.kill_deadline(),
        will,
        keep_open: guard.connection(),
    }
}

/// A will as the guardian carries it out.
fn last_will(will: &Will) -> LastWill {
    LastWill {
        argv: vec!["officer-exec".into(), last_will::VERB.into()],
        stdin: serde_json::to_vec(will).expect("a will has only texts"),
    }
}

/// What the command is told of its lock. What an engine doesn't have is taken out: it would be the
/// token of a lock around this one.
fn environment(plan: &Plan, grant: &Grant) -> Vec<(OsString, Option<OsString>)> {
    let variables = [
        ("OFFICER_LOCK", Some(grant.name.clone())),
        ("OFFICER_LIMIT", Some(plan.wanted.limit.to_string())),
        ("OFFICER_SERVER", Some(plan.server.to_string())),
        ("OFFICER_TOKEN", grant.token.map(|token| token.to_string())),
        ("OFFICER_SLOT", grant.slot.map(|slot| slot.to_string())),
    ];
    let own = variables.into_iter().map(|(name, value)| (name.into(), value.map(OsString::from)));
    let engines = grant.env.iter().map(|(name, value)| (name.into(), Some(value.into())));
    own.chain(engines).collect()
}

fn not_started(plan: &Plan, error: &StartError) -> ExitStatus {
    match error {
        // A variable that is empty, more often than not.
        StartError::NotFound { program } if program.is_empty() => {
            tracing::error!("cannot run \"\": the command is an empty word");
        }
        error => tracing::error!("{error}"),
    }
    match error {
        StartError::NotFound { .. } => {
            if VERBS.iter().any(|verb| plan.argv[0] == *verb) {
                tracing::error!("a verb must be the first word: officer-exec {} ...", plan.argv[0].display());
            }
            ExitStatus::NotFound
        }
        StartError::NoInterpreter { .. } => ExitStatus::NotFound,
        StartError::CannotRun { .. } => ExitStatus::CannotRun,
        StartError::TooLate { .. } => ExitStatus::Lost,
        StartError::CannotIsolate { .. }
        | StartError::NoNamespaceLeft { .. }
        | StartError::GuardianGone
        | StartError::Refused(_) => ExitStatus::Internal,
    }
}

/// Gives the lock back, if it may still count as ours, and says whether that was confirmed. A signal
/// that would end a wait shortens the time for it; the rest is left to the lease.
async fn release(guard: Box<dyn Guard>, lease: &Lease, signals: &mut Signals) -> bool {
    if !lease.may_be_ours() {
        return false;
    }
    let left = lease.end().map(|end| end.saturating_since(BootTime::now()));
    let bound = left.map_or(RELEASE_BOUND, |left| left.max(LEAST_RELEASE_BOUND));
    let mut releasing = guard.release(bound);
    let released = tokio::select! {
        released = &mut releasing => Ok(released),
        _ = ending_signal(signals) => tokio::time::timeout(HURRIED_RELEASE_BOUND, releasing).await,
    };
    match released {
        Ok(Ok(())) => return true,
        Ok(Err(error)) if left == Some(Duration::ZERO) => tracing::info!("{error}; its lease is over"),
        Ok(Err(error)) => tracing::warn!("{error}; its lease ends it"),
        Err(_) => tracing::warn!("interrupted while giving the lock back; its lease ends it"),
    }
    false
}

/// Who we are, for others who want the lock. The user database may start threads, hence not earlier.
async fn who(plan: &Plan) -> Who {
    Who {
        host: nix::unistd::gethostname().ok().map(|host| host.to_string_lossy().into_owned()),
        pid: Some(std::process::id()),
        user: user::name().await,
        run: Some(plan.shown_command.clone()),
    }
}
