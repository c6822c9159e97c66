//! Sends each call of the persistence as a span to an OpenTelemetry collector, by OTLP over HTTP.
//!
//! `cargo run --example opentelemetry [BROKER [REDIS]]`, by default `mqtt://127.0.0.1:1883 redis://127.0.0.1:6379/0`. The collector is
//! at `OTEL_EXPORTER_OTLP_ENDPOINT`, by default `http://localhost:4318`; `OTEL_TRACES_SAMPLER`, `OTEL_RESOURCE_ATTRIBUTES` and the other
//! variables of the SDK work too.

use std::{
    env,
    error::Error,
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

use async_trait::async_trait;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use paho_mqtt_redis::{PersistenceMetrics, Session, paho_mqtt as mqtt, prometheus::Registry};
use tracing::{Level, Subscriber, info_span};
use tracing_subscriber::{
    EnvFilter, Layer, filter::Targets, layer::SubscriberExt, registry, registry::LookupSpan,
    util::SubscriberInitExt,
};

fn main() -> Result<(), Box<dyn Error>> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(PlainHttp)
        .build()?;
    let provider = tracer_provider(exporter);
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_filter(EnvFilter::new("info,paho_mqtt_c=error"));
    registry().with(log).with(spans(&provider)).init();

    let published = publish();
    // Sends the spans that wait in memory.
    if let Err(error) = provider.shutdown() {
        eprintln!("the last spans are lost: {error}");
    }
    published
}

/// Publishes ten readings, each in a span of the program that is the parent of those of the persistence.
fn publish() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let broker = args.next().unwrap_or("mqtt://127.0.0.1:1883".to_owned());
    let redis = args.next().unwrap_or("redis://127.0.0.1:6379/0".to_owned());

    // The persistence has spans if it is measured.
    let metrics = PersistenceMetrics::register(&Registry::new())?;
    let client = Session::new("opentelemetry-example", broker)
        .redis_url(redis)
        .metrics(&metrics)
        .start()?;
    for number in 1..=10 {
        let _reading = info_span!("publish reading", number).entered();
        client.publish(mqtt::Message::new(
            "example/readings",
            number.to_string(),
            mqtt::QOS_1,
        ))?;
    }
    let stopped = client.stop(Duration::from_secs(5))?;
    println!(
        "{} acknowledged, {} wait in Redis",
        stopped.acknowledged, stopped.pending
    );
    Ok(())
}

/// Exports spans in batches, on a thread of its own: a call of Paho never waits for the collector. Spans are dropped if it cannot keep up.
pub(crate) fn tracer_provider(exporter: SpanExporter) -> SdkTracerProvider {
    let resource = Resource::builder().with_service_name("opentelemetry-example");
    SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build()
}

/// Makes spans for OpenTelemetry of those of the program and of all of the persistence.
pub(crate) fn spans<S>(provider: &SdkTracerProvider) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    // Without DEBUG there is a span for `open` only.
    let filter = Targets::new()
        .with_default(Level::INFO)
        .with_target("paho_mqtt_redis", Level::DEBUG);
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("opentelemetry-example"))
        .with_location(false)
        .with_target(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(filter)
}

/// A client for a collector on this device, without TLS. A program that has an HTTP client uses that, as with the feature
/// `reqwest-blocking-client` of `opentelemetry-otlp`.
#[derive(Debug)]
pub(crate) struct PlainHttp;

const TIMEOUT: Duration = Duration::from_secs(10);

#[async_trait]
impl HttpClient for PlainHttp {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let uri = request.uri();
        if uri.scheme_str() != Some("http") {
            return Err(format!("{uri}: this client has no TLS").into());
        }
        let host = uri.host().ok_or("no host")?;
        let address = (host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(80));
        let address = address.to_socket_addrs()?.next().ok_or("no address")?;
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;

        // With HTTP/1.0 the response ends with the connection.
        let mut message = format!("POST {} HTTP/1.0\r\nHost: {host}\r\n", uri.path()).into_bytes();
        for (name, value) in request.headers() {
            message.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        let length = request.body().len();
        message.extend(format!("Content-Length: {length}\r\n\r\n").bytes());
        stream.write_all(&message)?;
        stream.write_all(request.body())?;

        let mut response = Vec::new();
        stream.read_to_end(&mut response)?;
        let end = response
            .windows(4)
            .position(|bytes| bytes == b"\r\n\r\n")
            .ok_or("no HTTP response")?;
        let head = str::from_utf8(&response[..end])?;
        let status = head.split(' ').nth(1).ok_or("no status")?;
        let body = Bytes::copy_from_slice(&response[end + 4..]);
        Ok(Response::builder().status(status).body(body)?)
    }
}
