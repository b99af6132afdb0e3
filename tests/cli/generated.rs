//! What is made from the flags: man page and completions.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::{finish, officer_exec};

fn generate(what: &str) -> String {
    let finished = finish(officer_exec().args(["generate", what]));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    finished.stdout
}

#[test]
fn the_man_page_has_every_option() {
    let page = generate("man").replace("\\-", "-");
    let help = finish(officer_exec().arg("--help")).stdout;
    let options: Vec<&str> =
        help.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 2).collect();
    for option in options {
        let name = option.trim_end_matches(|c: char| !c.is_ascii_alphabetic());
        assert!(page.contains(name), "{name}");
    }
}

#[test]
fn nothing_for_people_has_marks_for_machines() {
    let helps = ["", "serve", "status", "release", "verify", "ping", "generate"].map(|verb| {
        let words = [verb, "--help"].into_iter().filter(|word| !word.is_empty());
        finish(officer_exec().args(words)).stdout
    });
    for text in helps.into_iter().chain(["man", "bash", "zsh", "fish"].map(generate)) {
        assert_eq!(text.lines().find(|line| line.contains('`')), None);
        assert!(text.contains("officer"), "{text}");
    }
}

#[test]
fn the_bash_completions_are_a_script() {
    let mut bash = Command::new("bash").args(["-n", "/dev/stdin"]).stdin(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(generate("bash").as_bytes()).unwrap();
    assert!(bash.wait().unwrap().success());
}
