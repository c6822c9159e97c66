//! [`most_unread_bytes`]: the connections that Paho can begin or end before its threads freeze.

use std::{io::Write, os::unix::net::UnixStream, sync::OnceLock};

/// No process has as many connections.
const ENOUGH: usize = 100_000;

/// Returns the bytes that a blocking socket pair takes, one by one, before the next one blocks.
///
/// Paho writes a byte to such a pair for each connection that is pending and for each that it closes. It does so under its
/// global lock, and the thread that reads these bytes needs the lock. A byte that blocks freezes every client of the
/// process for ever (docs/upstream/interrupt-socket.md). The number follows from `net.core.wmem_default`, at the time
/// when Paho makes its pair.
pub(super) fn most_unread_bytes() -> usize {
    static MOST: OnceLock<usize> = OnceLock::new();
    // Without a socket left for this process, Paho cannot connect either.
    *MOST.get_or_init(|| measure().unwrap_or(0))
}

fn measure() -> std::io::Result<usize> {
    let (mut writer, _reader) = UnixStream::pair()?;
    writer.set_nonblocking(true)?;
    let fits = |_: &usize| matches!(writer.write(&[0]), Ok(1));
    Ok((0..ENOUGH).take_while(fits).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_bytes_fit_and_not_all() {
        let most = most_unread_bytes();
        assert!((10..ENOUGH).contains(&most), "{most}");
    }
}
