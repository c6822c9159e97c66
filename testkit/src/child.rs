//! Programs that a test starts and may kill: those of this crate, the examples, and ignored tests in a process of their own.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use super::redis::SERVER_VARIABLE;

/// Variable with the command that runs programs of another processor, as `qemu-aarch64 -L /usr/aarch64-linux-gnu`.
const RUNNER: &str = "TESTKIT_RUNNER";

/// Variable that tests have which run once more with Valkey, so that none of them starts the others again.
const WITHIN_VALKEY: &str = "TESTKIT_WITHIN_VALKEY";

/// Command that runs a program which cargo built, under the emulator if `TESTKIT_RUNNER` names one.
///
/// A server is not run by this: an emulated program starts it natively.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let runner = env::var(RUNNER).unwrap_or_default();
    let mut words = runner.split_whitespace();
    let Some(emulator) = words.next() else {
        return Command::new(program);
    };
    let mut command = Command::new(emulator);
    command.args(words).arg(program);
    command
}

/// Command that runs one of the programs in `main.rs`.
pub fn program(name: &str) -> Command {
    let mut command = command(built("testkit"));
    command.arg(name);
    command
}

/// Path of an example of the library.
pub fn example(name: &str) -> PathBuf {
    built(&format!("examples/{name}"))
}

/// Path of the program of the library.
pub fn tool() -> PathBuf {
    built("mqtt-backlog")
}

/// Command that runs the ignored test `name` of the calling module in a process of its own; pass `module_path!()`.
pub fn ignored_test(module: &str, name: &str) -> Command {
    let test = match module.split_once("::") {
        Some((_, module)) => format!("{module}::{name}"),
        None => name.to_owned(),
    };
    let mut command = command(env::current_exe().expect("the test's own path"));
    command.args(["--exact", &test, "--ignored", "--nocapture"]);
    command
}

/// Runs the tests of the calling binary whose names contain `part` once more, with Valkey in place of Redis.
pub fn assert_passes_with_valkey(part: &str) {
    assert!(
        env::var_os(WITHIN_VALKEY).is_none(),
        "{part:?} selects the test that runs it"
    );
    let output = command(env::current_exe().expect("the test's own path"))
        .arg(part)
        .env(SERVER_VARIABLE, "valkey-server")
        .env(WITHIN_VALKEY, "1")
        .output()
        .expect("the tests can be run once more");
    let text = String::from_utf8_lossy(&output.stdout);
    let has_run = !text.contains("test result: ok. 0 passed");
    assert!(output.status.success() && has_run, "{text}");
}

/// Path of a file that cargo built beside the running test or program.
fn built(name: &str) -> PathBuf {
    let own = env::current_exe().expect("the program's own path");
    let folder = own.parent().expect("a file is in a folder");
    let target = if folder.ends_with("deps") || folder.ends_with("examples") {
        folder.parent().expect("a target folder")
    } else {
        folder
    };
    let path = target.join(name);
    assert!(
        Path::exists(&path),
        "{} is missing: `cargo build --workspace --examples --bins` builds it",
        path.display()
    );
    path
}
