//! Private `VictoriaMetrics` servers with the command lines from `dashboards/provisioning/`.

use std::path::Path;

use tempfile::TempDir;

use super::{Prometheus, unit::Unit};

pub(crate) const PACKAGE: &str = "victoria-metrics";

/// Starts a store that scrapes what a configuration of Prometheus lists, with its times divided by `factor`.
pub fn store(config: &Path, factor: u32) -> Prometheus {
    let dir = TempDir::new().expect("a folder for VictoriaMetrics");
    let data = dir.path().join("data");
    let unit = Unit::read("victoria-metrics/victoria-metrics.default")
        .set("-storageDataPath", data.display())
        .set("-promscrape.config", config.display())
        .divide("-search.latencyOffset", factor);
    let ready = "started VictoriaMetrics in";
    Prometheus::launch(PACKAGE, ready, data, Some(dir), |port| {
        let unit = unit.clone();
        unit.set("-httpListenAddr", format_args!("127.0.0.1:{port}"))
            .command("victoria-metrics")
    })
}

/// Starts a vmalert that evaluates all rules of a folder on a store, and notifies an Alertmanager.
pub fn alerts(rules: &Path, store: &Prometheus, alertmanager: &str, factor: u32) -> Prometheus {
    let url = format!("http://{}", store.address());
    let unit = Unit::read("victoria-metrics/vmalert.service")
        .set("-rule", rules.join("*.yml").display())
        .set("-datasource.url", &url)
        .set("-remoteWrite.url", &url)
        .set("-remoteRead.url", &url)
        .set("-notifier.url", format_args!("http://{alertmanager}"))
        .divide("-evaluationInterval", factor)
        .divide("-remoteWrite.flushInterval", factor)
        // An alert ends four of these after the evaluation of its group began. By default it is the interval of the evaluation, of
        // which a busy machine needs more for the rules of a group.
        .with("-rule.resendDelay=2s");
    // It stores nothing itself.
    Prometheus::launch(PACKAGE, "pprof handlers", rules.to_owned(), None, |port| {
        let unit = unit.clone();
        unit.set("-httpListenAddr", format_args!("127.0.0.1:{port}"))
            .command("vmalert")
    })
}
