//! Each call is one span with its operation, store, client and outcome, and never with the content of a message.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
};

use paho_mqtt::{self as mqtt, ClientPersistence};
use paho_mqtt_redis::{Instrumented, MemoryPersistence, PersistenceMetrics, prometheus::Registry};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
};
use tracing_subscriber::{
    Layer, Registry as Spans, layer::Context, layer::SubscriberExt, registry::LookupSpan,
};

const CLIENT: &str = "device";
const SERVER: &str = "127.0.0.1:1883";
/// Payload that no text contains by chance.
const PAYLOAD: &str = "Zq7xKv2w";

/// Fields of a span or an event.
#[derive(Clone, Debug, Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Fields {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

/// Span or event.
#[derive(Clone, Debug)]
struct Entry {
    name: &'static str,
    target: String,
    level: Level,
    fields: Fields,
    /// Index of the span around an event.
    parent: Option<usize>,
}

#[derive(Debug, Default)]
struct Trace {
    spans: Vec<Entry>,
    events: Vec<Entry>,
    /// Number of spans that are not closed.
    open: usize,
}

/// Layer that records every span and event.
#[derive(Clone, Default)]
struct EventRecorder(Arc<Mutex<Trace>>);

/// Index of a span in its trace.
struct Position(usize);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for EventRecorder {
    fn on_new_span(
        &self,
        attributes: &span::Attributes<'_>,
        id: &span::Id,
        context: Context<'_, S>,
    ) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let metadata = attributes.metadata();
        let mut trace = self.0.lock().unwrap();
        let position = Position(trace.spans.len());
        context.span(id).unwrap().extensions_mut().insert(position);
        trace.open += 1;
        trace.spans.push(Entry {
            name: metadata.name(),
            target: metadata.target().to_owned(),
            level: *metadata.level(),
            fields,
            parent: None,
        });
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        let position = span.extensions().get::<Position>().unwrap().0;
        values.record(&mut self.0.lock().unwrap().spans[position].fields);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let parent = context
            .event_span(event)
            .and_then(|span| span.extensions().get::<Position>().map(|it| it.0));
        let metadata = event.metadata();
        self.0.lock().unwrap().events.push(Entry {
            name: metadata.name(),
            target: metadata.target().to_owned(),
            level: *metadata.level(),
            fields,
            parent,
        });
    }

    fn on_close(&self, _: span::Id, _: Context<'_, S>) {
        self.0.lock().unwrap().open -= 1;
    }
}

/// Returns the spans and events of `work`, up to that level.
fn trace(level: LevelFilter, work: impl FnOnce()) -> Trace {
    let recorder = EventRecorder::default();
    let subscriber = Spans::default().with(level).with(recorder.clone());
    tracing::subscriber::with_default(subscriber, work);
    std::mem::take(&mut recorder.0.lock().unwrap())
}

fn metrics() -> PersistenceMetrics {
    PersistenceMetrics::register(&Registry::new()).unwrap()
}

fn memory() -> Instrumented<MemoryPersistence> {
    MemoryPersistence::new().instrument(&metrics())
}

/// Asserts that it is a span of a call, with exactly the common fields and these; for an error, the description of its status is any.
#[track_caller]
fn check(span: &Entry, operation: &str, outcome: &str, further: &[(&'static str, &str)]) {
    assert_eq!(span.name, "persistence_call", "{span:?}");
    assert_eq!(span.target, "paho_mqtt_redis", "{span:?}");
    let level = if operation == "open" {
        Level::INFO
    } else {
        Level::DEBUG
    };
    assert_eq!(span.level, level, "{span:?}");
    let mut expected = BTreeMap::from([
        ("db.system.name", "memory"),
        ("db.operation.name", operation),
        ("messaging.client.id", CLIENT),
        ("outcome", outcome),
        ("otel.name", operation),
        ("otel.kind", "client"),
    ]);
    expected.extend(further.iter().copied());
    let mut fields: BTreeMap<_, _> = span
        .fields
        .0
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    if outcome == "error" {
        expected.insert("otel.status_code", "ERROR");
        let description = fields.remove("otel.status_description");
        assert!(
            description.is_some_and(|text| text.contains("cannot ")),
            "{span:?}"
        );
    }
    assert_eq!(fields, expected);
}

#[test]
fn each_call_is_one_span_with_its_outcome() {
    let trace = trace(LevelFilter::TRACE, || {
        let mut persistence = memory();
        persistence.open(CLIENT, SERVER).unwrap();
        persistence.put("c-1", vec![b"", b"abc", b"de"]).unwrap();
        persistence.put("s5-2", vec![]).unwrap();
        persistence.contains_key("c-1");
        persistence.remove("c-1").unwrap();
        persistence.remove("c-1").unwrap();
        persistence.keys().unwrap();
        persistence.clear().unwrap();
        persistence.close().unwrap();
    });
    let command = [("record.key", "c-1"), ("record.kind", "command")];
    let expected: [(_, _, &[_]); 9] = [
        ("open", "ok", &[]),
        (
            "put",
            "ok",
            &[command[0], command[1], ("record.bytes", "5")],
        ),
        (
            "put",
            "ok",
            &[
                ("record.key", "s5-2"),
                ("record.kind", "sent_publish"),
                ("record.bytes", "0"),
            ],
        ),
        ("contains_key", "ok", &command),
        ("remove", "ok", &command),
        ("remove", "miss", &command),
        ("keys", "ok", &[]),
        ("clear", "ok", &[]),
        ("close", "ok", &[]),
    ];
    assert_eq!(trace.spans.len(), expected.len());
    for (span, (operation, outcome, further)) in trace.spans.iter().zip(expected) {
        check(span, operation, outcome, further);
    }
    assert_eq!(trace.open, 0, "each span is closed");
}

#[test]
fn span_of_read_has_key_and_kind_of_record() {
    let trace = trace(LevelFilter::TRACE, || {
        let mut persistence = memory();
        persistence.open(CLIENT, SERVER).unwrap();
        for key in ["c-1", "s-1", "sc-1", "r-1", "q5-1"] {
            persistence.put(key, vec![b"abc"]).unwrap();
            persistence.get(key).unwrap();
        }
    });
    let gets: Vec<_> = trace
        .spans
        .iter()
        .filter(|span| span.fields.get("db.operation.name") == Some("get"))
        .collect();
    let expected = [
        ("c-1", "command"),
        ("s-1", "sent_publish"),
        ("sc-1", "sent_pubrel"),
        ("r-1", "received_publish"),
        ("q5-1", "undelivered"),
    ];
    assert_eq!(gets.len(), expected.len());
    for (span, (key, kind)) in gets.into_iter().zip(expected) {
        assert_eq!(span.fields.get("record.key"), Some(key));
        assert_eq!(span.fields.get("record.kind"), Some(kind));
        assert_eq!(span.fields.get("outcome"), Some("ok"));
        assert_eq!(span.fields.get("error.type"), None);
    }
}

#[test]
fn failed_call_has_error_type_and_its_log_in_span() {
    let trace = trace(LevelFilter::TRACE, || {
        let mut persistence = memory();
        persistence.open(CLIENT, SERVER).unwrap();
        persistence.put("foreign", vec![b"abc"]).unwrap_err();
        persistence.get("s-1").unwrap_err();
        persistence.close().unwrap();
        persistence.keys().unwrap_err();
    });
    let [_, put, get, _, keys] = &trace.spans[..] else {
        panic!("not one span per call: {trace:?}");
    };
    check(
        put,
        "put",
        "error",
        &[
            ("record.key", "foreign"),
            ("record.kind", "other"),
            ("record.bytes", "3"),
            ("error.type", "invalid_key"),
        ],
    );
    check(
        get,
        "get",
        "error",
        &[
            ("record.key", "s-1"),
            ("record.kind", "sent_publish"),
            ("error.type", "not_found"),
        ],
    );
    check(keys, "keys", "error", &[("error.type", "not_open")]);
    for (position, level, text) in [
        (1, Level::WARN, "foreign"),
        (2, Level::DEBUG, "no such record"),
        (4, Level::WARN, "not open"),
    ] {
        let event = trace
            .events
            .iter()
            .find(|event| event.parent == Some(position))
            .unwrap_or_else(|| panic!("no event in span {position}: {trace:?}"));
        assert_eq!(event.level, level, "{event:?}");
        let message = event.fields.get("message").unwrap();
        assert!(message.contains(text), "{message}");
    }
}

#[test]
fn failed_open_has_error_type_in_span() {
    let trace = trace(LevelFilter::INFO, || {
        memory().open("", SERVER).unwrap_err();
    });
    let [open] = &trace.spans[..] else {
        panic!("not one span: {trace:?}");
    };
    assert_eq!(open.level, Level::INFO);
    assert_eq!(open.fields.get("outcome"), Some("error"));
    assert_eq!(open.fields.get("error.type"), Some("invalid_client_id"));
    let event = &trace.events[0];
    assert_eq!((event.level, event.parent), (Level::ERROR, Some(0)));
}

#[test]
fn call_before_open_has_outcome_in_span() {
    let trace = trace(LevelFilter::TRACE, || {
        let mut persistence = memory();
        persistence.keys().unwrap_err();
        persistence.close().unwrap();
    });
    let [keys, close] = &trace.spans[..] else {
        panic!("not one span per call: {trace:?}");
    };
    assert_eq!(keys.fields.get("outcome"), Some("error"));
    assert_eq!(keys.fields.get("error.type"), Some("not_open"));
    assert_eq!(close.fields.get("outcome"), Some("ok"));
}

#[test]
fn span_names_store_and_client_of_persistence() {
    let trace = trace(LevelFilter::TRACE, || {
        let metrics = metrics();
        let mut custom =
            Instrumented::new(MemoryPersistence::new(), &metrics).client_label("label");
        custom.open("gateway", SERVER).unwrap();
    });
    let open = &trace.spans[0].fields;
    assert_eq!(open.get("db.system.name"), Some("custom"));
    // The label is for metrics only, where it limits the number of series.
    assert_eq!(open.get("messaging.client.id"), Some("gateway"));
}

/// Custom persistence, whose errors are not of this crate.
struct Broken;

impl ClientPersistence for Broken {
    fn open(&mut self, _: &str, _: &str) -> mqtt::Result<()> {
        Ok(())
    }

    fn close(&mut self) -> mqtt::Result<()> {
        Err(mqtt::Error::PersistenceError)
    }

    fn put(&mut self, _: &str, _: Vec<&[u8]>) -> mqtt::Result<()> {
        Err(mqtt::Error::PersistenceError)
    }

    fn get(&mut self, _: &str) -> mqtt::Result<Vec<u8>> {
        Err(mqtt::Error::PersistenceError)
    }

    fn remove(&mut self, _: &str) -> mqtt::Result<()> {
        Err(mqtt::Error::PersistenceError)
    }

    fn keys(&mut self) -> mqtt::Result<Vec<String>> {
        Err(mqtt::Error::PersistenceError)
    }

    fn clear(&mut self) -> mqtt::Result<()> {
        Err(mqtt::Error::PersistenceError)
    }

    fn contains_key(&mut self, _: &str) -> bool {
        false
    }
}

#[test]
fn error_of_custom_persistence_has_type_other() {
    let trace = trace(LevelFilter::TRACE, || {
        let mut persistence = Instrumented::new(Broken, &metrics());
        persistence.open(CLIENT, SERVER).unwrap();
        persistence.put("c-1", vec![]).unwrap_err();
        persistence.get("c-1").unwrap_err();
        persistence.remove("c-1").unwrap_err();
        persistence.keys().unwrap_err();
        persistence.clear().unwrap_err();
        persistence.close().unwrap_err();
    });
    assert_eq!(trace.spans.len(), 7);
    for span in &trace.spans[1..] {
        assert_eq!(span.fields.get("outcome"), Some("error"), "{span:?}");
        assert_eq!(span.fields.get("error.type"), Some("other"), "{span:?}");
    }
}

#[test]
fn payload_is_never_in_spans_or_events() {
    let payload = PAYLOAD.as_bytes();
    let trace = trace(LevelFilter::TRACE, || {
        let mut persistence = memory();
        // Before open, in parts, refused, read, overwritten, removed.
        persistence.put("c-1", vec![payload]).unwrap_err();
        persistence.open(CLIENT, SERVER).unwrap();
        persistence
            .put("c-1", vec![&payload[..3], &payload[3..]])
            .unwrap();
        persistence.put("foreign", vec![payload]).unwrap_err();
        persistence.get("c-1").unwrap();
        persistence.put("c-1", vec![payload, payload]).unwrap();
        persistence.keys().unwrap();
        persistence.remove("c-1").unwrap();
        persistence.close().unwrap();
        let mut broken = Instrumented::new(Broken, &metrics());
        broken.open(CLIENT, SERVER).unwrap();
        broken.put("c-1", vec![payload]).unwrap_err();
    });
    assert_eq!(trace.spans.len(), 11);
    assert!(!trace.events.is_empty());
    let everything = format!("{trace:?}");
    let listed = format!("{payload:?}");
    let hexadecimal = format!("{payload:02x?}").replace(['[', ']', ',', ' '], "");
    for form in [PAYLOAD, &PAYLOAD[..3], &PAYLOAD[3..], &hexadecimal] {
        assert!(!everything.contains(form), "{form}: {everything}");
    }
    // Without the brackets of the debug format.
    let listed = listed.trim_matches(['[', ']']);
    assert!(!everything.contains(listed), "{everything}");
}

#[test]
fn open_is_only_span_up_to_info() {
    let trace = trace(LevelFilter::INFO, || {
        let mut persistence = memory();
        persistence.open(CLIENT, SERVER).unwrap();
        persistence.put("c-1", vec![b"abc"]).unwrap();
        persistence.get("c-1").unwrap();
        persistence.contains_key("c-1");
        persistence.remove("c-1").unwrap();
        persistence.keys().unwrap();
        persistence.clear().unwrap();
        persistence.close().unwrap();
    });
    let [open] = &trace.spans[..] else {
        panic!("not only open: {trace:?}");
    };
    check(open, "open", "ok", &[]);
    // A successful open is the only event.
    let [event] = &trace.events[..] else {
        panic!("not one event: {trace:?}");
    };
    assert_eq!((event.level, event.parent), (Level::INFO, Some(0)));
    assert_eq!(event.fields.get("records"), Some("0"));
}
