//! The program: parse, call, print one error, exit.

mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Serve(serve::ServeArgs),
}

fn main() -> ExitCode {
    let Cli { verb: Verb::Serve(args) } = Cli::parse();
    match serve::serve(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("officer-exec: {error}");
            ExitCode::from(70)
        }
    }
}
