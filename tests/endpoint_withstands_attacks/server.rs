//! `/metrics` is served for valid requests and refused for others. No peer can make the server wait endlessly, buffer data without
//! bound, or outlive its value.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpStream},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use paho_mqtt_redis::{
    MetricsServer, MetricsServerBuilder,
    prometheus::{
        Encoder, IntCounter, Registry, TextEncoder,
        core::{Collector, Desc},
        proto::MetricFamily,
    },
};
use socket2::{Domain, Socket, Type};
use testkit::{
    HttpResponse, LIMIT, REQUEST, answer, answer_of, body, connected, eventually, header, http_get,
    sent, status, try_http_get,
};

/// Allowance beyond a timeout of the server for a busy machine. Timeout and allowance are less than the default of 5 s, so that an
/// option without effect is noticed.
const SLACK: Duration = Duration::from_secs(4);

const ANY: &str = "127.0.0.1:0";

/// Registry with a counter at 7.
fn registry() -> (Registry, IntCounter) {
    let registry = Registry::new();
    let counter = IntCounter::new("readings_total", "Readings that were published.").unwrap();
    registry.register(Box::new(counter.clone())).unwrap();
    counter.inc_by(7);
    (registry, counter)
}

fn builder() -> MetricsServerBuilder {
    MetricsServer::builder(registry().0)
}

#[test]
fn metrics_page_shows_current_registry_values() {
    let (registry, counter) = registry();
    let server = MetricsServer::bind(ANY, registry.clone()).unwrap();
    for _ in 0..3 {
        let (status, headers, body): HttpResponse =
            http_get(server.local_addr().unwrap(), "/metrics");
        assert_eq!(status, 200);
        let content_type = headers.iter().find(|(name, _)| name == "content-type");
        assert_eq!(
            content_type.map(|(_, value)| value.as_str()),
            Some("text/plain; version=0.0.4; charset=utf-8")
        );
        let mut expected = Vec::new();
        TextEncoder::new()
            .encode(&registry.gather(), &mut expected)
            .unwrap();
        assert_eq!(body.as_bytes(), expected);
        assert!(body.contains(&format!("readings_total {}", counter.get())));
        counter.inc();
    }
}

#[test]
fn response_has_length_and_closes_connection() {
    let server = builder().bind(ANY).unwrap();
    let answer = sent(server.local_addr().unwrap(), REQUEST);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let length = body(&answer).len().to_string();
    assert_eq!(header(&answer, "Content-Length"), Some(&*length));
    assert_eq!(header(&answer, "Connection"), Some("close"));
    assert_eq!(header(&answer, "Transfer-Encoding"), None);
}

#[test]
fn query_and_body_are_ignored() {
    let server = builder().bind(ANY).unwrap();
    let (status, _, body) = http_get(server.local_addr().unwrap(), "/metrics?name[]=up");
    assert_eq!((status, body.contains("readings_total 7")), (200, true));
    let request = b"GET /metrics HTTP/1.1\r\nHost: device\r\nContent-Length: 4\r\n\r\nbody";
    let answer = sent(server.local_addr().unwrap(), request);
    assert_eq!(self::status(&answer), "200");
}

#[test]
fn head_request_gets_same_headers_without_body() {
    let server = builder().bind(ANY).unwrap();
    let request = |method| format!("{method} /metrics HTTP/1.1\r\nHost: device\r\n\r\n");
    let get = sent(server.local_addr().unwrap(), request("GET").as_bytes());
    let head = sent(server.local_addr().unwrap(), request("HEAD").as_bytes());
    assert_eq!(status(&head), "200");
    assert_eq!(body(&head), "");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    for name in ["Content-Length", "Content-Type"] {
        assert_eq!(header(&head, name), header(&get, name), "{name}");
        assert!(header(&head, name).is_some(), "{name}");
    }
}

#[test]
fn unserved_request_gets_matching_status() {
    let server = builder().bind(ANY).unwrap();
    let address = server.local_addr().unwrap();
    let request = |line: &str| {
        sent(
            address,
            format!("{line}\r\nHost: device\r\n\r\n").as_bytes(),
        )
    };
    for path in ["/other", "/metricsx", "/metrics/", "//metrics", "/METRICS"] {
        for method in ["GET", "POST"] {
            let answer = request(&format!("{method} {path} HTTP/1.1"));
            assert_eq!(status(&answer), "404", "{method} {path}");
            assert!(body(&answer).contains("at /metrics"), "{answer}");
        }
    }
    let answer = request("HEAD /other HTTP/1.1");
    assert_eq!((status(&answer), body(&answer)), ("404", ""));

    for method in ["POST", "PUT", "DELETE", "OPTIONS", "get", "BREW"] {
        let answer = request(&format!("{method} /metrics HTTP/1.1"));
        assert_eq!(status(&answer), "405", "{method}");
        assert_eq!(header(&answer, "Allow"), Some("GET, HEAD"), "{method}");
    }
    let answer = request("GET /metrics HTTP/1.1");
    assert_eq!(header(&answer, "Allow"), None);

    for line in [
        "GET /metrics",
        "GET",
        "GET /metrics HTTP/9.9",
        "\u{16}\u{3}\u{1}",
    ] {
        assert_eq!(status(&request(line)), "400", "{line:?}");
    }
    // The peer shuts down its writing side before the head is complete.
    let mut stream = connected(address);
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHo").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(status(&answer_of(stream)), "400");
}

/// Request whose head is padded with this many bytes.
fn head(padding: usize) -> String {
    let padding = "x".repeat(padding);
    format!("GET /metrics HTTP/1.1\r\nX-Padding: {padding}\r\n\r\n")
}

#[test]
fn overlong_head_is_refused_whole_or_in_pieces() {
    let server = builder().max_head_bytes(256).bind(ANY).unwrap();
    let address = server.local_addr().unwrap();
    let spare = 256 - head(0).len();
    assert_eq!(status(&sent(address, head(spare).as_bytes())), "200");
    assert_eq!(status(&sent(address, head(spare + 1).as_bytes())), "431");
    assert_eq!(status(&sent(address, head(20_000).as_bytes())), "431");

    // An endless head, piece by piece.
    let mut stream = connected(address);
    let answered = eventually(LIMIT, "an endless head is refused", || {
        // Fails once the request is refused and the connection closed.
        let _ = stream.write_all(&[b'x'; 32]);
        stream
            .set_read_timeout(Some(Duration::from_millis(10)))
            .unwrap();
        let mut answer = [0; 16];
        stream.read_exact(&mut answer).ok().map(|()| answer)
    });
    assert!(answered.starts_with(b"HTTP/1.1 4"), "{answered:?}");
}

#[test]
fn head_limit_is_8_kib_by_default() {
    let server = builder().bind(ANY).unwrap();
    let spare = 8 * 1024 - head(0).len();
    let longest = sent(server.local_addr().unwrap(), head(spare).as_bytes());
    assert_eq!(status(&longest), "200");
    let longer = sent(server.local_addr().unwrap(), head(spare + 1).as_bytes());
    assert_eq!(status(&longer), "431");
}

/// Status of a request with these headers.
fn status_with(address: SocketAddr, headers: &str) -> String {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: device\r\n{headers}\r\n\r\n");
    status(&sent(address, request.as_bytes())).to_owned()
}

#[test]
fn head_with_too_many_headers_is_refused() {
    let server = builder().bind(ANY).unwrap();
    let headers = ["a: b"; 64].join("\r\n");
    assert_eq!(status_with(server.local_addr().unwrap(), &headers), "431");
}

#[test]
fn ambiguous_request_is_refused() {
    let server = builder().bind(ANY).unwrap();
    let address = server.local_addr().unwrap();
    for good in ["Content-Length: 4", "Transfer-Encoding: chunked"] {
        assert_eq!(status_with(address, good), "200", "{good}");
    }
    for bad in [
        "Host: another",
        "Content-Length: 4\r\nContent-Length: 5",
        "Content-Length: 4\r\nContent-Length: 4",
        "Content-Length: 4, 4",
        "Content-Length: +4",
        "Content-Length: 0x4",
        "Content-Length:",
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        " Transfer-Encoding: chunked",
        "Authorization: Bearer a\r\nAuthorization: Bearer b",
    ] {
        assert_eq!(status_with(address, bad), "400", "{bad}");
    }
}

#[test]
fn absolute_form_target_is_served() {
    let server = builder().bind(ANY).unwrap();
    for (target, expected) in [
        ("http://device:9464/metrics?x", "200"),
        ("https://device", "200"),
        ("ftp://device/metrics", "404"),
        ("*", "404"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: device\r\n\r\n");
        let answer = sent(server.local_addr().unwrap(), request.as_bytes());
        assert_eq!(status(&answer), expected, "{target}");
    }
}

#[test]
fn incomplete_head_times_out_with_408() {
    const TIMEOUT: Duration = Duration::from_millis(200);
    let server = builder().request_timeout(TIMEOUT).bind(ANY).unwrap();
    for half in ["", "GET /metrics HTTP/1.1\r\nHost: device\r\n"] {
        let started = Instant::now();
        let answer = sent(server.local_addr().unwrap(), half.as_bytes());
        let took = started.elapsed();
        assert_eq!(status(&answer), "408", "{half:?}");
        assert!(took >= TIMEOUT && took < TIMEOUT + SLACK, "{took:?}");
    }
}

#[test]
fn request_in_single_bytes_is_served() {
    let server = builder().request_timeout(LIMIT).bind(ANY).unwrap();
    let mut stream = connected(server.local_addr().unwrap());
    stream.set_nodelay(true).unwrap();
    for byte in REQUEST {
        stream.write_all(&[*byte]).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(status(&answer_of(stream)), "200");
}

#[test]
fn trickled_head_gets_no_extra_time() {
    const TIMEOUT: Duration = Duration::from_millis(300);
    let server = builder().request_timeout(TIMEOUT).bind(ANY).unwrap();
    let started = Instant::now();
    let mut stream = connected(server.local_addr().unwrap());
    stream
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let answer = eventually(LIMIT, "a slow head is refused", || {
        // Fails once the request is refused and the connection closed.
        let _ = stream.write_all(b"x");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).ok().map(|()| answer)
    });
    let took = started.elapsed();
    assert_eq!(&answer, b"HTTP/1.1 408");
    assert!(took >= TIMEOUT && took < TIMEOUT + SLACK, "{took:?}");
}

/// Gate of a blocking collector, which keeps a scrape in progress until it opens.
struct Gate(mpsc::Sender<()>);

#[derive(Clone)]
struct Waiting {
    counter: IntCounter,
    entered: mpsc::Sender<()>,
    opened: Arc<Mutex<mpsc::Receiver<()>>>,
}

impl Collector for Waiting {
    fn desc(&self) -> Vec<&Desc> {
        self.counter.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.entered.send(()).unwrap();
        // Once the gate is dropped, the collector never blocks again.
        let _ = self.opened.lock().unwrap().recv();
        self.counter.collect()
    }
}

impl Gate {
    /// Registry with a blocking collector, its gate, and a message per collection.
    fn closed() -> (Registry, Self, mpsc::Receiver<()>) {
        let (registry, _) = registry();
        let (entered, has_entered) = mpsc::channel();
        let (gate, opened) = mpsc::channel();
        let counter = IntCounter::new("gated_total", "Waits.").unwrap();
        let opened = Arc::new(Mutex::new(opened));
        registry
            .register(Box::new(Waiting {
                counter,
                entered,
                opened,
            }))
            .unwrap();
        (registry, Self(gate), has_entered)
    }

    fn let_one_through(&self) {
        self.0.send(()).unwrap();
    }
}

#[test]
fn excess_connection_is_refused_while_others_are_busy() {
    let (registry, gate, has_entered) = Gate::closed();
    let server = MetricsServer::builder(registry)
        .max_connections(2)
        .response_timeout(LIMIT)
        .bind(ANY)
        .unwrap();
    let address = server.local_addr().unwrap();
    let mut places: Vec<_> = (0..2).map(|_| connected(address)).collect();
    places[0].write_all(REQUEST).unwrap();
    has_entered.recv_timeout(LIMIT).unwrap();
    places[1].write_all(REQUEST).unwrap();
    let refused = eventually(LIMIT, "both are being served", || {
        let answer = sent(address, b"GET /-/healthy HTTP/1.1\r\nHost: device\r\n\r\n");
        if status(&answer) == "503" {
            return Some(answer);
        }
        // On a busy machine its request was not read yet, so it was evicted.
        places[1] = connected(address);
        places[1].write_all(REQUEST).unwrap();
        None
    });
    let length = body(&refused).len().to_string();
    assert_eq!(header(&refused, "Content-Length"), Some(&*length));
    // A connection that has sent its request gets its answer too.
    for _ in 0..20 {
        assert_eq!(status(&sent(address, REQUEST)), "503");
    }
    gate.let_one_through();
    gate.let_one_through();
    for stream in places {
        assert_eq!(status(&answer_of(stream)), "200");
    }
    drop(gate);
    assert_eq!(status(&sent(address, REQUEST)), "200");
}

#[test]
fn request_given_up_by_peer_frees_its_place() {
    let (registry, gate, has_entered) = Gate::closed();
    let server = MetricsServer::builder(registry)
        .max_connections(1)
        .response_timeout(Duration::from_secs(3600))
        .bind(ANY)
        .unwrap();
    let address = server.local_addr().unwrap();
    let mut given_up = connected(address);
    given_up.write_all(REQUEST).unwrap();
    has_entered.recv_timeout(LIMIT).unwrap();
    // A peer that only ends its writing side still reads.
    given_up.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(status(&sent(address, OTHER)), "503");
    let given_up = Socket::from(given_up);
    given_up.set_linger(Some(Duration::ZERO)).unwrap();
    drop(given_up);
    eventually(LIMIT, "the place is free", || {
        (status(&sent(address, OTHER)) == "404").then_some(())
    });
    drop(gate);
}

#[test]
fn drop_refuses_requests_and_collects_no_more() {
    let (registry, gate, has_entered) = Gate::closed();
    let server = MetricsServer::builder(registry).bind(ANY).unwrap();
    let address = server.local_addr().unwrap();
    let mut streams = [connected(address), connected(address)];
    streams[0].write_all(REQUEST).unwrap();
    has_entered.recv_timeout(LIMIT).unwrap();
    streams[1].write_all(REQUEST).unwrap();
    // A later request has its response, so that one is most likely waiting for the collector.
    assert_eq!(status(&sent(address, OTHER)), "404");
    drop(server);
    for stream in streams {
        assert_eq!(status(&answer_of(stream)), "503");
    }
    gate.let_one_through();
    drop(gate);
    let next = has_entered.recv_timeout(LIMIT);
    assert_eq!(next, Err(mpsc::RecvTimeoutError::Disconnected));
}

#[test]
fn idle_connection_is_evicted_for_new_one() {
    let server = builder()
        .max_connections(2)
        .request_timeout(LIMIT)
        .bind(ANY)
        .unwrap();
    let address = server.local_addr().unwrap();
    let mut silent: Vec<_> = (0..2).map(|_| connected(address)).collect();
    silent[0].write_all(b"GET /metrics HT").unwrap();
    for _ in 0..20 {
        assert_eq!(status(&sent(address, REQUEST)), "200");
    }
    // The oldest connection was evicted, and only that one.
    assert_eq!(status(&answer_of(silent.remove(0))), "503");
    let mut other = silent.remove(0);
    other.write_all(REQUEST).unwrap();
    assert_eq!(status(&answer_of(other)), "200");
}

#[test]
fn flood_from_one_address_does_not_evict_another() {
    let server = builder()
        .max_connections(4)
        .request_timeout(LIMIT)
        .bind(ANY)
        .unwrap();
    let address = server.local_addr().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let elsewhere: SocketAddr = "127.0.0.9:0".parse().unwrap();
    socket.bind(&elsewhere.into()).unwrap();
    socket.connect(&address.into()).unwrap();
    let mut slow = TcpStream::from(socket);
    slow.set_read_timeout(Some(LIMIT)).unwrap();
    slow.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
    let crowd: Vec<_> = (0..40).map(|_| connected(address)).collect();
    // All of them have been accepted now.
    assert_eq!(status(&sent(address, REQUEST)), "200");
    slow.write_all(b"Host: device\r\n\r\n").unwrap();
    assert_eq!(status(&answer_of(slow)), "200");
    drop(crowd);
}

#[test]
fn concurrent_requests_are_all_served() {
    let server = builder().bind(ANY).unwrap();
    let address = server.local_addr().unwrap();
    let mut streams: Vec<_> = (0..16).map(|_| connected(address)).collect();
    for stream in &mut streams {
        stream.write_all(REQUEST).unwrap();
    }
    for stream in streams {
        assert_eq!(status(&answer_of(stream)), "200");
    }
}

#[test]
fn port_zero_reports_actual_port() {
    let one = builder().bind(ANY).unwrap();
    let other = builder().bind(ANY).unwrap();
    assert!(one.local_addr().unwrap().ip().is_loopback());
    assert_ne!(one.local_addr().unwrap().port(), 0);
    assert_ne!(one.local_addr().unwrap(), other.local_addr().unwrap());
    for server in [&one, &other] {
        assert_eq!(http_get(server.local_addr().unwrap(), "/metrics").0, 200);
    }
}

#[test]
fn ipv6_loopback_is_served() {
    let server = builder()
        .bind("[::1]:0")
        .expect("the loopback interface has the address ::1; enable IPv6 on it");
    assert_eq!(server.local_addr().unwrap().ip(), Ipv6Addr::LOCALHOST);
    assert_eq!(http_get(server.local_addr().unwrap(), "/metrics").0, 200);
}

#[test]
fn first_bindable_address_is_served() {
    let taken = builder().bind(ANY).unwrap();
    let addresses = [taken.local_addr().unwrap(), "127.0.0.1:0".parse().unwrap()];
    let server = builder().bind(&addresses[..]).unwrap();
    assert_ne!(server.local_addr().unwrap(), taken.local_addr().unwrap());
    assert_eq!(http_get(server.local_addr().unwrap(), "/metrics").0, 200);
}

#[test]
fn bind_error_names_address_and_cause() {
    let server = builder().bind(ANY).unwrap();
    let taken = server.local_addr().unwrap().to_string();
    for (address, cause) in [
        (&*taken, "another program listens there"),
        // Reserved for documentation, so no machine has it.
        ("192.0.2.1:0", "this machine has no such address"),
    ] {
        let error = builder().bind(address).unwrap_err().to_string();
        assert_eq!(error, format!("cannot serve metrics at {address}: {cause}"));
    }
    for (path, cause) in [
        ("/nowhere/metrics.sock", "its directory does not exist"),
        // Nobody may create files there, not even root.
        ("/sys/metrics.sock", "this user may not bind it"),
    ] {
        let error = builder().bind_unix(path, 0o600).unwrap_err().to_string();
        assert!(error.contains(path) && error.contains(cause), "{error}");
    }
}

#[test]
fn drop_frees_port_at_once() {
    // No other test uses this loopback address, so none gets the port while it is free.
    let mut address: SocketAddr = "127.0.0.2:0".parse().unwrap();
    for _ in 0..10 {
        let server = builder().bind(address).unwrap();
        address = server.local_addr().unwrap();
        // The side that closes first keeps the connection in TIME_WAIT.
        assert_eq!(http_get(address, "/metrics").0, 200);
        drop(server);
        let error = try_http_get(address, "/metrics").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
}

/// Durations of the drop of a server with open connections, and of the end of these connections.
fn drop_with_open_connections() -> (Duration, Duration) {
    let server = builder()
        .request_timeout(Duration::from_secs(3600))
        // No other test uses this loopback address, so none gets the port while it is free.
        .bind("127.0.0.2:0")
        .unwrap();
    let address = server.local_addr().unwrap();
    let mut silent = connected(address);
    let mut half = connected(address);
    half.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
    let mut reader = connected(address);
    reader.write_all(REQUEST).unwrap();
    // This connection has its answer and does not close; the others were accepted before it.
    reader.read_exact(&mut [0; 12]).unwrap();

    let started = Instant::now();
    drop(server);
    let dropped = started.elapsed();
    for stream in [&mut silent, &mut half, &mut reader] {
        answer(stream);
    }
    let ended = started.elapsed();
    drop(builder().bind(address).unwrap());
    (dropped, ended)
}

#[test]
fn drop_closes_open_connections_without_waiting() {
    // A server that waits would take at least a second each time; a busy machine delays only some of the rounds.
    let rounds: Vec<_> = (0..5).map(|_| drop_with_open_connections()).collect();
    let dropped = rounds.iter().map(|(dropped, _)| *dropped).min();
    assert!(dropped < Some(Duration::from_millis(500)), "{rounds:?}");
    let ended = rounds.iter().map(|(_, ended)| *ended).min();
    assert!(ended < Some(Duration::from_secs(1)), "{rounds:?}");
}

/// Starts a server with a single place, and a reader that takes it: its response has begun and is too long for the buffers of both
/// sides.
fn stalled_reader(response_timeout: Duration) -> (MetricsServer, TcpStream) {
    let registry = Registry::new();
    let help = "x".repeat(8 << 20);
    let counter = IntCounter::new("readings_total", help).unwrap();
    registry.register(Box::new(counter)).unwrap();
    let server = MetricsServer::builder(registry)
        .max_connections(1)
        .response_timeout(response_timeout)
        .bind(ANY)
        .unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket
        .connect(&server.local_addr().unwrap().into())
        .unwrap();
    let mut reader = TcpStream::from(socket);
    reader.set_read_timeout(Some(LIMIT)).unwrap();
    reader.write_all(REQUEST).unwrap();
    let mut begin = [0; 12];
    reader.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200");
    (server, reader)
}

const OTHER: &[u8] = b"GET /other HTTP/1.1\r\nHost: device\r\n\r\n";

#[test]
fn stalled_reader_is_dropped_after_response_timeout() {
    // Long enough to render the metrics on a busy machine.
    const TIMEOUT: Duration = Duration::from_secs(3);
    let started = Instant::now();
    let (server, reader) = stalled_reader(TIMEOUT);
    // No other connection needs the place.
    let error = eventually(LIMIT, "the connection is reset", || {
        reader.take_error().unwrap()
    });
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let took = started.elapsed();
    assert!(took >= TIMEOUT, "{took:?}");
    assert_eq!(status(&sent(server.local_addr().unwrap(), OTHER)), "404");
}

#[test]
fn stalled_reader_is_evicted_for_new_connection() {
    /// Time within which a reader must read to keep its place.
    const STALLED: Duration = Duration::from_millis(500);
    let started = Instant::now();
    let (server, reader) = stalled_reader(Duration::from_secs(3600));
    let address = server.local_addr().unwrap();
    let first = sent(address, OTHER);
    // On a busy machine that time may have passed.
    assert!(
        status(&first) == "503" || started.elapsed() > STALLED,
        "{first}"
    );
    eventually(LIMIT, "the place is free", || {
        (status(&sent(address, OTHER)) == "404").then_some(())
    });
    let error = eventually(LIMIT, "it is reset", || reader.take_error().unwrap());
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn request_content_is_never_echoed() {
    const MARK: &str = "Zq7xKv2w";
    let server = builder()
        .max_head_bytes(512)
        .request_timeout(Duration::from_millis(200))
        .bind(ANY)
        .unwrap();
    let long = MARK.repeat(100);
    for (request, expected) in [
        (
            format!("GET /metrics?{MARK} HTTP/1.1\r\nX-{MARK}: {MARK}\r\n\r\n"),
            "200",
        ),
        (
            format!("GET /{MARK} HTTP/1.1\r\nHost: {MARK}\r\n\r\n"),
            "404",
        ),
        (
            format!("{MARK} /metrics HTTP/1.1\r\nHost: {MARK}\r\n\r\n"),
            "405",
        ),
        (format!("{MARK} {MARK} {MARK}\r\n\r\n"), "400"),
        (format!("GET /metrics HTTP/1.1\r\nHost: {MARK}\r\n"), "408"),
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), "431"),
    ] {
        let answer = sent(server.local_addr().unwrap(), request.as_bytes());
        assert_eq!(status(&answer), expected, "{request}");
        assert!(!answer.contains(MARK), "{answer}");
    }
}

#[test]
fn short_lived_connections_leave_server_serving() {
    let server = builder().max_connections(4).bind(ANY).unwrap();
    let address = server.local_addr().unwrap();
    for turn in 0..100 {
        let mut stream = connected(address);
        if turn % 2 == 0 {
            // Fails if the server has refused it already.
            let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n");
        }
    }
    eventually(LIMIT, "it still serves", || {
        let answer = sent(address, REQUEST);
        (status(&answer) == "200").then_some(())
    });
}
