//! The README's examples do what it says: each console block is run, its output compared.

use std::path::Path;
use std::process::Command;

const PROGRAM: &str = env!("CARGO_BIN_EXE_officer-exec");

/// Stands for whatever is there, on one line.
const ANYTHING: &str = "[..]";

/// A command line and what it prints.
struct Example {
    line: String,
    output: String,
}

fn examples(text: &str) -> Vec<Example> {
    let mut found: Vec<Example> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match line {
            "```console" => inside = true,
            "```" => inside = false,
            _ if !inside => {}
            _ => match line.strip_prefix("$ ") {
                Some(line) => found.push(Example { line: line.to_owned(), output: String::new() }),
                None => found.last_mut().expect("output follows a command").output += &format!("{line}\n"),
            },
        }
    }
    found
}

fn matches(expected: &str, actual: &str) -> bool {
    let line_matches = |expected: &str, actual: &str| match expected.split_once(ANYTHING) {
        Some((start, end)) => actual.starts_with(start) && actual.ends_with(end),
        None => expected == actual,
    };
    expected.lines().count() == actual.lines().count()
        && expected.lines().zip(actual.lines()).all(|(expected, actual)| line_matches(expected, actual))
}

#[test]
fn the_console_examples_are_true() {
    let folder = Path::new(PROGRAM).parent().unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let examples = examples(include_str!("../README.md"));
    assert!(!examples.is_empty());
    for Example { line, output } in examples {
        let ran = Command::new("sh").arg("-c").arg(format!("{{ {line}; }} 2>&1")).env("PATH", &path).output();
        let actual = String::from_utf8(ran.unwrap().stdout).unwrap();
        assert!(matches(&output, &actual), "$ {line}\nexpected:\n{output}\ngot:\n{actual}");
    }
}

#[test]
fn every_exit_code_and_option_that_is_named_exists() {
    let help = Command::new(PROGRAM).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let table = include_str!("../README.md").split("## Options").nth(1).unwrap();
    let table = table.split("## Exit codes").next().unwrap();
    let options: Vec<&str> = table
        .split('`')
        .filter_map(|quoted| quoted.split(", ").find(|word| word.starts_with("--")))
        .collect();
    assert!(options.len() > 10, "{options:?}");
    for option in options {
        let name = option.split_whitespace().next().unwrap();
        assert!(help.contains(name), "{name} is in the README and not in --help");
    }
}
