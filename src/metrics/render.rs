//! The metrics as text, for programs that serve them in a way of their own.

use std::{
    fs::{self, File},
    io::{self, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use prometheus::{Registry, TextEncoder, proto::MetricFamily};

use crate::error::{Error, ErrorKind};

/// What the registry has, in Prometheus's text format, as `text/plain; version=0.0.4`.
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
/// [`ErrorKind::Render`] where a collector in the registry fails or panics.
pub fn render(registry: &Registry) -> Result<String, Error> {
    encode_text(&gather_families(registry)?)
}

/// Writes what [`render`] gives to a file that is whole at every moment, for the textfile collector
/// of `node_exporter`.
///
/// The text is written beside it, to a name that does not end in `.prom`, and renamed. Everybody
/// can read it. The name of the file itself has to end in `.prom` for that collector to take it.
///
/// # Errors
///
/// [`ErrorKind::Render`] as [`render`], [`ErrorKind::File`] where the file cannot be written.
pub fn write_textfile(registry: &Registry, path: impl AsRef<Path>) -> Result<(), Error> {
    let path = path.as_ref();
    let text = render(registry)?;
    replace(path, text.as_bytes()).map_err(|error| {
        Error::new(
            ErrorKind::File,
            format!("write the metrics to {}", path.display()),
        )
        .with_source(error)
    })
}

/// What every collector has, even where one of them panics.
pub(crate) fn gather_families(registry: &Registry) -> Result<Vec<MetricFamily>, Error> {
    // Nothing of the registry is left half done by a collector that panics: it is only read.
    catch_unwind(AssertUnwindSafe(|| registry.gather())).map_err(|_| {
        Error::new(ErrorKind::Render, "gather the metrics").with_reason("a collector panicked")
    })
}

pub(crate) fn encode_text(families: &[MetricFamily]) -> Result<String, Error> {
    let mut text = String::new();
    TextEncoder::new()
        .encode_utf8(families, &mut text)
        .map_err(|error| {
            Error::new(ErrorKind::Render, "write the metrics as text").with_source(error)
        })?;
    Ok(text)
}

fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let Some(name) = path.file_name() else {
        return Err(io::ErrorKind::IsADirectory.into());
    };
    let mut temporary = name.to_owned();
    // Other programs, and other threads of this one, may write to the same folder.
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    temporary.push(format!(".{}-{number}.tmp", process::id()));
    let temporary = path.with_file_name(temporary);
    let written = File::create_new(&temporary)
        .and_then(|mut file| file.write_all(contents))
        .and_then(|()| make_readable(&temporary))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // It may not even be there.
        drop(fs::remove_file(&temporary));
    }
    written
}

#[cfg(unix)]
fn make_readable(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn make_readable(_: &Path) -> io::Result<()> {
    Ok(())
}
