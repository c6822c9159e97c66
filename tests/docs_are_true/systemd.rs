//! systemd accepts the units, and starts and stops them in the right order.

use std::{fs, path::Path, process::Command};

use testkit::child::example;

use super::page::REDIS;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/systemd");

fn unit(name: &str) -> String {
    fs::read_to_string(Path::new(FOLDER).join(name)).expect("a unit")
}

#[test]
fn units_pass_systemd_verification() {
    let folder = tempfile::tempdir().expect("a folder");
    let names = [
        "mqtt-device.service",
        "mqtt-redis.service",
        "mqtt-valkey.service",
    ];
    for name in names {
        // The program is not installed there, and Valkey not on every machine.
        let text = unit(name)
            .replace("/usr/local/bin/device", "/bin/true")
            .replace("/usr/bin/valkey-server", "/bin/true");
        fs::write(folder.path().join(name), text).expect("can be written");
    }
    let output = Command::new("systemd-analyze")
        .arg("verify")
        .args(names.map(|name| format!("./{name}")))
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
    assert!(lines.contains(&"Wants=mqtt-redis.service mqtt-valkey.service"));
    assert!(lines.contains(&"After=mqtt-redis.service mqtt-valkey.service network.target"));
    assert!(!lines.iter().any(|line| line.starts_with("Requires=")));
    // Without this it is started before Redis has loaded its data.
    for name in ["mqtt-redis.service", "mqtt-valkey.service"] {
        assert!(
            unit(name).lines().any(|line| line == "Type=notify"),
            "{name}"
        );
    }
}

/// The documented change to the unit of the program leads to the socket and the group of the Valkey that its unit starts.
#[test]
fn device_unit_fits_valkey_after_documented_change() {
    let change = REDIS.between("sudo sed -i '", "'");
    let output = Command::new("sed")
        .args([change, &format!("{FOLDER}/mqtt-device.service")])
        .output()
        .expect("sed");
    let device = String::from_utf8(output.stdout).expect("text");
    let valkey = unit("mqtt-valkey.service");
    let socket = "/run/valkey/valkey.sock";
    assert!(
        device.contains(&format!(" --redis unix://{socket}\n")),
        "{device}"
    );
    assert!(valkey.contains(&format!(" --unixsocket {socket} ")));
    assert!(
        device.contains("\nSupplementaryGroups=valkey\n"),
        "{device}"
    );
    assert!(valkey.contains("\nGroup=valkey\n"));
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
