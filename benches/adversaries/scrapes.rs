//! Scrapes like those of a Prometheus, each on a connection of its own.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// Timeout of a scrape.
const LIMIT: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_millis(50);

#[derive(Default)]
pub struct Scrapes {
    times: Vec<Duration>,
    /// Refused in time, because no place is free.
    pub refused: usize,
    failed: usize,
}

impl Scrapes {
    pub fn answered(&self) -> usize {
        self.times.len()
    }

    pub fn tried(&self) -> usize {
        self.times.len() + self.refused + self.failed
    }

    /// 99th percentile of the answered scrapes.
    pub fn p99(&self) -> String {
        let mut times = self.times.clone();
        times.sort_unstable();
        let position = (times.len() * 99).div_ceil(100).saturating_sub(1);
        times.get(position).map_or("–".to_owned(), |time| {
            format!("{:.1} ms", time.as_secs_f64() * 1e3)
        })
    }
}

enum ScrapeResult {
    Answered,
    Refused,
    Failed,
}

/// Scrapes repeatedly for this long.
pub fn scrape_for(address: SocketAddr, lasting: Duration) -> Scrapes {
    let started = Instant::now();
    let mut scrapes = Scrapes::default();
    while started.elapsed() < lasting {
        let begun = Instant::now();
        let result = scrape(address, begun);
        let took = begun.elapsed();
        match result {
            ScrapeResult::Answered if took <= LIMIT => scrapes.times.push(took),
            ScrapeResult::Refused if took <= LIMIT => scrapes.refused += 1,
            _ => scrapes.failed += 1,
        }
        thread::sleep(INTERVAL.saturating_sub(took));
    }
    scrapes
}

fn scrape(address: SocketAddr, begun: Instant) -> ScrapeResult {
    let answer = exchange(address, begun);
    let text = answer.as_deref().map(String::from_utf8_lossy);
    match text {
        Ok(text) if text.starts_with("HTTP/1.1 200") && text.contains("mqtt_persistence_") => {
            ScrapeResult::Answered
        }
        Ok(text) if text.starts_with("HTTP/1.1 503") => ScrapeResult::Refused,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
            ) =>
        {
            ScrapeResult::Refused
        }
        _ => ScrapeResult::Failed,
    }
}

fn exchange(address: SocketAddr, begun: Instant) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.write_all(
        b"GET /metrics HTTP/1.1\r\nHost: device\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n",
    )?;
    let mut answer = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        let remaining = LIMIT.saturating_sub(begun.elapsed());
        if remaining.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(remaining))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(answer),
            Ok(read) => answer.extend_from_slice(&chunk[..read]),
            // The connection broke after the refusal.
            Err(_) if answer.starts_with(b"HTTP/1.1 503") => return Ok(answer),
            Err(error) => return Err(error),
        }
    }
}
