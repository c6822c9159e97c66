//! Forwarder to a Redis that rewrites what it answers to `CLIENT LIST`.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// Rewrites one line, which describes a client.
type Rewrite = Box<dyn FnMut(&str) -> String + Send>;

/// Forwards between a program and a Redis of this machine, as if clients had other properties.
pub struct Rewriting {
    port: u16,
}

impl Rewriting {
    /// Listens on a free port, for the Redis on `redis_port`, and passes each line of a list through `rewrite`.
    pub fn start(redis_port: u16, rewrite: impl FnMut(&str) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let rewrite: Arc<Mutex<Rewrite>> = Arc::new(Mutex::new(Box::new(rewrite)));
        // The threads end with the test's process.
        thread::spawn(move || {
            for program in listener.incoming() {
                let redis = TcpStream::connect((Ipv4Addr::LOCALHOST, redis_port));
                let (Ok(program), Ok(redis)) = (program, redis) else {
                    continue;
                };
                let (mut from, mut to) = (
                    program.try_clone().expect("a second handle"),
                    redis.try_clone().expect("a second handle"),
                );
                thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
                let rewrite = Arc::clone(&rewrite);
                thread::spawn(move || {
                    let mut replies = BufReader::new(&redis);
                    while let Ok(reply) = read_reply(&mut replies) {
                        let reply = rewritten(&reply, &mut rewrite.lock().unwrap());
                        if (&program).write_all(&reply).is_err() {
                            break;
                        }
                    }
                    let _ = program.shutdown(Shutdown::Both);
                });
            }
        });
        Self { port }
    }

    /// URL for the program.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }
}

/// Replaces the value of a field, such as `idle=3`, in a line that describes a client.
pub fn with_field(line: &str, field: &str, value: i64) -> String {
    let words = line.split(' ').map(|word| match word.split_once('=') {
        Some((name, _)) if name == field => format!("{field}={value}"),
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Reads the bytes of one reply.
fn read_reply(replies: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut reply = Vec::new();
    if replies.read_until(b'\n', &mut reply)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let number = str::from_utf8(&reply[1..]).unwrap_or_default().trim();
    match (reply[0], number.parse()) {
        (b'$', Ok(length @ 0..)) => {
            let length: u64 = length;
            let read = replies.take(length + 2).read_to_end(&mut reply)?;
            assert_eq!(read as u64, length + 2, "the reply is complete");
        }
        (b'*', Ok(count)) => {
            for _ in 0..count {
                reply.extend(read_reply(replies)?);
            }
        }
        _ => {}
    }
    Ok(reply)
}

fn rewritten(reply: &[u8], rewrite: &mut Rewrite) -> Vec<u8> {
    let text = String::from_utf8_lossy(reply);
    let Some((_, lines)) = text
        .split_once("\r\n")
        .filter(|(head, lines)| head.starts_with('$') && lines.starts_with("id="))
    else {
        return reply.to_vec();
    };
    let lines: String = lines
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| rewrite(line) + "\n")
        .collect();
    format!("${}\r\n{lines}\r\n", lines.len()).into_bytes()
}
