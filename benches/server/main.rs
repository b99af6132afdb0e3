//! What the lock server costs, beside a real Redis and a bare echo server, all in one run.
//!
//! `cargo bench --bench server` measures everything, `cargo bench --bench server -- pairs memory` some
//! of it; see `benches/README.md`. Server CPU of one operation (lock + unlock) is the figure to
//! compare: the least of some repeats, for whatever else the machine does only adds to it.

mod contention;
mod echo;
mod load;
mod process;

use std::time::Duration;

use contention::{Flood, Talker, lock, unlock};
use load::{Load, Measured, Step};
use process::{ServerProcess, Socket, Transport};

const REPEATS: usize = 5;
const RUN: Duration = Duration::from_millis(1000);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let [flag, tcp, unix] = &args[..]
        && flag == "--echo-server"
    {
        echo::serve(tcp, unix);
    }
    raise_fd_limit();
    let all: [(&str, fn()); 9] = [
        ("pairs", pairs),
        ("sessions", sessions),
        ("hot", hot),
        ("memory", memory),
        ("queue", queue),
        ("timeouts", timeouts),
        ("flood", flood),
        ("growth", growth),
        ("churn", churn),
    ];
    for (name, measure) in all {
        if args.is_empty() || args.iter().any(|arg| arg == name) {
            measure();
        }
    }
}

fn raise_fd_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// Lock + unlock in Officer's words.
fn officer_steps(name: &str, pipelined: usize) -> Vec<Step> {
    let (lock, unlock) = (lock(name) + "\n", unlock(name) + "\n");
    steps(lock.into_bytes(), unlock.into_bytes(), pipelined)
}

/// The same in Redis's: SET NX PX, and a script that compares and deletes.
fn redis_steps(name: &str, sha: &str, pipelined: usize) -> Vec<Step> {
    let set = resp(&["SET", name, "token-of-mine", "NX", "PX", "10000"]);
    let delete = resp(&["EVALSHA", sha, "1", name, "token-of-mine"]);
    steps(set, delete, pipelined)
}

/// One round trip each, or that many of both in one message.
fn steps(take: Vec<u8>, give: Vec<u8>, pipelined: usize) -> Vec<Step> {
    match pipelined {
        1 => vec![Step { bytes: take, lines: 1 }, Step { bytes: give, lines: 1 }],
        pipelined => vec![Step { bytes: [take, give].concat().repeat(pipelined), lines: 2 * pipelined }],
    }
}

fn resp(words: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len());
    words.iter().for_each(|word| out += &format!("${}\r\n{word}\r\n", word.len()));
    out.into_bytes()
}

fn load_script(redis: &ServerProcess) -> String {
    const SCRIPT: &str =
        "if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end";
    let mut stream = std::net::TcpStream::connect(redis.tcp).unwrap();
    std::io::Write::write_all(&mut stream, &resp(&["SCRIPT", "LOAD", SCRIPT])).unwrap();
    let mut reply = [0; 64];
    let count = std::io::Read::read(&mut stream, &mut reply).unwrap();
    let text = std::str::from_utf8(&reply[..count]).unwrap();
    text.lines().nth(1).unwrap().to_owned()
}

/// The least CPU of some repeats, and what else was measured in that run.
fn least(runs: Vec<Measured>) -> Measured {
    runs.into_iter().min_by(|a, b| a.cpu_micros().total_cmp(&b.cpu_micros())).unwrap()
}

fn pairs() {
    println!(
        "\n| lock + unlock | echo | officer | redis | echo / officer | redis / officer | ops/s | p50 | p99 µs |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (what, transport, connections, pipelined) in [
        ("1 connection, TCP", Transport::Tcp, 1, 1),
        ("50 connections, TCP", Transport::Tcp, 50, 1),
        ("500 connections, TCP", Transport::Tcp, 500, 1),
        ("50 connections, UNIX", Transport::Unix, 50, 1),
        ("50 × 16 pipelined, TCP", Transport::Tcp, 50, 16),
    ] {
        let (echo, officer, redis) =
            (ServerProcess::echo(), ServerProcess::officer(&[]), ServerProcess::redis());
        let sha = load_script(&redis);
        let officer_cycle = |number: usize| officer_steps(&format!("lock-{number}"), pipelined);
        let redis_cycle = |number: usize| redis_steps(&format!("lock-{number}"), &sha, pipelined);
        let per_cycle = pipelined as u64;
        let mut echo_load = Load::new(&echo, transport, connections, per_cycle, officer_cycle);
        let mut officer_load = Load::new(&officer, transport, connections, per_cycle, officer_cycle);
        let mut redis_load = Load::new(&redis, transport, connections, per_cycle, redis_cycle);
        let (mut echos, mut officers, mut redises) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..REPEATS {
            echos.push(echo_load.run(&echo, RUN));
            officers.push(officer_load.run(&officer, RUN));
            redises.push(redis_load.run(&redis, RUN));
        }
        let (echo, mut officer, redis) = (least(echos), least(officers), least(redises));
        println!(
            "| {what} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} | {:.0} |",
            echo.cpu_micros(),
            officer.cpu_micros(),
            redis.cpu_micros(),
            echo.cpu_micros() / officer.cpu_micros(),
            redis.cpu_micros() / officer.cpu_micros(),
            officer.per_second(),
            officer.percentile(50),
            officer.percentile(99),
        );
    }
}

fn sessions() {
    let server = ServerProcess::officer(&[]);
    let mut plain =
        Load::new(&server, Transport::Tcp, 50, 1, |number| officer_steps(&format!("plain-{number}"), 1));
    let mut leased = Load::new(&server, Transport::Tcp, 50, 1, |number| {
        let take = format!("{{\"command\":\"lock\",\"name\":\"leased-{number}\",\"limit\":1}}\n");
        let give = unlock(&format!("leased-{number}")) + "\n";
        steps(take.into_bytes(), give.into_bytes(), 1)
    });
    let open = b"{\"command\":\"open\",\"ttl\":60,\"who\":{\"host\":\"bench\",\"pid\":1}}\n";
    leased.prepare(&Step { bytes: open.to_vec(), lines: 1 });
    let (mut plains, mut leaseds) = (Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        plains.push(plain.run(&server, RUN));
        leaseds.push(leased.run(&server, RUN));
    }
    let (plain, mut leased) = (least(plains), least(leaseds));
    println!("\n| 50 connections, TCP | µs CPU | ops/s | p50 | p99 µs |\n|---|---|---|---|---|");
    println!("| plain | {:.2} | {:.0} | | |", plain.cpu_micros(), plain.per_second());
    println!(
        "| sessions, tokens, store on disk | {:.2} ({:.2} of plain) | {:.0} ({:.2}) | {:.0} | {:.0} |",
        leased.cpu_micros(),
        plain.cpu_micros() / leased.cpu_micros(),
        leased.per_second(),
        leased.per_second() / plain.per_second(),
        leased.percentile(50),
        leased.percentile(99)
    );
}

fn hot() {
    println!("\n| one hot lock | hand-overs/s | p50 | p99 µs | grants max − min |\n|---|---|---|---|---|");
    let limit = {
        let server = ServerProcess::echo();
        let step = Step { bytes: contention::pass_on("hot").into_bytes(), lines: 2 };
        let mut load = Load::new(&server, Transport::Tcp, 1, 1, |_| vec![step.clone()]);
        let runs = (0..REPEATS).map(|_| load.run(&server, RUN));
        let mut best = runs.max_by(|a, b| a.per_second().total_cmp(&b.per_second())).unwrap();
        (best.per_second(), best.percentile(50), best.percentile(99))
    };
    println!(
        "| echo, one connection: a round trip each | {:.0} | {:.0} | {:.0} | |",
        limit.0, limit.1, limit.2
    );
    for (what, contenders, args, spin) in [
        ("2 contenders", 2, &[][..], false),
        ("50", 50, &[], false),
        ("1000", 1000, &[], false),
        ("50, --busy-poll 0", 50, &["--busy-poll", "0"], false),
        ("1000, --busy-poll 0", 1000, &["--busy-poll", "0"], false),
        ("50, --busy-poll 50, clients polling", 50, &["--busy-poll", "50"], true),
    ] {
        let server = ServerProcess::officer(args);
        let runs = (0..REPEATS).map(|_| contention::hot_lock(&server, contenders, RUN, spin));
        let best = runs.max_by(|a, b| a.per_second.total_cmp(&b.per_second)).unwrap();
        println!("| {what} | {:.0} | {:.0} | {:.0} | {} |", best.per_second, best.p50, best.p99, best.spread);
    }
}

fn memory() {
    const CONNECTIONS: usize = 10_000;
    let server = ServerProcess::officer(&[]);
    Talker::new(&server).settle();
    let (empty, before) = (server.memory_kib(), server.own_memory_kib());
    let mut clients: Vec<Socket> =
        (0..CONNECTIONS).map(|_| Socket::connect(&server, Transport::Tcp)).collect();
    Talker::new(&server).settle();
    let idle = server.own_memory_kib();
    for (number, client) in clients.iter_mut().enumerate() {
        client.write((lock(&format!("lock-{number}")) + "\n").as_bytes());
    }
    Talker::new(&server).settle();
    let holding = server.own_memory_kib();
    let per = |kib: u64| (kib - before) as f64 / CONNECTIONS as f64;
    println!("\n| memory | KiB |\n|---|---|");
    println!("| empty server, resident (own, without the program's pages) | {empty} ({before}) |");
    println!("| a connection, idle | {:.2} |", per(idle));
    println!("| a connection with a lock | {:.2} |", per(holding));
}

fn queue() {
    const WAITERS: usize = 10_000;
    let server = ServerProcess::officer(&[]);
    let (p50, p99) = contention::dying_holders(&server, WAITERS, 500);
    println!(
        "\n{WAITERS} waiters, the holder's connection dies: next grant p50 {p50:.0} µs, p99 {p99:.0} µs"
    );
    let served = contention::vanishing_waiters(&server, WAITERS);
    println!(
        "{WAITERS} waiters vanish: a fresh client is served within {:.0} ms",
        served.as_secs_f64() * 1e3
    );
}

fn timeouts() {
    let server = ServerProcess::officer(&[]);
    let (late, kib) = contention::timeouts(&server, 5000);
    println!("\n5000 timeouts at once: p99 {:.0} ms late, memory + {kib} KiB", late.as_secs_f64() * 1e3);
}

fn flood() {
    println!(
        "\n| 50 connections beside one that floods and never reads | rate kept | memory |\n|---|---|---|"
    );
    let (officer, redis) = (ServerProcess::officer(&[]), ServerProcess::redis());
    let sha = load_script(&redis);
    let mut load = Load::new(&officer, Transport::Tcp, 50, 1, |n| officer_steps(&format!("lock-{n}"), 1));
    let alone = (0..REPEATS).map(|_| load.run(&officer, RUN).per_second()).fold(0.0, f64::max);
    let before = officer.memory_kib();
    let flood = Flood::start(&officer);
    let beside = (0..REPEATS).map(|_| load.run(&officer, RUN).per_second()).fold(0.0, f64::max);
    println!(
        "| officer | {:.0} % | + {} KiB |",
        100.0 * beside / alone,
        officer.memory_kib().saturating_sub(before)
    );
    drop(flood);
    let mut load = Load::new(&redis, Transport::Tcp, 50, 1, |n| redis_steps(&format!("lock-{n}"), &sha, 1));
    let alone = (0..REPEATS).map(|_| load.run(&redis, RUN).per_second()).fold(0.0, f64::max);
    let flood = Flood::start(&redis);
    let beside = (0..REPEATS).map(|_| load.run(&redis, RUN).per_second()).fold(0.0, f64::max);
    println!("| redis | {:.0} % | |", 100.0 * beside / alone);
    drop(flood);
}

/// The cost of an operation with nothing else on the server, and with a hundred thousand locks held
/// and as many waits with timeouts.
fn growth() {
    const MANY: usize = 100_000;
    println!("\n| others on the server | µs CPU an operation |\n|---|---|");
    let server = ServerProcess::officer(&["--max-locks", "200000", "--max-idle", "1h"]);
    let measure = || {
        let mut load = Load::new(&server, Transport::Tcp, 50, 1, |n| officer_steps(&format!("mine-{n}"), 1));
        least((0..REPEATS).map(|_| load.run(&server, RUN)).collect()).cpu_micros()
    };
    println!("| none | {:.2} |", measure());
    let (mut holder, mut waiter) = (Talker::new(&server), Talker::new(&server));
    for number in 0..MANY {
        assert!(holder.ask(&lock(&format!("other-{number}"))).contains("\"acquired\""));
    }
    println!("| {MANY} locks | {:.2} |", measure());
    for number in 0..MANY {
        waiter.send(&format!(
            r#"{{"command":"lock","name":"other-{number}","timeout":{}}}"#,
            3000 + number % 600
        ));
    }
    waiter.settle();
    println!("| {MANY} locks and as many waits with timeouts | {:.2} |", measure());
}

/// Memory while names come and go.
fn churn() {
    let server = ServerProcess::officer(&[]);
    let mut load = Load::new(&server, Transport::Tcp, 50, 200, |number| {
        let lines: String = (0..200)
            .map(|turn| {
                let name = format!("churn-{number}-{turn}-{}", "x".repeat(turn));
                lock(&name) + "\n" + &unlock(&name) + "\n"
            })
            .collect();
        vec![Step { bytes: lines.into_bytes(), lines: 400 }]
    });
    load.run(&server, Duration::from_secs(10));
    let early = server.memory_kib();
    load.run(&server, Duration::from_secs(50));
    println!("\nchurn: {early} KiB after 10 s, {} KiB after 60 s", server.memory_kib());
}
