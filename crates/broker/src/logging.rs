//! Log lines of a broker process: one JSON object per line on stderr (broker spec §6.5). Secrets never reach it,
//! because no secret type can be written as a field.

use std::fmt;

use claudemesh_core::clock::Clock as _;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::reload;

use crate::clock::SystemClock;
use crate::settings::LogFormat;

/// Changes the level of a running process.
#[derive(Clone)]
pub struct LevelHandle(reload::Handle<EnvFilter, Registry>);

impl LevelHandle {
    /// Sets a level that the settings have checked.
    pub fn set(&self, level: &str) {
        if self.0.reload(filter(level)).is_err() {
            tracing::warn!("the log level could not be changed");
        }
    }
}

/// The subscriber of a broker process, writing to `writer`, and the handle on its level.
pub fn subscriber<W>(
    level: &str,
    format: LogFormat,
    writer: W,
) -> (Box<dyn Subscriber + Send + Sync>, LevelHandle)
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(filter(level));
    let base = tracing_subscriber::registry().with(filter);
    let lines: Box<dyn Subscriber + Send + Sync> = match format {
        LogFormat::Json => {
            let layer = tracing_subscriber::fmt::layer()
                .fmt_fields(JsonFields::new())
                .event_format(JsonLine)
                .with_writer(writer);
            Box::new(base.with(layer.boxed()))
        }
        LogFormat::Text => {
            let layer = tracing_subscriber::fmt::layer().with_target(false).with_writer(writer);
            Box::new(base.with(layer.boxed()))
        }
    };
    (lines, LevelHandle(handle))
}

/// Our own crates at `level`; libraries only when something is wrong (the database driver writes statements at debug).
fn filter(level: &str) -> EnvFilter {
    EnvFilter::new(format!(
        "warn,claudemesh={level},claudemesh_broker={level},claudemesh_store={level},claudemesh_sqlite={level}"
    ))
}

/// `{"ts", "level", "component", "msg", …fields of the event and its spans}`.
struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Map::new();
        line.insert("ts".to_owned(), Value::from(SystemClock.now().to_iso()));
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        line.insert("level".to_owned(), Value::from(level));
        line.insert("component".to_owned(), Value::from("broker"));
        line.insert("msg".to_owned(), Value::from(""));
        for span in
            ctx.event_scope().into_iter().flat_map(tracing_subscriber::registry::Scope::from_root)
        {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<N>>();
            let fields =
                fields.and_then(|fields| serde_json::from_str::<Map<String, Value>>(fields).ok());
            line.extend(fields.unwrap_or_default());
        }
        event.record(&mut Collect(&mut line));
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// Collects the fields of an event.
struct Collect<'a>(&'a mut Map<String, Value>);

impl Collect<'_> {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        let name = if field.name() == "message" { "msg" } else { field.name() };
        self.0.insert(name.to_owned(), value.into());
    }
}

impl Visit for Collect<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_one_object_with_the_fields_of_its_spans() {
        let lines = Lines::default();
        let sink = lines.clone();
        let (subscriber, level) = subscriber("info", LogFormat::Json, move || sink.clone());
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::info_span!("request", request_id = "r1").entered();
            tracing::debug!("hidden");
            tracing::info!(status = 200, route = "/health", "request");
            level.set("debug");
            tracing::debug!("shown");
        });
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        let objects: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(objects.len(), 2, "{text}");
        let first = &objects[0];
        assert_eq!(
            (&first["level"], &first["component"], &first["msg"]),
            (&"info".into(), &"broker".into(), &"request".into())
        );
        assert_eq!((&first["status"], &first["request_id"]), (&200.into(), &"r1".into()));
        assert!(first["ts"].as_str().unwrap().ends_with('Z'));
    }
}
