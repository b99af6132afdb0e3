//! The library's client against a real server: what Officer's Ruby client has, and sessions.

use std::future::Future;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use officer::client::{
    Client, ClientError, ClientOptions, Endpoint, Granted, LockOptions, Lost, Session, SessionEnd,
    SessionEvent, close_elsewhere,
};
use officer::lock::Limit;
use officer::protocol::{LockRequest, Reply, Request, Who};
use officer::server::{Config, Handle, Listener, ServeError, Server};

const DEADLINE: Duration = Duration::from_secs(60);

const AT_ONCE: LockOptions = LockOptions { timeout: Some(Duration::ZERO), queue_max: None, limit: None };

struct Running {
    url: String,
    handle: Handle,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Running {
    fn start() -> Self {
        Self::start_with(Config::default())
    }

    fn start_with(config: Config) -> Self {
        let server = Server::bind(config, vec![Listener::tcp("127.0.0.1:0").unwrap()]).unwrap();
        let url = server.addresses()[0].to_string();
        let handle = server.handle();
        Self { url, handle, thread: Some(std::thread::spawn(move || server.run())) }
    }

    async fn client(&self) -> Client {
        Client::connect(&self.url).await.unwrap()
    }

    async fn session(&self) -> Session {
        let endpoint: Endpoint = self.url.parse().unwrap();
        Session::open(Arc::new(endpoint), Duration::from_secs(30), Who::default()).await.unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.stop();
        self.thread.take().unwrap().join().unwrap().unwrap();
    }
}

/// Runs a test, within the one deadline.
fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(DEADLINE, test).await.expect("not within the deadline") })
}

fn lock(name: &'static str) -> Request<'static> {
    Request::Lock(LockRequest { name: name.into(), timeout: None, queue_max: None, limit: Some(Limit::ONE) })
}

#[test]
fn a_lock_is_taken_once_and_given_back_once() {
    let server = Running::start();
    run(async {
        let mut client = server.client().await;
        assert_eq!(client.lock("a", AT_ONCE).await.unwrap(), Granted::Acquired);
        assert_eq!(client.lock("a", AT_ONCE).await.unwrap(), Granted::AlreadyAcquired);
        client.unlock("a").await.unwrap();
        assert!(matches!(client.unlock("a").await, Err(ClientError::NotHeld { name }) if name == "a"));
    });
}

#[test]
fn a_wait_that_ends_names_the_queue() {
    let server = Running::start();
    run(async {
        let (mut holder, mut other) = (server.client().await, server.client().await);
        holder.lock("a", AT_ONCE).await.unwrap();
        let error = other.lock("a", AT_ONCE).await.unwrap_err();
        assert!(error.to_string().starts_with("timed out waiting for a; queue=[\"127.0.0.1:"), "{error}");
        let options = LockOptions { queue_max: Some(1), ..AT_ONCE };
        assert!(
            matches!(other.lock("a", options).await, Err(ClientError::QueueMaxed { queue, .. }) if queue.len() == 1)
        );
        assert_eq!(other.lock("b", AT_ONCE).await.unwrap(), Granted::Acquired, "the connection lives");
    });
}

#[test]
fn nested_with_lock_unlocks_at_the_outermost() {
    let server = Running::start();
    run(async {
        let (mut client, mut other) = (server.client().await, server.client().await);
        let result = client
            .with_lock("a", AT_ONCE, async |client| {
                client.with_lock("a", AT_ONCE, async |_| ()).await.unwrap();
                other.lock("a", AT_ONCE).await.is_err()
            })
            .await;
        assert!(result.unwrap(), "still held after the inner one");
        assert_eq!(other.lock("a", AT_ONCE).await.unwrap(), Granted::Acquired);
    });
}

#[test]
fn reset_reconnect_and_disconnect_give_everything_back() {
    let server = Running::start();
    run(async {
        let mut client = server.client().await;
        let mut other = server.client().await;
        client.lock("a", AT_ONCE).await.unwrap();
        client.lock("b", AT_ONCE).await.unwrap();
        client.reset().await.unwrap();
        assert_eq!(client.my_locks().await.unwrap(), [""; 0]);

        client.lock("a", AT_ONCE).await.unwrap();
        client.reconnect().await.unwrap();
        assert_eq!(other.lock("a", LockOptions::default()).await.unwrap(), Granted::Acquired);

        client.lock("c", AT_ONCE).await.unwrap();
        client.disconnect();
        assert_eq!(other.lock("c", LockOptions::default()).await.unwrap(), Granted::Acquired);
        assert!(matches!(client.lock("d", AT_ONCE).await, Err(ClientError::Disconnected { .. })));
    });
}

#[test]
fn listings_tell_who_has_what() {
    let server = Running::start();
    run(async {
        let (mut client, mut other) = (server.client().await, server.client().await);
        client.lock("a", AT_ONCE).await.unwrap();
        other.lock("b", AT_ONCE).await.unwrap();
        assert_eq!(client.my_locks().await.unwrap(), ["a"]);
        let locks = client.locks().await.unwrap();
        assert_eq!(locks.keys().collect::<Vec<_>>(), ["a", "b"]);
        let connections = client.connections().await.unwrap();
        assert_eq!(connections[&locks["b"][0]], ["b"]);
    });
}

#[test]
fn a_namespace_is_put_in_front_and_taken_off() {
    let server = Running::start();
    run(async {
        let options = ClientOptions { namespace: Some("team".into()), ..ClientOptions::default() };
        let mut client = Client::connect_with(&server.url, options).await.unwrap();
        client.lock("a", AT_ONCE).await.unwrap();
        assert_eq!(client.my_locks().await.unwrap(), ["a"]);
        assert!(client.locks().await.unwrap().contains_key("team:a"));
        assert_eq!(server.client().await.lock("a", AT_ONCE).await.unwrap(), Granted::Acquired);
    });
}

#[test]
fn keep_alives_hold_an_idle_connection() {
    let max_idle = Duration::from_millis(300);
    let server = Running::start_with(Config { max_idle, ..Config::default() });
    run(async {
        let keep_alive_every = Duration::from_millis(50);
        let options = ClientOptions { keep_alive_every, ..ClientOptions::default() };
        let mut alive = Client::connect_with(&server.url, options).await.unwrap();
        let mut silent = server.client().await;
        alive.lock("a", AT_ONCE).await.unwrap();
        silent.lock("b", AT_ONCE).await.unwrap();
        // The silent one is closed: only then does the other get its lock.
        alive.lock("b", LockOptions::default()).await.unwrap();
        assert_eq!(alive.my_locks().await.unwrap(), ["a", "b"]);
        assert!(matches!(silent.my_locks().await, Err(ClientError::Disconnected { .. })));
    });
}

#[test]
fn an_abandoned_request_gives_everything_back() {
    let server = Running::start();
    run(async {
        let (mut holder, mut client) = (server.client().await, server.client().await);
        holder.lock("a", AT_ONCE).await.unwrap();
        client.lock("b", AT_ONCE).await.unwrap();
        tokio::select! {
            biased;
            result = client.lock("a", LockOptions::default()) => panic!("{result:?}"),
            () = tokio::task::yield_now() => {}
        }
        assert!(matches!(client.my_locks().await, Err(ClientError::Disconnected { .. })));
        assert_eq!(holder.lock("b", LockOptions::default()).await.unwrap(), Granted::Acquired);
        client.reconnect().await.unwrap();
        assert_eq!(client.my_locks().await.unwrap(), [""; 0]);
    });
}

#[test]
fn a_refused_request_leaves_the_connection_up() {
    let server = Running::start();
    run(async {
        let mut client = server.client().await;
        client.lock("a", AT_ONCE).await.unwrap();
        assert!(
            matches!(client.lock("", AT_ONCE).await, Err(ClientError::Refused { code, .. }) if code == "bad_field")
        );
        assert_eq!(client.my_locks().await.unwrap(), ["a"]);
    });
}

#[test]
fn a_limit_admits_so_many_and_must_be_agreed_on() {
    let server = Running::start();
    run(async {
        let two = LockOptions { limit: Limit::new(2), ..AT_ONCE };
        let mut clients = [server.client().await, server.client().await, server.client().await];
        assert_eq!(clients[0].lock("a", two).await.unwrap(), Granted::Acquired);
        assert_eq!(clients[1].lock("a", two).await.unwrap(), Granted::Acquired);
        assert!(matches!(clients[2].lock("a", two).await, Err(ClientError::TimedOut { .. })));
        assert!(matches!(clients[2].lock("a", AT_ONCE).await, Err(ClientError::LimitMismatch { .. })));
    });
}

#[test]
fn a_client_hears_that_an_operator_takes_its_lock_and_has_it_until_it_unlocks() {
    let server = Running::start();
    run(async {
        let options = ClientOptions { namespace: Some("team".into()), ..ClientOptions::default() };
        let mut client = Client::connect_with(&server.url, options).await.unwrap();
        let one = LockOptions { limit: Some(Limit::ONE), ..AT_ONCE };
        client.lock("a", one).await.unwrap();
        let mut operator = server.session().await;
        operator.ask(&Request::Status { name: None });
        let SessionEvent::Reply(Reply::Status { value, .. }) = operator.next().await else { panic!() };
        operator.ask(&Request::Release {
            name: "team:a".into(),
            token: value[0].holders[0].holder.token,
            reason: "it hangs".into(),
        });
        assert!(matches!(operator.next().await, SessionEvent::Reply(Reply::Revoking { .. })));
        // Also if it comes while another request is under way.
        client.lock("b", AT_ONCE).await.unwrap();
        let lost = client.lost().await;
        assert!(
            matches!(&lost, Lost::Revoked { name, reason } if name == "a" && reason == "it hangs"),
            "{lost:?}"
        );
        operator.ask(&lock("team:a"));
        client.unlock("a").await.unwrap();
        assert!(matches!(operator.next().await, SessionEvent::Reply(Reply::Acquired(_))));
        tokio::select! {
            biased;
            lost = client.lost() => panic!("{lost:?}"),
            _ = operator.close() => {}
        }
        assert_eq!(client.my_locks().await.unwrap(), ["b"]);
    });
}

#[test]
fn a_client_hears_that_its_connection_broke() {
    let server = Running::start();
    run(async {
        let mut client = server.client().await;
        client.lock("a", AT_ONCE).await.unwrap();
        server.handle.stop();
        assert!(matches!(client.lost().await, Lost::Disconnected { .. }));
        assert!(matches!(client.lost().await, Lost::Disconnected { .. }));
        assert!(matches!(client.my_locks().await, Err(ClientError::Disconnected { .. })));
    });
}

#[test]
fn what_is_no_server_is_named() {
    run(async {
        let error = Client::connect("redis://h").await.err().unwrap().to_string();
        assert!(error.contains("officer://HOST"), "{error}");
    });
}

#[test]
fn a_session_is_renewed_and_closed_from_elsewhere() {
    let server = Running::start();
    run(async {
        let mut session = server.session().await;
        let before = session.proven_at();
        session.ask(&lock("a"));
        assert!(matches!(session.next().await, SessionEvent::Reply(Reply::Acquired(_))));
        session.renew();
        assert!(matches!(session.next().await, SessionEvent::Renewed { sent } if sent > before));
        let endpoint: Endpoint = server.url.parse().unwrap();
        close_elsewhere(&endpoint, session.id()).await.unwrap();
        assert_eq!(server.client().await.lock("a", AT_ONCE).await.unwrap(), Granted::Acquired);
    });
}

#[test]
fn an_unanswered_renewal_is_a_broken_connection_that_is_resumed() {
    let server = Running::start();
    run(async {
        let mut session = server.session().await;
        session.ask(&lock("a"));
        assert!(matches!(session.next().await, SessionEvent::Reply(Reply::Acquired(_))));
        session.renew();
        session.renew();
        assert!(matches!(session.next().await, SessionEvent::Suspended { .. }));
        match session.next().await {
            SessionEvent::Resumed { holds, .. } => assert_eq!(holds[0].name, "a"),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_session_that_the_server_forgot_is_gone() {
    let server = Running::start();
    run(async {
        let mut session = server.session().await;
        let endpoint: Endpoint = server.url.parse().unwrap();
        close_elsewhere(&endpoint, session.id()).await.unwrap();
        loop {
            match session.next().await {
                SessionEvent::Gone(end) => break assert_eq!(end, SessionEnd::Unknown),
                SessionEvent::Suspended { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    });
}
