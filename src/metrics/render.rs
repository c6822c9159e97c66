//! The metrics as text: for the endpoint, for custom servers and for `node_exporter`.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process,
    sync::atomic::{AtomicUsize, Ordering},
};

use prometheus::{Registry, TextEncoder, proto::MetricFamily};

use crate::error::{Error, ErrorKind};

/// Returns the metrics of the registry in the Prometheus text format (`text/plain; version=0.0.4`).
///
/// For programs that serve metrics by their own HTTP server.
///
/// ```
/// use paho_mqtt_redis::{PersistenceMetrics, prometheus::Registry, render};
///
/// let registry = Registry::new();
/// let metrics = PersistenceMetrics::register(&registry)?;
/// let text: String = render(&registry)?;
/// # Ok::<(), paho_mqtt_redis::Error>(())
/// ```
///
/// # Errors
///
/// [`ErrorKind::Render`] if a collector in the registry fails or panics.
pub fn render(registry: &Registry) -> Result<String, Error> {
    encode_text(&gather_families(registry)?)
}

/// Writes the text of [`render`] to a file atomically, for the textfile collector of `node_exporter`.
///
/// Writes a temporary file in the same directory, whose name does not end in `.prom`, and renames it, so
/// that the collector never reads half a file. The file is world-readable (mode 0644). The collector
/// reads only files whose names end in `.prom`.
///
/// # Errors
///
/// - [`ErrorKind::Render`] if a collector in the registry fails or panics.
/// - [`ErrorKind::File`] if the file cannot be written.
pub fn write_textfile(registry: &Registry, path: impl AsRef<Path>) -> Result<(), Error> {
    let path = path.as_ref();
    let text = render(registry)?;
    replace_file(path, text.as_bytes()).map_err(|error| {
        Error::new(
            ErrorKind::File,
            format!("write the metrics to {}", path.display()),
        )
        .with_source(error)
    })
}

/// Collects every metric family, and turns the panic of a collector into an error.
pub(crate) fn gather_families(registry: &Registry) -> Result<Vec<MetricFamily>, Error> {
    // Unwind-safe: collecting only reads the registry, so a panic leaves nothing half done.
    catch_unwind(AssertUnwindSafe(|| registry.gather())).map_err(|_| {
        Error::new(ErrorKind::Render, "collect the metrics").with_reason("a collector panicked")
    })
}

/// Encodes the families in the Prometheus text format.
pub(crate) fn encode_text(families: &[MetricFamily]) -> Result<String, Error> {
    let mut text = String::new();
    TextEncoder::new()
        .encode_utf8(families, &mut text)
        .map_err(|error| Error::new(ErrorKind::Render, "encode the metrics").with_source(error))?;
    Ok(text)
}

/// Replaces the contents of the file atomically.
fn replace_file(path: &Path, contents: &[u8]) -> io::Result<()> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let Some(name) = path.file_name() else {
        return Err(io::ErrorKind::IsADirectory.into());
    };
    let mut temporary = name.to_owned();
    // Other processes and other threads of this one may write to the same directory.
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    temporary.push(format!(".{}-{number}.tmp", process::id()));
    let temporary = path.with_file_name(temporary);
    let written = File::create_new(&temporary)
        .and_then(|mut file| file.write_all(contents))
        .and_then(|()| make_readable(&temporary))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The file may not exist; the first error is the one to report.
        drop(fs::remove_file(&temporary));
    }
    written
}

/// Makes the file readable for `node_exporter`, which runs as another user, whatever the umask.
fn make_readable(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}
