//! The name of the user that runs us, for others who want the lock. A user database may ask servers
//! that don't answer (LDAP), so nobody waits long for it: without a name the user is just not told.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use nix::unistd::{Uid, User, geteuid};
use officer::own_thread;

/// The users of this host alone.
const LOCAL_USERS: &str = "/etc/passwd";

/// How long the rest of the database may take.
const LOOKUP_BOUND: Duration = Duration::from_millis(500);

/// Our name, if it is found in time.
pub async fn name() -> Option<String> {
    let uid = geteuid();
    if let Some(name) = local_name(uid) {
        return Some(name);
    }
    // Its thread may hang beyond the bound; nobody waits for it, not even at the end.
    let lookup = own_thread::run(move || User::from_uid(uid));
    let found = tokio::time::timeout(LOOKUP_BOUND, lookup).await.ok()?.ok()?.ok()??;
    Some(found.name)
}

/// Most users are in this file, which is read without the database's libraries and threads.
fn local_name(uid: Uid) -> Option<String> {
    let mut options = std::fs::File::options();
    let mut text = String::new();
    // Whatever it is instead of a file: it doesn't block.
    options
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(LOCAL_USERS)
        .ok()?
        .read_to_string(&mut text)
        .ok()?;
    name_in(&text, uid)
}

fn name_in(users: &str, uid: Uid) -> Option<String> {
    let uid = uid.to_string();
    let mut lines = users.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| {
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1) == Some(&uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_the_whole_number() {
        let users = "root:x:0:0::/root:/bin/sh\n# 10\n\n+::::::\nab:x:10:0::/:/\nabc:x:1:0::/:/\n";
        assert_eq!(name_in(users, Uid::from_raw(1)).as_deref(), Some("abc"));
        assert_eq!(name_in(users, Uid::from_raw(10)).as_deref(), Some("ab"));
        assert_eq!(name_in(users, Uid::from_raw(100)), None);
    }
}
