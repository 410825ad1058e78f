//! Writes man pages and completions to the directory that is named: what a package holds besides the command.
//!
//! ```text
//! man/vsyspatch.1, man/vsyspatch-COMMAND.1
//! completions/vsyspatch.bash, completions/_vsyspatch (zsh), completions/vsyspatch.fish
//! ```

use std::path::PathBuf;
use std::{env, fs, io};

use clap_complete::Shell;

fn main() -> io::Result<()> {
    let Some(dir) = env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("name the directory to write to"));
    };
    let mut command = vsyspatch::cli::definition();
    let (man, completions) = (dir.join("man"), dir.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    clap_mangen::generate_to(command.clone(), &man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "vsyspatch", &completions)?;
    }
    Ok(())
}
