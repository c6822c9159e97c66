//! The stream of a connection.

use std::io::{self, Read, Write};

use crate::net::DeadlineStream;

/// A socket, with TLS or without.
pub(super) trait Stream: Read + Write {
    /// The socket below TLS, which has the deadline.
    fn socket(&mut self) -> &mut DeadlineStream;

    /// Ends the writing side, so that the peer reads the end of the response.
    fn finish(&mut self) -> io::Result<()>;
}

impl Stream for DeadlineStream {
    fn socket(&mut self) -> &mut DeadlineStream {
        self
    }

    fn finish(&mut self) -> io::Result<()> {
        DeadlineStream::finish(self)
    }
}
