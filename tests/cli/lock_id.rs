//! The derived name: the same on every host, in every folder and environment.

use crate::support::{finish, officer_exec};

fn lock_id(words: &[&str]) -> String {
    let finished = finish(officer_exec().arg("--print-lock-id").arg("--").args(words));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    finished.stdout
}

#[test]
fn it_is_the_base_name_and_a_hash_of_the_words() {
    assert_eq!(lock_id(&["/bin/sleep", "30"]), "sleep-5443b3dccfcf\n");
    assert_ne!(lock_id(&["/bin/sleep", "31"]), lock_id(&["/bin/sleep", "30"]));
    assert_ne!(lock_id(&["echo", "a", "b"]), lock_id(&["echo", "a b"]));
}

#[test]
fn it_depends_on_nothing_else() {
    let mut command = officer_exec();
    command.args(["--print-lock-id", "--", "/bin/sleep", "30"]).env_clear().current_dir("/");
    assert_eq!(finish(&mut command).stdout, "sleep-5443b3dccfcf\n");
}

#[test]
fn a_given_name_is_printed_as_it_is() {
    let finished = finish(officer_exec().args(["--print-lock-id", "-i", "nightly report", "true"]));
    assert_eq!(finished.stdout, "nightly report\n");
}
