//! Metrics as text, and as a file for `node_exporter`, for programs with a server of their own or without a port.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{ErrorKind, prometheus::Registry, render, write_textfile};
use tempfile::TempDir;
use testkit::{
    LIMIT, Server, eventually, http_get, on_free_port, promtool_check_metrics, registry,
    try_http_get,
};

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

#[test]
fn rendered_text_is_valid_for_prometheus() {
    let (registry, _persistence) = registry();
    let text = render(&registry).unwrap();
    assert!(text.contains("mqtt_persistence_records{client_id=\"device-1\",kind=\"command\"} 0\n"));
    promtool_check_metrics(&text).expect("clean");
    assert_eq!(render(&Registry::new()).unwrap(), "");
}

#[test]
fn replaced_file_is_public_and_valid_for_prometheus() {
    let (registry, _persistence) = registry();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("mqtt.prom");
    for _ in 0..3 {
        write_textfile(&registry, &path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("client_id=\"device-1\""));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        assert_eq!(
            names(folder.path()),
            ["mqtt.prom"],
            "no temporary file remains"
        );
    }
    promtool_check_metrics(&fs::read_to_string(&path).unwrap()).expect("clean");
}

#[test]
fn concurrent_reader_finds_complete_textfile() {
    let (registry, _persistence) = registry();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("mqtt.prom");
    write_textfile(&registry, &path).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    write_textfile(&registry, &path).unwrap();
                }
            });
        }
        let length = fs::read(&path).unwrap().len();
        for _ in 0..500 {
            // Values may differ by a few digits.
            let now = fs::read(&path).unwrap();
            assert!(now.ends_with(b"\n") && now.len() + 200 > length);
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(names(folder.path()), ["mqtt.prom"]);
}

#[test]
fn prometheus_node_exporter_serves_textfile() {
    let (registry, mut persistence) = registry();
    persistence.put("c-1", vec![b"x"]).unwrap();
    let folder = TempDir::new().unwrap();
    write_textfile(&registry, folder.path().join("mqtt.prom")).unwrap();
    let (port, _exporter) = on_free_port(|port| {
        let mut command = Command::new("prometheus-node-exporter");
        command
            .arg("--collector.disable-defaults")
            .arg("--collector.textfile")
            .arg(format!(
                "--collector.textfile.directory={}",
                folder.path().display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        Server::start(command, "prometheus-node-exporter", "TLS is disabled")
    });
    let samples = |text: &str| {
        // node_exporter formats large bucket bounds differently.
        let lines = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.contains("_bucket{"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    // It logs that it is ready a moment before it listens.
    eventually(LIMIT, "it serves", || {
        try_http_get(("127.0.0.1", port), "/metrics").ok()
    });
    let (status, _, text) = http_get(("127.0.0.1", port), "/metrics");
    assert_eq!(status, 200);
    // The alerting rules detect a stale file by this metric.
    let is_of_file = |line: &str| {
        line.starts_with("node_textfile_mtime_seconds{file=\"") && line.contains("/mqtt.prom\"}")
    };
    assert!(text.lines().any(is_of_file), "{text}");
    let lines = text.lines().map(str::to_owned);
    let served: Vec<String> = lines
        .filter(|line| line.contains("mqtt_persistence_"))
        .collect();
    let stays = |line: &String| line.starts_with("mqtt_persistence_records{");
    assert!(served.iter().any(stays));
    for sample in samples(&render(&registry).unwrap()) {
        if stays(&sample) {
            assert!(served.contains(&sample), "{sample} in {served:#?}");
        }
        // Other values may have changed.
        let series = sample.rsplit_once(' ').unwrap().0;
        assert!(
            served.iter().any(|line| line.starts_with(series)),
            "{series} in {served:#?}"
        );
    }
}

#[test]
fn unwritable_textfile_is_named_and_old_one_stays() {
    let (registry, _persistence) = registry();
    let folder = TempDir::new().unwrap();
    let missing = folder.path().join("missing/mqtt.prom");
    let error = write_textfile(&registry, &missing).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::File);
    assert!(error.to_string().contains("missing/mqtt.prom"), "{error}");

    // The new file cannot be renamed over a folder, and is removed.
    let taken = folder.path().join("taken.prom");
    fs::create_dir(&taken).unwrap();
    assert_eq!(
        write_textfile(&registry, &taken).unwrap_err().kind(),
        ErrorKind::File
    );
    assert_eq!(
        write_textfile(&registry, "/").unwrap_err().kind(),
        ErrorKind::File
    );
    assert_eq!(names(folder.path()), ["taken.prom"]);
}
