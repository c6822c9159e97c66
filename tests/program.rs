//! The program starts.

use std::process::Command;

#[test]
fn program_prints_its_version() {
    let output = Command::new(env!("CARGO_BIN_EXE_mqtt-backlog"))
        .arg("--version")
        .output()
        .expect("starts");
    let version = concat!("mqtt-backlog ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout), version);
}
