//! Spans arrive at an OTLP receiver as the conventions of OpenTelemetry for databases have them, with the layer of the example.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{
    Instrumented, MemoryPersistence, Persistence, PersistenceMetrics, RedisPersistence, Store,
    prometheus::Registry,
};
use prost::Message;
use testkit::{Mosquitto, RedisServer, child};
use tiny_http::{Response, Server};
use tracing_subscriber::layer::SubscriberExt;

#[expect(dead_code, reason = "its main runs as a program of its own")]
#[path = "../../examples/opentelemetry.rs"]
mod example;

const PAGE: &str = include_str!("../../docs/opentelemetry.md");
const CLIENT: &str = "device";
const BROKER: &str = "127.0.0.1:1883";

/// Takes traces by OTLP over HTTP, as a collector does, until the process ends.
struct Receiver {
    url: String,
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

impl Receiver {
    fn start() -> Self {
        let server = Server::http("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", server.server_addr());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let received = Arc::clone(&requests);
        thread::spawn(move || {
            for mut request in server.incoming_requests() {
                let is_typed = request.headers().iter().any(|header| {
                    header.field.equiv("Content-Type") && header.value == "application/x-protobuf"
                });
                let mut body = Vec::new();
                let is_read = request.as_reader().read_to_end(&mut body).is_ok();
                let traces = ExportTraceServiceRequest::decode(&body[..]);
                let status = match traces {
                    Ok(traces) if is_typed && is_read && request.url() == "/v1/traces" => {
                        received.lock().unwrap().push(traces);
                        200
                    }
                    _ => 400,
                };
                // Fails if the program is gone.
                let _ = request.respond(Response::empty(status));
            }
        });
        Self { url, requests }
    }

    /// Returns all spans, and the attributes of the programs that sent them.
    fn received(&self) -> (Vec<Span>, Vec<Attributes>) {
        let requests = std::mem::take(&mut *self.requests.lock().unwrap());
        let programs = requests.into_iter().flat_map(|it| it.resource_spans);
        let (mut spans, mut resources) = (Vec::new(), Vec::new());
        for program in programs {
            resources.push(attributes(
                &program.resource.expect("a resource").attributes,
            ));
            spans.extend(program.scope_spans.into_iter().flat_map(|it| it.spans));
        }
        (spans, resources)
    }
}

/// Attributes by name, the values as text or as a number.
type Attributes = BTreeMap<String, serde_json::Value>;

fn attributes(list: &[KeyValue]) -> Attributes {
    let value = |attribute: &KeyValue| {
        let value = attribute.value.clone().expect("a value").value;
        match value.expect("a value") {
            Value::StringValue(text) => text.into(),
            Value::IntValue(number) => number.into(),
            other => panic!("{}: {other:?}", attribute.key),
        }
    };
    list.iter().map(|it| (it.key.clone(), value(it))).collect()
}

/// Returns the spans that arrive of this work.
fn exported(work: impl FnOnce()) -> Vec<Span> {
    let receiver = Receiver::start();
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(example::PlainHttp)
        .with_endpoint(format!("{}/v1/traces", receiver.url));
    let provider = example::tracer_provider(exporter.build().expect("an exporter"));
    let subscriber = tracing_subscriber::registry().with(example::spans(&provider));
    tracing::subscriber::with_default(subscriber, work);
    provider.shutdown().expect("the spans are sent");
    receiver.received().0
}

fn measured<S: Store>(persistence: Persistence<S>) -> Instrumented<Persistence<S>> {
    let metrics = PersistenceMetrics::register(&Registry::new());
    persistence.instrument(&metrics.expect("a new registry"))
}

fn redis(url: &str) -> Instrumented<RedisPersistence> {
    let builder = RedisPersistence::builder().url(url);
    measured(builder.build().expect("valid options"))
}

/// Asserts that it is the span of a call, with exactly these attributes.
#[track_caller]
fn check(span: &Span, name: &str, expected: &serde_json::Value) {
    assert_eq!(span.name, name);
    assert_eq!(span.kind(), SpanKind::Client, "{name}");
    let found = serde_json::to_value(attributes(&span.attributes)).expect("JSON");
    assert_eq!(&found, expected, "{name}");
}

/// The status of a span, and its description.
fn status(span: &Span) -> (StatusCode, &str) {
    let status = span.status.as_ref().expect("a status");
    (status.code(), &status.message)
}

#[test]
fn redis_spans_follow_database_conventions() {
    let server = RedisServer::tcp();
    let port = server.port();
    let spans = exported(|| {
        let mut persistence = redis(&format!("redis://127.0.0.1:{port}/3"));
        persistence.open(CLIENT, BROKER).expect("opens");
        persistence.put("c-1", vec![b"abc", b"de"]).expect("put");
        persistence.remove("c-2").expect("removed");
        persistence.get("s-1").expect_err("there is none");
        persistence.put("foreign", vec![]).expect_err("no key");
        persistence.close().expect("closes");
    });
    let call = |operation: &str, outcome: &str, more: serde_json::Value| {
        let mut all = serde_json::json!({
            "db.system.name": "redis",
            "db.operation.name": operation,
            "db.namespace": "3",
            "server.address": "127.0.0.1",
            "server.port": port,
            "messaging.client.id": CLIENT,
            "outcome": outcome,
        });
        let serde_json::Value::Object(more) = more else {
            panic!("no object: {more}");
        };
        all.as_object_mut().expect("an object").extend(more);
        all
    };
    let [open, put, removed, missing, refused, close] = &spans[..] else {
        panic!("not one span per call: {spans:?}");
    };
    let name = |operation: &str| format!("{operation} 127.0.0.1:{port}");
    let none = || serde_json::json!({});
    check(open, &name("open"), &call("open", "ok", none()));
    let record =
        serde_json::json!({ "record.key": "c-1", "record.kind": "command", "record.bytes": 5 });
    check(put, &name("put"), &call("put", "ok", record));
    let record = serde_json::json!({ "record.key": "c-2", "record.kind": "command" });
    check(removed, &name("remove"), &call("remove", "miss", record));
    let record = serde_json::json!({
        "record.key": "s-1", "record.kind": "sent_publish", "error.type": "not_found",
    });
    check(missing, &name("get"), &call("get", "error", record));
    let record = serde_json::json!({
        "record.key": "foreign", "record.kind": "other", "record.bytes": 0, "error.type": "invalid_key",
    });
    check(refused, &name("put"), &call("put", "error", record));
    check(close, &name("close"), &call("close", "ok", none()));

    for span in [open, put, removed, close] {
        assert_eq!(status(span), (StatusCode::Unset, ""), "{span:?}");
    }
    for (span, text) in [
        (missing, "cannot read record s-1: "),
        (refused, "cannot write record \"foreign\": "),
    ] {
        let (code, message) = status(span);
        assert_eq!(code, StatusCode::Error, "{span:?}");
        assert!(message.starts_with(text), "{message}");
    }
}

#[test]
fn span_over_unix_socket_has_path_and_no_port() {
    let server = RedisServer::start();
    let url = server.url();
    let path = url.strip_prefix("unix://").expect("a Unix socket");
    let spans = exported(|| redis(&url).open(CLIENT, BROKER).expect("opens"));
    let open = attributes(&spans[0].attributes);
    assert_eq!(spans[0].name, format!("open {path}"));
    assert_eq!(open["server.address"], path);
    assert_eq!(open["db.namespace"], "0");
    assert_eq!(open.get("server.port"), None);
}

#[test]
fn span_without_server_is_named_by_operation() {
    let spans = exported(|| {
        let mut persistence = measured(MemoryPersistence::new());
        persistence.open(CLIENT, BROKER).expect("opens");
    });
    let expected = serde_json::json!({
        "db.system.name": "memory",
        "db.operation.name": "open",
        "messaging.client.id": CLIENT,
        "outcome": "ok",
    });
    check(&spans[0], "open", &expected);
}

#[test]
fn example_sends_spans_with_parents_to_receiver() {
    let (redis, broker, receiver) = (RedisServer::start(), Mosquitto::start(), Receiver::start());
    let output = Command::new(child::example("opentelemetry"))
        .args([broker.url(), redis.url()])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.url)
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{output:?}");
    let (spans, resources) = receiver.received();
    for resource in &resources {
        assert_eq!(resource["service.name"], "opentelemetry-example");
    }

    let (calls, readings): (Vec<_>, Vec<_>) = spans
        .iter()
        .partition(|span| span.kind() == SpanKind::Client);
    assert_eq!(readings.len(), 10);
    for reading in readings {
        assert_eq!(reading.name, "publish reading");
        assert!(reading.parent_span_id.is_empty(), "{reading:?}");
        let children = calls.iter().filter(|call| {
            call.parent_span_id == reading.span_id && call.trace_id == reading.trace_id
        });
        let children: Vec<_> = children.map(|call| attributes(&call.attributes)).collect();
        // Paho stores the message in the thread that publishes, and sends it in another.
        let [put] = &children[..] else {
            panic!("not one call: {children:?}");
        };
        assert_eq!(put["db.operation.name"], "put");
        assert_eq!(put["record.kind"], "command");
    }
    let roots = calls.iter().filter(|call| call.parent_span_id.is_empty());
    let roots: BTreeSet<_> = roots
        .map(|call| attributes(&call.attributes)["db.operation.name"].to_string())
        .collect();
    for operation in ["\"open\"", "\"remove\"", "\"close\""] {
        assert!(roots.contains(operation), "{operation} in {roots:?}");
    }
}

#[test]
fn opentelemetry_page_lists_each_attribute() {
    let server = RedisServer::tcp();
    let spans = exported(|| {
        let mut persistence = redis(&server.tcp_url());
        persistence.open(CLIENT, BROKER).expect("opens");
        persistence.put("foreign", vec![]).expect_err("no key");
    });
    let found: BTreeSet<String> = spans
        .iter()
        .flat_map(|span| attributes(&span.attributes).into_keys())
        .collect();
    let (_, table) = PAGE.split_once("| attribute |").expect("a table");
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let names = rows.filter_map(|row| row.split('`').nth(1).map(str::to_owned));
    assert_eq!(names.collect::<BTreeSet<_>>(), found);
}
