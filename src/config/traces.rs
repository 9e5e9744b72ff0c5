//! Where traces go: the standard variables of OpenTelemetry, as far as this server follows them.
//!
//! What comes in: the environment. What goes out: [`Traces`], if they are wanted. What always holds: an empty variable is as one that is not set
//! (`empty_variables_are_as_unset_ones`); one that would be followed by another program and is not followed here is warned about, but only while traces are exported at all. Deliberately absent: metrics and
//! logs by the same way.

use super::parse::{ConfigError, Environment, Secret};
use super::report::Shown;
use super::unused::Warning;
use crate::error::inspect_str;
use hyper::header::{HeaderName, HeaderValue};

/// Exporting traces by OTLP (HTTP, protobuf).
#[derive(Clone, Debug)]
pub struct Traces {
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, or `OTEL_EXPORTER_OTLP_ENDPOINT` with `/v1/traces` behind it: where spans are posted to.
    pub endpoint: Secret,
    /// `OTEL_EXPORTER_OTLP_TRACES_HEADERS` or `OTEL_EXPORTER_OTLP_HEADERS`: sent with them.
    pub headers: Vec<(String, Secret)>,
    /// `OTEL_EXPORTER_OTLP_TRACES_TIMEOUT` or `OTEL_EXPORTER_OTLP_TIMEOUT`: how long a post may take.
    pub timeout_ms: u64,
    /// `OTEL_TRACES_SAMPLER` with `OTEL_TRACES_SAMPLER_ARG`.
    pub sampler: Sampler,
    /// Whether a caller's decision (`traceparent`) goes before that of the sampler.
    pub follows_parent: bool,
    /// `OTEL_SERVICE_NAME`.
    pub service_name: String,
    /// `OTEL_RESOURCE_ATTRIBUTES`, without the service's name.
    pub attributes: Vec<(String, String)>,
    /// `OTEL_BSP_SCHEDULE_DELAY`: longest time between two posts.
    pub period_ms: u64,
    /// `OTEL_BSP_MAX_QUEUE_SIZE`: spans that wait to be posted. Above: dropped and counted.
    pub waiting_max: u32,
    /// `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`: spans of one post.
    pub batch_max: u32,
}

/// Which traces are recorded.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Sampler {
    /// All.
    All,
    /// None.
    None,
    /// This part of them, 0 to 1.
    Part(f64),
}

impl Traces {
    pub(super) fn from_env(
        env: &Environment<'_>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Option<Self>, ConfigError> {
        // The standard: a variable that is empty is as one that is not set.
        let get = |name: &str| env.found(name).filter(|(text, _)| !text.is_empty());
        let standard = Environment::new(&get);
        let traces = Self::from_standard(&standard, warnings);
        env.adopt(standard.into_report());
        traces
    }

    fn from_standard(
        env: &Environment<'_>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Option<Self>, ConfigError> {
        let is_off = env.string("OTEL_SDK_DISABLED");
        // The standard: anything but `true` means false.
        let is_off = is_off.is_some_and(|off| off.trim().eq_ignore_ascii_case("true"));
        let exporters = env.string_or("OTEL_TRACES_EXPORTER", "none");
        let exporters: Vec<&str> = exporters.split(',').map(str::trim).collect();
        let others = exporters
            .iter()
            .any(|it| !matches!(*it, "otlp" | "none" | ""));
        if others && !is_off {
            warnings.push(OTHER_EXPORTER);
        }
        // All are read, so that a wrong value and a report of them do not depend on whether they count.
        let traces = Self {
            endpoint: endpoint(env)?,
            headers: headers(env)?,
            timeout_ms: env.integer_or_alias(
                "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
                "OTEL_EXPORTER_OTLP_TIMEOUT",
                10_000,
            )?,
            sampler: Sampler::All,
            follows_parent: true,
            service_name: String::new(),
            attributes: pairs(env, "OTEL_RESOURCE_ATTRIBUTES")?,
            period_ms: env.positive("OTEL_BSP_SCHEDULE_DELAY", 5000)?,
            waiting_max: env.positive("OTEL_BSP_MAX_QUEUE_SIZE", 2048)?,
            batch_max: env.positive("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)?,
        };
        let (sampler, follows_parent) = sampler(env, warnings)?;
        let traces = traces.named(env);
        if is_off || !exporters.contains(&"otlp") {
            return Ok(None);
        }
        warnings.extend(not_followed(env));
        Ok(Some(Self {
            sampler,
            follows_parent,
            ..traces
        }))
    }

    /// The service's name is an attribute as well; its own variable goes first.
    fn named(mut self, env: &Environment<'_>) -> Self {
        let is_name = |(key, _): &(String, String)| key == "service.name";
        let by_attribute = self.attributes.iter().find(|it| is_name(it));
        let by_attribute = by_attribute.map_or("realtime", |(_, name)| name.as_str());
        self.service_name = env.string_or("OTEL_SERVICE_NAME", by_attribute);
        self.attributes.retain(|attribute| !is_name(attribute));
        self
    }
}

const OTHER_EXPORTER: Warning = Warning {
    variable: "OTEL_TRACES_EXPORTER",
    reason: "of all exporters only otlp is there",
};

/// Variables that others follow, with the values that mean what is done here anyway.
const NOT_FOLLOWED: &[(&str, &[&str], &str)] = &[
    ("OTEL_EXPORTER_OTLP_PROTOCOL", &["http/protobuf"], PROTOCOL),
    (
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        &["http/protobuf"],
        PROTOCOL,
    ),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", &["none"], COMPRESSION),
    (
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
        &["none"],
        COMPRESSION,
    ),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", &[], CERTIFICATE),
    ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", &[], CERTIFICATE),
    ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &[], CERTIFICATE),
    ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &[], CERTIFICATE),
    (
        "OTEL_PROPAGATORS",
        &["tracecontext", "tracecontext,baggage", "none"],
        "the caller's trace is taken from traceparent alone",
    ),
    (
        "OTEL_BSP_EXPORT_TIMEOUT",
        &[],
        "OTEL_EXPORTER_OTLP_TIMEOUT bounds a post",
    ),
];
const PROTOCOL: &str = "spans go as http/protobuf";
const COMPRESSION: &str = "spans go uncompressed";
const CERTIFICATE: &str = "the system's certificates decide, and the server shows none of its own";

fn not_followed(env: &Environment<'_>) -> Vec<Warning> {
    let is_other = |name: &str, same: &[&str]| {
        env.raw(name)
            .is_some_and(|text| !text.is_empty() && !same.contains(&text.as_str()))
    };
    NOT_FOLLOWED
        .iter()
        .filter(|(name, same, _)| is_other(name, same))
        .map(|&(variable, _, reason)| Warning { variable, reason })
        .collect()
}

fn endpoint(env: &Environment<'_>) -> Result<Secret, ConfigError> {
    let (own, common) = (
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    );
    let _ = env.url(common);
    let (name, url) = match env.raw(own).filter(|url| !url.is_empty()) {
        Some(url) => (own, url),
        None => {
            let base = env.raw(common).filter(|url| !url.is_empty());
            let base = base.unwrap_or_else(|| "http://localhost:4318".to_owned());
            (common, format!("{}/v1/traces", base.trim_end_matches('/')))
        }
    };
    env.note(own, Shown::url(&url));
    let uri = url.parse::<hyper::Uri>().ok();
    let is_good = uri.is_some_and(|uri| {
        let host = uri.host().filter(|host| !host.is_empty());
        matches!(uri.scheme_str(), Some("http" | "https")) && host.is_some()
    });
    if is_good {
        Ok(Secret::new(url))
    } else {
        // The value is not repeated: credentials stand in some.
        Err(ConfigError(format!(
            "env {name} expected a URL with a host that begins with http:// or https://, got {} bytes that do not",
            env.raw(name).map_or(0, |text| text.len())
        )))
    }
}

fn headers(env: &Environment<'_>) -> Result<Vec<(String, Secret)>, ConfigError> {
    let (own, common) = (
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
        "OTEL_EXPORTER_OTLP_HEADERS",
    );
    let name = if env.raw(own).is_some() { own } else { common };
    let _ = (env.secret(own), env.secret(common));
    let text = env.raw(name).unwrap_or_default();
    let header = |(key, value): (String, String)| {
        let is_good =
            HeaderName::from_bytes(key.as_bytes()).is_ok() && HeaderValue::from_str(&value).is_ok();
        is_good.then(|| (key, Secret::new(value)))
    };
    split(&text)
        .and_then(|pairs| pairs.into_iter().map(header).collect())
        .ok_or_else(|| {
            ConfigError(format!(
                "env {name} expected headers such as a=b,c=d, got {} bytes that are none",
                text.len()
            ))
        })
}

fn pairs(env: &Environment<'_>, name: &str) -> Result<Vec<(String, String)>, ConfigError> {
    let text = env.string(name).unwrap_or_default();
    split(&text).ok_or_else(|| {
        let got = inspect_str(&text);
        ConfigError(format!(
            "env {name} expected pairs such as a=b,c=d, got {got}"
        ))
    })
}

/// Pairs as in the header `baggage`: percent-encoded where they have to be.
fn split(text: &str) -> Option<Vec<(String, String)>> {
    let items = text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty());
    items
        .map(|item| {
            let (key, value) = item.split_once('=')?;
            let key = decoded(key.trim());
            (!key.is_empty()).then(|| (key, decoded(value.trim())))
        })
        .collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let named = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match named.filter(|_| byte == b'%') {
            Some(named) => {
                bytes.push(named);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The sampler, and whether the caller's decision goes first.
fn sampler(
    env: &Environment<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<(Sampler, bool), ConfigError> {
    const NAME: &str = "OTEL_TRACES_SAMPLER";
    let part = part(env)?;
    let name = env.string_or(NAME, "parentbased_always_on");
    let (word, follows_parent) = match name.strip_prefix("parentbased_") {
        Some(word) => (word, true),
        None => (name.as_str(), false),
    };
    match word {
        "always_on" => Ok((Sampler::All, follows_parent)),
        "always_off" => Ok((Sampler::None, follows_parent)),
        "traceidratio" => Ok((Sampler::Part(part), follows_parent)),
        "jaeger_remote" | "xray" => {
            warnings.push(Warning {
                variable: NAME,
                reason: "nobody is asked what to sample; parentbased_always_on decides",
            });
            Ok((Sampler::All, true))
        }
        _ => Err(ConfigError(format!(
            "env {NAME} expected one of always_on, always_off, traceidratio, each also with parentbased_ before it, got {}",
            inspect_str(&name)
        ))),
    }
}

fn part(env: &Environment<'_>) -> Result<f64, ConfigError> {
    const NAME: &str = "OTEL_TRACES_SAMPLER_ARG";
    let Some(text) = env.string(NAME) else {
        return Ok(1.0);
    };
    let part = text.trim().parse::<f64>().ok();
    part.filter(|part| (0.0..=1.0).contains(part))
        .ok_or_else(|| {
            let got = inspect_str(&text);
            ConfigError(format!(
                "env {NAME} expected a number from 0 to 1, got {got}"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn read(variables: &[(&str, &str)]) -> Result<(Option<Traces>, Vec<&'static str>), String> {
        let get = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let (config, warnings) = Config::from_env(get).map_err(|error| error.to_string())?;
        let warned = warnings.iter().map(|warning| warning.variable).collect();
        Ok((config.traces, warned))
    }

    fn on(variables: &[(&str, &str)]) -> (Traces, Vec<&'static str>) {
        let exporter = [("OTEL_TRACES_EXPORTER", "otlp")];
        let (traces, warned) = read(&[&exporter, variables].concat()).expect("they are right");
        (traces.expect("they are on"), warned)
    }

    #[test]
    fn traces_are_exported_when_that_is_asked_for() {
        for off in [
            &[][..],
            &[("OTEL_TRACES_EXPORTER", "none")],
            &[
                ("OTEL_TRACES_EXPORTER", "otlp"),
                ("OTEL_SDK_DISABLED", "TRUE"),
            ],
            &[
                ("OTEL_SERVICE_NAME", "x"),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ],
        ] {
            let (traces, warned) = read(off).unwrap();
            assert!(traces.is_none(), "{off:?}");
            assert_eq!(warned, [""; 0]);
        }
        let (traces, warned) = on(&[]);
        assert_eq!(traces.endpoint.expose(), "http://localhost:4318/v1/traces");
        assert_eq!(
            (&*traces.service_name, traces.timeout_ms),
            ("realtime", 10_000)
        );
        assert_eq!(
            (traces.sampler, traces.follows_parent),
            (Sampler::All, true)
        );
        assert_eq!(
            (traces.period_ms, traces.waiting_max, traces.batch_max),
            (5000, 2048, 512)
        );
        assert_eq!(warned, [""; 0]);
    }

    #[test]
    fn variables_of_traces_go_before_common_ones() {
        let common = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c/base/");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://t/here");
        assert_eq!(
            on(&[common]).0.endpoint.expose(),
            "https://c/base/v1/traces"
        );
        assert_eq!(on(&[common, own]).0.endpoint.expose(), "https://t/here");
        let common = ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%2Cb, x=1=2");
        let headers = on(&[common]).0.headers;
        assert_eq!(
            headers[0],
            ("api-key".to_owned(), Secret::new("a,b".to_owned()))
        );
        assert_eq!(headers[1], ("x".to_owned(), Secret::new("1=2".to_owned())));
        let own = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "k=v");
        assert_eq!(on(&[common, own]).0.headers.len(), 1);
        let common = ("OTEL_EXPORTER_OTLP_TIMEOUT", "7");
        assert_eq!(on(&[common]).0.timeout_ms, 7);
        assert_eq!(
            on(&[common, ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "8")])
                .0
                .timeout_ms,
            8
        );
    }

    #[test]
    fn empty_variables_are_as_unset_ones() {
        let names = [
            "OTEL_SDK_DISABLED",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
            "OTEL_EXPORTER_OTLP_TIMEOUT",
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
            "OTEL_TRACES_SAMPLER",
            "OTEL_TRACES_SAMPLER_ARG",
            "OTEL_SERVICE_NAME",
            "OTEL_RESOURCE_ATTRIBUTES",
            "OTEL_BSP_SCHEDULE_DELAY",
            "OTEL_BSP_MAX_QUEUE_SIZE",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
            "OTEL_PROPAGATORS",
        ];
        let empty: Vec<_> = names.iter().map(|name| (*name, "")).collect();
        assert_eq!(format!("{:?}", on(&empty)), format!("{:?}", on(&[])));
        // The empty variable of traces does not hide the common one.
        let mut both = empty.clone();
        both.push(("OTEL_EXPORTER_OTLP_HEADERS", "k=v"));
        assert_eq!(on(&both).0.headers.len(), 1);
        assert!(read(&[("OTEL_TRACES_EXPORTER", "")]).unwrap().0.is_none());
    }

    #[test]
    fn the_service_has_one_name() {
        let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,zone=x%20y");
        let (traces, _) = on(&[attributes]);
        assert_eq!(traces.service_name, "a");
        assert_eq!(traces.attributes, [("zone".to_owned(), "x y".to_owned())]);
        assert_eq!(
            on(&[attributes, ("OTEL_SERVICE_NAME", "b")]).0.service_name,
            "b"
        );
    }

    #[test]
    fn samplers_are_those_of_the_standard() {
        let check = |name: &str, argument: &str, expected: (Sampler, bool)| {
            let variables = [
                ("OTEL_TRACES_SAMPLER", name),
                ("OTEL_TRACES_SAMPLER_ARG", argument),
            ];
            let (traces, _) = on(&variables);
            assert_eq!((traces.sampler, traces.follows_parent), expected, "{name}");
        };
        check("always_on", "1", (Sampler::All, false));
        check("always_off", "1", (Sampler::None, false));
        check("traceidratio", "0.25", (Sampler::Part(0.25), false));
        check("parentbased_always_off", "1", (Sampler::None, true));
        check("parentbased_traceidratio", "0", (Sampler::Part(0.0), true));
        check("parentbased_jaeger_remote", "1", (Sampler::All, true));
    }

    #[test]
    fn what_is_not_followed_is_warned_about() {
        let check = |name, value, expected: &[&str]| {
            assert_eq!(on(&[(name, value)]).1, expected, "{name}={value}");
        };
        let protocol = "OTEL_EXPORTER_OTLP_PROTOCOL";
        check(protocol, "grpc", &[protocol]);
        check(protocol, "http/protobuf", &[]);
        check("OTEL_TRACES_SAMPLER", "xray", &["OTEL_TRACES_SAMPLER"]);
        check("OTEL_PROPAGATORS", "b3", &["OTEL_PROPAGATORS"]);
        check("OTEL_METRICS_EXPORTER", "otlp", &["OTEL_METRICS_EXPORTER"]);
        let (traces, warned) = read(&[("OTEL_TRACES_EXPORTER", "zipkin")]).unwrap();
        assert!(
            traces.is_none() && warned == ["OTEL_TRACES_EXPORTER"],
            "{warned:?}"
        );
    }

    #[test]
    fn wrong_values_are_named_without_what_may_be_secret() {
        let check = |name: &str, value: &str, expected: &str| {
            let error = read(&[(name, value)]).expect_err(name);
            assert!(
                error.starts_with(&format!("env {name} expected ")),
                "{error}"
            );
            assert!(error.ends_with(expected), "{error}");
        };
        check(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "host:4317",
            "got 9 bytes that do not",
        );
        check(
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "http://",
            "got 7 bytes that do not",
        );
        check(
            "OTEL_EXPORTER_OTLP_HEADERS",
            "secret",
            "got 6 bytes that are none",
        );
        check(
            "OTEL_EXPORTER_OTLP_HEADERS",
            "a b=secret",
            "got 10 bytes that are none",
        );
        check(
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
            "a=sec%0Aret",
            "got 11 bytes that are none",
        );
        check(
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "http://a b/",
            "got 11 bytes that do not",
        );
        check(
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "http://me:pw@/",
            "got 14 bytes that do not",
        );
        check("OTEL_RESOURCE_ATTRIBUTES", "=x", "got \"=x\"");
        check("OTEL_TRACES_SAMPLER", "some", "got \"some\"");
        check("OTEL_TRACES_SAMPLER_ARG", "1.5", "from 0 to 1, got \"1.5\"");
        check("OTEL_BSP_SCHEDULE_DELAY", "0", "got \"0\"");
    }
}
