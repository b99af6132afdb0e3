//! The man page and the shells' completions, made from the flags themselves.

use std::io::{self, Write};

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell;

use crate::cli::ExecArgs;
use crate::exit_status::ExitStatus;

/// Print the man page, or a shell's completions
#[derive(Args, Clone, Debug)]
pub struct GenerateArgs {
    /// What to print
    #[arg(value_enum)]
    what: What,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// officer-exec(1)
    Man,
    Bash,
    Zsh,
    Fish,
}

/// Prints it on stdout.
pub fn generate(args: GenerateArgs) -> ExitStatus {
    let text = match args.what {
        What::Man => man_page(),
        What::Bash => completions(Shell::Bash),
        What::Zsh => completions(Shell::Zsh),
        What::Fish => completions(Shell::Fish),
    };
    match io::stdout().write_all(&text) {
        Ok(()) => ExitStatus::Success,
        Err(error) => {
            eprintln!("officer-exec: cannot write to stdout: {error}");
            ExitStatus::Internal
        }
    }
}

fn man_page() -> Vec<u8> {
    let mut page = Vec::new();
    let man = clap_mangen::Man::new(ExecArgs::command());
    man.render(&mut page).expect("a vector takes everything");
    page
}

fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut ExecArgs::command(), "officer-exec", &mut script);
    script
}
