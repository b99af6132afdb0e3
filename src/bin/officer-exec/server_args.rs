//! Which lock server: the same flags and variables for a command and for operators' verbs, so that both
//! find the same one.

use std::env::VarError;

use clap::Args;
use officer::backend::ServerUrl;

const SERVER_HELP: &str = "\
Lock server: officer://HOST[:PORT], unix:/PATH, zk://HOSTS[/CHROOT], etcd://HOSTS, \
redis://HOST[:PORT][/DB] or local [default: ZKHOSTS, then local] [env: OFFICER_SERVER]";

/// The flags that name a lock server.
#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
    // Not a doc comment: that would need marks around the URLs, which a terminal would show.
    #[arg(short, long, value_name = "URL", help = SERVER_HELP)]
    server: Option<String>,

    /// The same as --server zk://HOSTS [env: ZKHOSTS]
    #[arg(short, long, value_name = "HOSTS", conflicts_with = "server")]
    zkhosts: Option<String>,
}

impl ServerArgs {
    /// The lock server; `None`: nobody has named one. A flag wins over every variable.
    pub fn named(&self) -> Result<Option<ServerUrl>, String> {
        let from_hosts = |hosts: &String| format!("zk://{hosts}");
        let flag = (self.server.clone().map(|url| (url, "--server")))
            .or_else(|| self.zkhosts.as_ref().map(|hosts| (from_hosts(hosts), "--zkhosts")));
        let named = match flag {
            Some(named) => Some(named),
            None => match variable("OFFICER_SERVER")? {
                Some(url) => Some((url, "OFFICER_SERVER")),
                None => variable("ZKHOSTS")?.map(|hosts| (from_hosts(&hosts), "ZKHOSTS")),
            },
        };
        let Some((url, source)) = named else { return Ok(None) };
        url.parse().map(Some).map_err(|error| format!("{source}: {error}"))
    }
}

/// A variable that is set and not empty. One that can't be read is no reason to take another server.
fn variable(name: &str) -> Result<Option<String>, String> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(value)) => Err(format!("{name}: {value:?} is no UTF-8")),
    }
}
