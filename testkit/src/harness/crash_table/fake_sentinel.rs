//! A sentinel that names the master that it is given, so that a failover takes no longer than the promotion.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use crate::listening::serve_each;

const SERVICE: &str = "boards";

/// Answers `SENTINEL GET-MASTER-ADDR-BY-NAME`, and anything else with an error.
pub struct FakeSentinel {
    port: u16,
    master: Arc<AtomicU16>,
}

impl FakeSentinel {
    /// Listens on a free port, and names the server on `master` as the master.
    pub fn start(master: u16) -> Self {
        let master = Arc::new(AtomicU16::new(master));
        let named = Arc::clone(&master);
        // Fails if the program dies.
        let port = serve_each(move |stream| drop(serve(&stream, &named)));
        Self { port, master }
    }

    /// Names the server on this port as the master.
    pub fn name(&self, master: u16) {
        self.master.store(master, Ordering::SeqCst);
    }

    /// URL of the service.
    pub fn url(&self) -> String {
        format!("redis-sentinel://127.0.0.1:{}/{SERVICE}", self.port)
    }
}

fn serve(mut stream: &TcpStream, master: &AtomicU16) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(words) = read_command(&mut reader)? {
        let words: Vec<String> = words.iter().map(|word| word.to_uppercase()).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let answer = match words[..] {
            ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", service]
                if service.eq_ignore_ascii_case(SERVICE) =>
            {
                let port = master.load(Ordering::SeqCst).to_string();
                format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.len())
            }
            _ => "-ERR unknown command\r\n".to_owned(),
        };
        stream.write_all(answer.as_bytes())?;
    }
    Ok(())
}

/// Reads the words of a command, none of which has a line break. Returns `None` at the end of the connection.
fn read_command(reader: &mut impl BufRead) -> io::Result<Option<Vec<String>>> {
    let mut line = || -> io::Result<String> {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    };
    let head = line()?;
    let Some(count) = head.strip_prefix('*') else {
        return Ok(None);
    };
    let count: usize = count.parse().map_err(io::Error::other)?;
    let mut words = Vec::new();
    for _ in 0..count {
        let _length = line()?;
        words.push(line()?);
    }
    Ok(Some(words))
}
