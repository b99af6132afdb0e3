//! The cron line on many hosts: one of them gets to run it.

use std::process::Command;

use crate::support::{PROGRAM, Running, Server, clean};

/// `officer-exec -t 1 -- sleep 30 && uptime`, the same line everywhere.
#[test]
fn the_cron_line_on_three_hosts_runs_once() {
    let server = Server::start();
    let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let ran = server.data_dir().join("ran");
    std::fs::create_dir_all(server.data_dir()).unwrap();
    let hosts: Vec<Running> = folders
        .iter()
        .enumerate()
        .map(|(number, folder)| {
            let line = format!("{PROGRAM} -t 1 -- sleep 30 && uptime >> {}", ran.display());
            let mut command = clean(Command::new("sh"));
            command.arg("-c").arg(line).current_dir(folder.path());
            command.env("HOME", folder.path()).env("HOST_NUMBER", number.to_string());
            command.env("OFFICER_SERVER", server.url());
            Running::start(&mut command)
        })
        .collect();
    let mut codes: Vec<Option<i32>> = hosts.into_iter().map(|host| host.finish().code).collect();
    codes.sort();
    assert_eq!(codes, [Some(0), Some(75), Some(75)]);
    assert_eq!(std::fs::read_to_string(&ran).unwrap().lines().count(), 1);
}
