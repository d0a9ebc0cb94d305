//! `omnilink completions`: prints a completion script for a shell.

use clap::CommandFactory;
use clap_complete::Shell;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink completions bash > /etc/bash_completion.d/omnilink
  omnilink completions zsh > \"${fpath[1]}/_omnilink\"
  omnilink completions fish > ~/.config/fish/completions/omnilink.fish")]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

pub(super) fn main(args: &Args) {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut super::Cli::command(),
        "omnilink",
        &mut script,
    );
    super::output::line(String::from_utf8_lossy(&script).trim_end());
}
