//! systemd accepts the units, and starts and stops them in the right order.

use std::{fs, path::Path, process::Command};

use testkit::child::example;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/systemd");

fn unit(name: &str) -> String {
    fs::read_to_string(Path::new(FOLDER).join(name)).expect("a unit")
}

#[test]
fn units_pass_systemd_verification() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["mqtt-redis.service", "mqtt-device.service"] {
        // The program is not installed there.
        let text = unit(name).replace("/usr/local/bin/device", "/bin/true");
        fs::write(folder.path().join(name), text).expect("can be written");
    }
    let output = Command::new("systemd-analyze")
        .args(["verify", "./mqtt-device.service", "./mqtt-redis.service"])
        .current_dir(folder.path())
        .output()
        .expect("systemd-analyze of Debian's package systemd");
    let stderr = String::from_utf8_lossy(&output.stderr);
    // It warns of options that it would ignore, and yet succeeds.
    assert!(output.status.success() && stderr.is_empty(), "{stderr}");
}

#[test]
fn device_unit_starts_after_redis_without_requiring() {
    let device = unit("mqtt-device.service");
    let lines: Vec<&str> = device.lines().collect();
    assert!(lines.contains(&"Wants=mqtt-redis.service"));
    assert!(lines.contains(&"After=mqtt-redis.service network.target"));
    assert!(!lines.iter().any(|line| line.starts_with("Requires=")));
    // Without this it is started before Redis has loaded its data.
    assert!(
        unit("mqtt-redis.service")
            .lines()
            .any(|line| line == "Type=notify")
    );
}

#[test]
fn device_takes_options_of_its_unit() {
    let device = unit("mqtt-device.service");
    let command = device
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="));
    let help = Command::new(example("device")).arg("--help").output();
    let help = String::from_utf8(help.expect("it runs").stdout).expect("text");
    let options: Vec<&str> = command
        .expect("it starts something")
        .split(' ')
        .filter(|word| word.starts_with("--"))
        .collect();
    assert!(!options.is_empty());
    for option in options {
        assert!(help.contains(&format!(" {option} <")), "{option}");
    }
}
