//! Man pages and completions are made, know every command, and are accepted by the programs that read them.

mod harness;

use std::process::Command;

use harness::{Ran, need, read, root, temp_dir, tool};

#[test]
fn manuals_and_completions_know_every_command() {
    let dir = temp_dir();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--quiet", "--locked", "--example", "manuals", "--"]).arg(dir.path());
    Ran::of(cargo.current_dir(root())).expect(0);
    let help = tool(["--help"]).expect(0).stdout;
    let (_, commands) = help.split_once("Commands:\n").expect("a list");
    let names: Vec<&str> = commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_ascii_whitespace().next())
        .collect();
    assert!(names.contains(&"scan") && names.contains(&"doctor"), "{names:?}");
    let completions = dir.path().join("completions");
    let scripts = ["vsyspatch.bash", "_vsyspatch", "vsyspatch.fish"]
        .map(|name| String::from_utf8(read(&completions.join(name))).expect("text"));
    for name in names.into_iter().filter(|name| *name != "help") {
        let page = read(&dir.path().join(format!("man/vsyspatch-{name}.1")));
        assert!(page.starts_with(b".ie") && page.len() > 300, "{name}");
        assert!(scripts.iter().all(|script| script.contains(name)), "{name}");
    }
    if need("bash") {
        Ran::of(Command::new("bash").arg("-n").arg(completions.join("vsyspatch.bash"))).expect(0);
    }
}
